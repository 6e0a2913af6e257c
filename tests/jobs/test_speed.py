"""The speed of steps: rounds in turn, a length of steps by the clock, and what a step comes to."""

from __future__ import annotations

import pytest
from stand_ins import cell

from lowrank.experiment.sections import FactorSpec
from lowrank.factor.convert import parameter_count
from lowrank.jobs import speed

SECONDS = {"dense": 0.125, "low": 0.5, "slow": 5.0}


@pytest.mark.filterwarnings("ignore:At their rank")
def test_each_round_gives_each_cell_its_steps_in_turn(invented_text, tmp_path, monkeypatch):
    """By a clock that each step moves on by what it takes: about a second of steps, two at least."""
    now, told, trainers = [7.0], [], {}

    def run_steps(trainer, until, watch):
        name = next(n for n, own in cells.items() if own.factors == trainer.spec.factors)
        trainers[name] = trainer
        told.append((name, until - trainer.step))
        now[0] += SECONDS[name] * (until - trainer.step)
        trainer.step = until

    monkeypatch.setattr(speed, "run_steps", run_steps)
    monkeypatch.setattr(speed.time, "perf_counter", lambda: now[0])
    cells = {
        "dense": cell(),
        "low": cell("low", factors=FactorSpec(rank_fraction=0.5, rank_multiple=1)),
        "slow": cell("slow", factors=FactorSpec(rank_fraction=0.9, rank_multiple=1)),
    }
    table = speed.measure_speed(
        list(cells.values()), {}, invented_text, "cpu", rounds=2, seconds=1.0
    )
    steps = {"dense": 8, "low": 2, "slow": 2}
    assert told == [*((name, 3) for name in cells), *steps.items(), *steps.items()]
    assert table["cell"].tolist() == [f"language/{name}" for name in cells] * 2
    assert table["seed"].tolist() == [0] * 3 + [1] * 3
    assert set(table["track"]) == {"language"}
    assert table["step_seconds"].tolist() == list(SECONDS.values()) * 2
    # Four windows of eight tokens a step.
    assert table["positions_per_second"].tolist() == [4 * 8 / s for s in SECONDS.values()] * 2
    sizes = [parameter_count(trainers[name].model) for name in cells]
    assert table["state_bytes"].tolist() == [8 * size for size in sizes] * 2
    assert table["peak_memory_bytes"].isna().all()
    told.clear()
    few = speed.measure_speed([cells["dense"]], {}, invented_text, "cpu")
    assert told == [("dense", 3)] * 6  # 0.4 s are three steps, in five rounds
    assert few["seed"].tolist() == [0, 1, 2, 3, 4]
