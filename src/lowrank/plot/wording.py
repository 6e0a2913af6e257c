"""Contrasts of the claims in words: what sets their sides apart, and what tells them from each other."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pandas as pd

from lowrank import escape
from lowrank.analysis import evidence
from lowrank.analysis.ledger import PLACEHOLDER
from lowrank.plot.arms import INITS, in_words
from lowrank.plot.results import records

WORDS = {
    "frobenius": "Frobenius",
    "l2": "L2",
    "plain": "SVD",
    "fisher": "Fisher",
    "pretrained": "pre-trained",
}
"""Values of facts in words, beside those of initialisations."""
FOUND = {"rank_fraction": "rank {:.3g}", "width": "width {:g}", "pretraining": "switch {:g}"}
"""Numbers that contrasts of one test differ in, in the words of a line's label."""
LONGEST = 30
"""Letters of a line's label, beside which a panel has to find its room."""
ALONE = {"half rate": "chosen rate", "pre-trained": "from scratch"}
"""What the other side of a contrast is called that lacks such a fact."""


def sides(row: Mapping[str, Any]) -> str:
    """`spectral ones − spectral`: what sets the two sides of a row's test apart, in words."""
    arm, reference = (json.loads(row[f"{side}_asked"]) for side in ("arm", "reference"))
    if reference["table"] == "posthoc":
        return "trained − truncated"
    first, second = _given(arm), _given(reference)
    against = json.loads(row["against_asked"])
    if against:
        within = [word for word in first if word in second and word not in _given(against[0])]
        own = sides({**row, "against_asked": "[]"})
        return f"({own}) {' '.join(within)} − {ALONE.get(' '.join(within), 'without')}"
    apart = [
        [word for word in side if word not in other]
        for side, other in ((first, second), (second, first))
    ]
    a, b = (" ".join(side) for side in apart)
    return escape.label(f"{a or ALONE.get(b, 'without')} − {b or ALONE.get(a, 'without')}")


def _given(facts: dict[str, Any]) -> list[str]:
    """The facts that a test gives, in words: not those that it asks for any value of, nor how one was found."""
    return [
        _in_words(fact, value)
        for fact, value in facts.items()
        if fact not in ("table", "swept") and not PLACEHOLDER.fullmatch(str(value))
    ]


def _in_words(fact: str, value: Any) -> str:
    if fact == "rate_factor":
        return "half rate" if value == 0.5 else f"rate × {value:g}"
    if fact in FOUND:
        return FOUND[fact].format(value)
    if isinstance(value, str):
        return WORDS.get(value, in_words(value, INITS))
    return f"{fact.replace('_', ' ')} {value}"


def labels(panel: pd.DataFrame) -> list[str]:
    """What tells the contrasts of a panel apart: what their tests give, where there are several, and what
    was found in place of placeholders."""
    asked = [_given(json.loads(text)) for text in panel["arm_asked"]]
    shared = set.intersection(*map(set, asked))
    found = [
        evidence.facts(row, "reference") | evidence.facts(row, "arm") for row in records(panel)
    ]
    one_width = len({facts.get("width") for facts in found}) == 1
    processors = {str(facts["processor"]) for facts in found if facts.get("processor")}
    lines, names = [], []
    for row, given, facts in zip(records(panel), asked, found, strict=True):
        words_ = [word for word in given if word not in shared]
        if "method" in facts and evidence.facts(row, "reference")["table"] == "posthoc":
            words_.append(_in_words("method", facts["method"]))
        for fact in FOUND:
            if not (fact == "width" and one_width) and isinstance(facts.get(fact), float | int):
                words_.append(_in_words(fact, facts[fact]))
        processor = [str(facts.get("processor"))] if len(processors) > 1 else []
        words_ += processor
        if facts.get("decay_coupled") == 1:
            words_.append("coupled")
        lines.append(", ".join(words_) or str(row.arm))
        names.append(", ".join([str(row.arm), *processor]))
    told = [
        name if lines.count(line) > 1 else line for line, name in zip(lines, names, strict=True)
    ]
    cut = [line if len(line) <= LONGEST else f"…{line[1 - LONGEST :]}" for line in told]
    return [escape.label(line) for line in (cut if len(set(cut)) == len(cut) else told)]
