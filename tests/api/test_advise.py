"""Timing layers dense and factorised."""

from __future__ import annotations

import time

import pytest
import torch
from torch import nn

from lowrank.api.advise import Advice, advise, table
from lowrank.api.advise_model import Whole, advise_model
from lowrank.api.advise_model import table as whole_table
from lowrank.api.advise_words import in_short
from lowrank.api.timing import Device, take_turns
from lowrank.errors import LowrankError


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(8, 32), nn.Linear(32, 32), nn.Linear(32, 32), nn.Linear(32, 16), nn.Linear(16, 4)
    )


def test_layers_alike_are_timed_once_with_the_inputs_they_get():
    net = model()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    found = advise(net, torch.randn(7, 8), turns=2, seconds=0.001)
    assert [advice.names for advice in found] == [("1", "2"), ("3",)]
    assert [advice.shape for advice in found] == [(32, 32), (16, 32)]
    assert [advice.inputs for advice in found] == [(7, 32), (7, 32)]
    assert set(found[0].speed) == {8, 16, 24} and set(found[1].speed) == {8, 16}
    assert all(ratio > 0 for advice in found for ratio in advice.speed.values())
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())
    assert "| 1 and 1 alike | Linear | 32 x 32 |" in table(found)
    assert "roofline" not in table(found)  # not measured: no column of it


def test_a_much_smaller_rank_of_a_large_layer_is_faster_and_found_to_be(monkeypatch):
    monkeypatch.setattr(time, "perf_counter", time.process_time)  # whatever else the machine does
    net = nn.Sequential(nn.Linear(8, 512), nn.Linear(512, 512), nn.Linear(512, 8))
    found = advise(net, torch.randn(256, 8), fractions=(0.125, 1.0), turns=5, seconds=0.01)
    assert found[0].speed[64] > 1.5 > found[0].speed[512]
    assert found[0].pays_up_to == 64


@pytest.mark.parametrize(
    ("speed", "rank"),
    [({8: 2.0, 16: 1.1, 24: 0.9}, 16), ({8: 0.9, 16: 1.2}, None), ({8: 1.0}, None), ({8: 1.01}, 8)],
)
def test_it_pays_up_to_the_last_rank_before_one_that_is_no_faster(speed, rank):
    advice = Advice(("a",), "Linear", (32, 96), (1, 96), 0.001, speed)
    assert advice.pays_up_to == rank
    assert advice.even_flops == 24


def test_every_function_has_its_turn_in_every_round():
    order: list[str] = []
    timed = {name: (lambda name=name: order.append(name)) for name in "ab"}
    taken = take_turns(timed, 3, 0.0, torch.device("cpu"))
    assert {name: len(figures) for name, figures in taken.items()} == {"a": 3, "b": 3}
    assert "".join(order[-6:]) == "ababab"


def test_a_batch_that_reaches_no_layer_is_refused():
    class Idle(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x):
            return x

    with pytest.raises(LowrankError, match="reaches none"):
        advise(Idle(), torch.zeros(1, 4))
    with pytest.raises(LowrankError, match="turns"):
        advise(model(), torch.zeros(1, 8), turns=0)


def test_the_roofline_stands_beside_the_clock():
    """By hand: 4 rows through 8 x 32, where only FLOPs count: even at 6.4; where only bytes do, dense reads
    4 x 32 + 8 x 32 + 4 x 8 numbers, and factors 4 x 32 + 32 r + 4 r and 4 r + 8 r + 4 x 8: even at 5.33."""
    net = nn.Sequential(nn.Linear(4, 32), nn.Linear(32, 8), nn.Linear(8, 4))
    for flops, bandwidth, least, even in (
        (1e9, 1e30, 3 * 2 * 4 * 8 * 32 / 1e9, 6),
        (1e30, 1e9, 3 * 4 * (4 * 32 + 8 * 32 + 4 * 8) / 1e9, 5),
    ):
        on = Device(torch.device("cpu"), torch.float32, flops, bandwidth)
        found = advise(net, torch.randn(4, 4), fractions=(1.0,), turns=1, seconds=0.0, on=on)
        assert found[0].least == pytest.approx(least) and found[0].even_roofline == even
        assert table(found).splitlines()[2].split()[-5:] == ["|", str(even), "|", "6", "|"]


