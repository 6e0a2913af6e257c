"""The speed of steps: rounds in turn, a length of steps by the clock, and what a step comes to."""

from __future__ import annotations

import pytest
from stand_ins import MODEL, cell

from lowrank.experiment.build import build_model
from lowrank.experiment.expand import Timed
from lowrank.experiment.sections import FactorSpec, ModelSpec
from lowrank.factor.convert import parameter_count
from lowrank.jobs import speed
from lowrank.methods.base import select_targets


def low(fraction: float, **changes) -> FactorSpec:
    return FactorSpec(rank_fraction=fraction, rank_multiple=1, **changes)


SECONDS = {"dense": 0.125, "low": 0.5, "slow": 5.0}


@pytest.mark.filterwarnings("ignore:At their rank")
def test_each_round_gives_each_cell_its_steps_in_turn(invented_text, tmp_path, monkeypatch):
    """By a clock that each step moves on by what it takes: about a second of steps, one at least."""
    now, told, trainers = [7.0], [], {}

    def run_steps(trainer, until, watch):
        name = next(n for n, own in cells.items() if own.cell.factors == trainer.spec.factors)
        trainers[name] = trainer
        told.append((name, until - trainer.step))
        now[0] += SECONDS[name] * (until - trainer.step)
        trainer.step = until

    monkeypatch.setattr(speed, "run_steps", run_steps)
    monkeypatch.setattr(speed.time, "perf_counter", lambda: now[0])
    cells = {
        "dense": Timed(cell=cell()),
        "low": Timed(cell=cell("low", factors=low(0.5))),
        "slow": Timed(cell=cell("slow", factors=low(0.9))),
    }
    table = speed.measure_speed(list(cells.values()), invented_text, "cpu", rounds=2, seconds=1.0)
    steps = {"dense": 8, "low": 2, "slow": 1}
    warm = [("dense", 1), ("dense", 2), ("low", 1), ("low", 2), ("slow", 1)]
    assert told == [*warm, *steps.items(), *steps.items()]
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
    few = speed.measure_speed([cells["dense"]], invented_text, "cpu")
    assert told == [*warm[:2], *[("dense", 3)] * 5]  # 0.4 s are three steps, in five rounds
    assert few["seed"].tolist() == [0, 1, 2, 3, 4]


def test_a_share_of_the_parameters_gives_the_rank_fraction_of_all_layers():
    """Of width d, GPT-2's matrices are d x 3d, d x d, d x 4d and 4d x d, of 12 d^2 parameters; at the rank f d
    they have f (4 + 2 + 5 + 5) d^2."""
    spec = cell(factors=low(0.62)).runs({})[0]
    assert speed.rank_fraction_of(spec, 20, 0.62) == pytest.approx(0.62 * 12 / 16)
    mlp = spec.factors.model_copy(update={"layers": ("mlp",)})
    of_mlp = spec.model_copy(update={"factors": mlp})
    assert speed.rank_fraction_of(of_mlp, 20, 0.5) == pytest.approx(0.5 * 4 / 5)
    images = ModelSpec(family="wide_resnet", width=1, depth=10)
    factors = low(0.5, matricisation="spatial")
    convolutions = spec.model_copy(update={"model": images, "factors": factors})
    fraction = speed.rank_fraction_of(convolutions, 10, 0.5)
    factors = convolutions.factors.model_copy(update={"rank_fraction": fraction})
    dense, kept = (
        parameter_count(build_model(convolutions.model_copy(update={"factors": each}), 10))
        for each in (None, factors)
    )
    layers = build_model(convolutions.model_copy(update={"factors": None}), 10)
    names = [target.name for target in select_targets(layers, convolutions.model, factors)]
    whole = sum(layers.get_submodule(name).weight.numel() for name in names)
    assert (kept - (dense - whole)) / whole == pytest.approx(0.5, abs=0.02)


@pytest.mark.filterwarnings("ignore:At their rank")
def test_a_row_says_what_was_timed_and_models_of_one_width_take_turns(invented_text):
    def sized(width: int, arm: str, **changes) -> Timed:
        model = MODEL.model_copy(update={"width": width})
        kept = changes.pop("kept", None)
        return Timed(cell=cell(arm, model=model, **changes), kept=kept)

    timed = [
        sized(8, "dense"),
        sized(16, "dense-w16"),
        sized(8, "kept", factors=low(0.5), kept=0.5),
        sized(16, "low-w16", factors=low(0.5)),
    ]
    table = speed.measure_speed(timed, invented_text, "cpu", rounds=2, seconds=1e-6)
    names = ["dense", "kept", "dense", "kept", "dense-w16", "low-w16", "dense-w16", "low-w16"]
    assert table["arm"].tolist() == names
    assert table["width"].tolist() == [8] * 4 + [16] * 4
    rows = table.drop_duplicates("arm").set_index("arm")
    assert rows.loc["kept", "rank_fraction"] == 0.375 and rows.loc["kept", "kept_share"] == 0.5
    assert rows.loc["low-w16", "rank_fraction"] == 0.5
    assert rows.loc[["dense", "dense-w16"], "kept_parameters"].tolist() == [1, 1]
    assert (rows.loc[["kept", "low-w16"], "kept_parameters"].between(0.5, 0.99)).all()
    assert table["processor"].nunique() == 1 and table["processor"].iloc[0]
