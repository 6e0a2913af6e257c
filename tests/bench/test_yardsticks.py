"""What the bench compares is comparable: same sizes, same products, and turns that are taken."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))

import floors
import tables
import timing
import yardsticks

from lowrank.experiment.sections import ModelSpec
from lowrank.models import family

SIZE = yardsticks.Size(width=32, depth=2, heads=2, context=8, tokens=20, batch=2)


def ours() -> nn.Module:
    torch.manual_seed(0)
    return family("gpt2").build(ModelSpec(family="gpt2", width=32, depth=2, heads=2, context=8), 20)


def test_the_lean_model_is_gpt2_parameter_for_parameter():
    model, lean = ours(), yardsticks.Lean(SIZE, "tanh")
    shapes = [tuple(p.shape) for p in lean.parameters()]
    assert len(shapes) == len(list(model.parameters()))
    assert sum(p.numel() for p in lean.parameters()) == sum(p.numel() for p in model.parameters())
    values = {n.removeprefix("transformer."): p for n, p in model.state_dict().items()}
    values = {
        n.replace("mlp.c_fc", "mlp.0").replace("mlp.c_proj", "mlp.2"): p for n, p in values.items()
    }
    lean.load_state_dict(
        {n: p.T if n.endswith(("attn.weight", "proj.weight", "0.weight", "2.weight")) else p
         for n, p in values.items()}
    )  # fmt: skip
    tokens = torch.randint(20, (2, 9))
    torch.testing.assert_close(
        lean(tokens[:, :-1], tokens[:, 1:]), model(tokens[:, :-1], tokens[:, 1:])
    )


@pytest.mark.parametrize("build", [yardsticks.lean, yardsticks.transformers_stock])
def test_a_step_of_others_moves_their_weights(build, monkeypatch):
    moved = []
    monkeypatch.setattr(
        yardsticks, "_update", lambda optimizer, parameters: moved.extend(parameters)
    )
    build(SIZE)()
    assert moved and all(parameter.grad is not None for parameter in moved)


def test_the_floor_has_three_products_a_matrix_and_six_of_attention_a_block(monkeypatch):
    run = []
    monkeypatch.setattr(floors, "_run", run.extend)
    floors.language_model(SIZE)()
    assert len(run) == 2 * (3 * 4 + 6) + 3
    run.clear()
    floors.language_model(SIZE, (4, 4, None, 4))()
    assert len(run) == 2 * (6 * 3 + 3 + 6) + 3


def test_a_slower_call_is_told_to_be_slower_in_this_process_and_in_another():
    timers = {"once": timing.here(work), "twice": timing.here(lambda: (work(), work()))}
    timers["elsewhere"] = timing.Elsewhere(worker)
    once, twice, elsewhere = timing.race(timers, 0.1)
    assert once.speed == 1
    assert 0.3 < twice.speed < 0.8 < elsewhere.milliseconds / once.milliseconds * 2


def work() -> None:
    a = torch.ones(200, 200)
    for _ in range(20):
        a = a @ a * 0.005


def worker():
    return work


def test_a_goal_that_is_missed_is_in_italics_and_what_was_not_measured_is_left_out():
    rows = [
        {"width": 64, "name": name, "speed": speed}
        for name, speed in (("dense", 1.0), (tables.NANO, 0.8), (tables.STOCK, 0.9))
    ]
    machine = {"device": "A", "capability": "AVX2"}
    table = tables.goals_table([{"machine": machine, "parts": {"language": {"rows": rows}}}])
    lines = {line.split(" | ")[0].strip("| "): line for line in table.splitlines()}
    assert lines["GPT-2 of width 64, times nanoGPT-like"].endswith("| ≥ 1.15 | 1.25 |")
    assert lines["GPT-2 of width 64, times that of transformers"].endswith("| ≥ 1.50 | *1.11* |")
    assert len(lines) == 2 + 2, "rows without a number on any machine are left out"

    other = {"machine": machine, "parts": {}}
    rows += [{"width": 64, "name": tables.TANH, "speed": 0.5}]
    both = [{"machine": machine, "parts": {"language": {"rows": rows}}}, other]
    assert "| ≥ 1.15 | 1.25 |  |" in tables.goals_table(both)
    chief = tables.goals_table(both, chief=True)
    assert "tanh" in tables.goals_table(both) and "tanh" not in chief
    assert chief.endswith("Of all 3 goals that were measured 1 are missed somewhere.")