def test_a_whole_model_is_timed_at_each_rank_and_stays_as_it_is():
    net = nn.Sequential(*(nn.Sequential(nn.Linear(32, 32), nn.ReLU()) for _ in range(2)))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    found = advise_model(net, torch.randn(4, 32), fractions=(0.25,), turns=2, seconds=0.0)
    assert [one.fraction for one in found] == [None, 0.25]
    assert [one.parameters for one in found] == [2 * (32 * 32 + 32), 2 * (2 * 8 * 32 + 32)]
    assert [one.state_bytes for one in found] == [16 * one.parameters for one in found]
    assert found[0].speed == 1 and found[1].speed > 0 and found[1].seconds > 0
    assert all(one.token_seconds is None and one.peak_bytes is None for one in found)
    assert whole_table(found).splitlines()[3].startswith("| 0.25  | 1,088      |")
    assert "token" not in whole_table(found)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())


def test_a_much_smaller_rank_makes_a_large_model_faster(monkeypatch):
    monkeypatch.setattr(time, "perf_counter", time.process_time)
    net = nn.Sequential(*(nn.Sequential(nn.Linear(768, 768), nn.ReLU()) for _ in range(2)))
    found = advise_model(net, torch.randn(64, 768), fractions=(0.03125,), turns=3, seconds=0.01)
    assert found[1].speed > 1.5


def test_a_model_that_writes_is_timed_as_it_writes():
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 16}
    special = {"vocab_size": 20, "bos_token_id": 0, "eos_token_id": 0}
    model = GPT2LMHeadModel(GPT2Config(**sizes, **special))
    batch = {"input_ids": torch.zeros((2, 4), dtype=torch.long)}
    found = advise_model(model, batch, fractions=(0.5,), turns=1, seconds=0.0)
    assert all(one.token_seconds > 0 and one.token_speed > 0 for one in found)
    assert found[0].token_speed == 1


def timed(speeds: dict[float | None, float], tokens: dict[float | None, float] | None = None):
    return [
        Whole(fraction, 10, 0.01, speed, 400 if fraction is None else int(400 * fraction), None)
        if tokens is None
        else Whole(fraction, 10, 0.01, speed, 400, None, 0.001, tokens[fraction])
        for fraction, speed in speeds.items()
    ]


def kind(name: str, speed: dict[int, float]) -> Advice:
    return Advice((name, "other"), "Linear", (32, 32), (1, 32), 0.001, speed)


def test_what_to_do_is_said_in_words():
    fast, slow = kind("fast", {8: 1.5, 16: 0.9}), kind("slow", {8: 0.9})
    speeds = {None: 1.0, 0.125: 1.5, 0.25: 1.004, 0.5: 0.8}
    told = " ".join(in_short([fast, slow], timed(speeds)))
    assert (
        "Training steps are faster than dense at rank 0.125 (1.50 times), not at 0.25, 0.5." in told
    )
    assert "Training state is 12% of dense at rank 0.125." in told
    assert (
        "Not faster, even at the lowest rank: slow and 1 alike; for speed leave them dense" in told
    )
    assert "Tokens" not in told
    told = in_short([fast, *(kind(f"slow{i}", {8: 0.9}) for i in range(6))], timed(speeds))[-1]
    assert "slow3 and 1 alike and 2 kinds more;" in told and "slow4" not in told
    told = " ".join(in_short([slow], timed({None: 1.0, 0.5: 1.0}, {None: 1.0, 0.5: 1.2})))
    assert "Training steps are faster than dense at no rank tried (0.5)." in told
    assert "Tokens, written one by one, are faster than dense at rank 0.5 (1.20 times)." in told
    assert "No rank tried saves memory. No layer by itself is faster" in told
    assert "Every layer is faster" in in_short([fast], timed({None: 1.0, 0.5: 1.2}))[-1]
