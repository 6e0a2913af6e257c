"""Counted FLOPs are those of torch's own counter, and cost nothing to count at full size."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from lowrank.errors import LowrankError
from lowrank.factor.convert import factorize_model, parameter_count
from lowrank.factor.flops import forward_flops, layer_table

CONVS = {"3": 1.0, "5": 1.0, "7": 1.0}
above_break_even = pytest.mark.filterwarnings("ignore:At their rank")


def measured(model: nn.Module, *example: torch.Tensor) -> int:
    # The fused kernel for CPUs is one that torch's counter does not know: it would count nothing.
    math = sdpa_kernel(SDPBackend.MATH)
    with math, FlopCounterMode(display=False) as counter, torch.no_grad():
        model(*example)
    return counter.get_total_flops()


@above_break_even
@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_gpt2_counts_what_torch_counts_dense_and_factorised(gpt2, scales, tokens, implementation):
    gpt2.eval().set_attn_implementation(implementation)
    assert forward_flops(gpt2, tokens) == measured(gpt2, tokens)
    dense = forward_flops(gpt2, tokens)
    factorize_model(gpt2, scales(gpt2), rank_fraction=0.25, rank_multiple=1)
    assert forward_flops(gpt2, tokens) == measured(gpt2, tokens) < dense


def test_attention_adds_four_t_squared_d_a_sequence_and_block(gpt2, tokens):
    rows = {row["name"]: row for row in layer_table(gpt2, tokens)}
    batch, length = tokens.shape
    assert rows["transformer.h.1.attn"]["flops"] == batch * 4 * length**2 * 32


def test_convnet_counts_what_torch_counts(convnet, images):
    convnet.eval()
    assert forward_flops(convnet, images) == measured(convnet, images)


@above_break_even
@pytest.mark.parametrize("matricisation", ["channel", "spatial"])
@pytest.mark.parametrize("fraction", [0.3, 1.0])
def test_factorised_convnet_counts_what_torch_counts(convnet, images, matricisation, fraction):
    convnet.eval()
    factorize_model(
        convnet, CONVS, rank_fraction=fraction, rank_multiple=1, matricisation=matricisation
    )
    assert forward_flops(convnet, images) == measured(convnet, images)


def test_a_linear_layer_costs_two_flops_a_multiply_add():
    model = nn.Sequential(nn.Linear(40, 50))
    assert forward_flops(model, torch.ones(3, 7, 40)) == 2 * 21 * 40 * 50
    factorize_model(model, {"0": 1.0}, rank_fraction=0.25, rank_multiple=10)
    assert forward_flops(model, torch.ones(3, 7, 40)) == 2 * 21 * 10 * (40 + 50)


def test_a_layer_called_twice_counts_twice():
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(self.layer(x))

    assert forward_flops(Twice(), torch.ones(1, 4)) == 2 * 2 * 16


def test_the_papers_sizes_are_counted_on_the_meta_device(scales):
    from transformers import GPT2Config, GPT2LMHeadModel

    with torch.device("meta"):
        model = GPT2LMHeadModel(GPT2Config(n_embd=2560, n_layer=4, n_head=20, use_cache=False))
        example = torch.zeros(1, 256, dtype=torch.long)
    d, length = 2560, 256
    blocks = 4 * (2 * length * 12 * d * d + 4 * length**2 * d)
    assert forward_flops(model, example) == blocks + 2 * length * d * 50257
    factorize_model(model, scales(model), rank_fraction=0.25)
    rank = 640
    blocks = 4 * (2 * length * rank * (4 + 2 + 5 + 5) * d + 4 * length**2 * d)
    assert forward_flops(model, example) == blocks + 2 * length * d * 50257


@above_break_even
@pytest.mark.parametrize("matricisation", ["channel", "spatial"])
def test_meta_and_real_tensors_count_alike(convnet, images, matricisation):
    meta = copy.deepcopy(convnet).to("meta")
    for model in (convnet, meta):
        factorize_model(model, CONVS, rank_fraction=0.5, matricisation=matricisation)
    assert layer_table(meta, images.to("meta")) == layer_table(convnet, images)


def test_counting_changes_neither_mode_nor_statistics_nor_hooks(convnet, images):
    convnet.train()
    before = {name: value.clone() for name, value in convnet.state_dict().items()}
    forward_flops(convnet, images)
    assert convnet.training
    assert convnet[1].training
    assert all(torch.equal(value, before[name]) for name, value in convnet.state_dict().items())
    assert not any(module._forward_hooks for module in convnet.modules())


def test_the_table_adds_up_to_the_model(gpt2, scales, tokens):
    factorize_model(gpt2, scales(gpt2), rank_fraction=0.4, rank_multiple=1)
    rows = layer_table(gpt2, tokens)
    assert sum(row["parameters"] for row in rows) == parameter_count(gpt2)
    assert sum(row["flops"] for row in rows) == forward_flops(gpt2, tokens)
    assert len({row["name"] for row in rows}) == len(rows)
    head = next(row for row in rows if row["name"] == "lm_head")
    assert head["parameters"] == 0, "the tied weight counts at the embedding"
    assert head["flops"] > 0


def test_a_layer_without_a_formula_is_an_error_not_a_silent_zero():
    model = nn.Sequential(nn.Linear(4, 4), nn.Bilinear(4, 4, 2))
    with pytest.raises(LowrankError, match="Layer '1' is a Bilinear"):
        forward_flops(model, torch.ones(1, 4))
