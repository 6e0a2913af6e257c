"""Which layers a pattern names: by name, group or block, in the model's order, never none."""

from __future__ import annotations

import pytest

from lowrank.errors import LowrankError
from lowrank.models import Target, blocks, matching

TARGETS = [
    Target(f"h.{block}.{part}.{layer}", part, block)
    for block in (0, 1, 2)
    for part, layer in (("attention", "q"), ("attention", "o"), ("mlp", "up"))
]
FIRST, LAST = TARGETS[:3], TARGETS[-3:]


@pytest.mark.parametrize(
    ("patterns", "chosen"),
    [
        (["*"], TARGETS),
        (["mlp"], TARGETS[2::3]),
        (["first_block"], FIRST),
        (["last_block"], LAST),
        (["last_block", "first_block"], FIRST + LAST),
        (["h.1.*.q"], [TARGETS[3]]),
        (["h.?.attention.o", "attention"], [t for t in TARGETS if t.group == "attention"]),
        ([], []),
    ],
)
def test_patterns_choose_layers_once_in_the_models_order(patterns, chosen):
    assert matching(TARGETS, patterns, "layers") == chosen


@pytest.mark.parametrize("pattern", ["attn", "h.3.*", "MLP", "block", "h.0"])
def test_a_pattern_that_names_no_layer_is_an_error_that_lists_what_there_is(pattern):
    with pytest.raises(
        LowrankError, match=f"factors.dense_layers: '{pattern}' matches no layer"
    ) as e:
        matching(TARGETS, ["mlp", pattern], "dense_layers")
    assert "attention, mlp, h.0.attention.q" in str(e.value)


def test_a_block_is_named_by_what_its_layers_share():
    assert blocks(TARGETS) == ["h.0", "h.1", "h.2"]
    assert blocks([Target("body.0.conv", "conv", 0), Target("body.1", "conv", 1)]) == [
        "body.0",
        "body",
    ]
