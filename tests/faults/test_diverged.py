"""Numbers that stop being finite: the run ends with its step and state, the pipeline goes on."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from faulty import DENSE, LOW, NAME, PRE, VALUES, Track
from safetensors.torch import load_file

from lowrank.experiment.build import build_model
from lowrank.files import read_json
from lowrank.parquet import read_table
from lowrank.train import checkpoint, probe
from lowrank.train.run import ensure_run
from lowrank.train.task import ImageTask


def diverging(tmp_path, **training) -> Track:
    """A track of two seeds with other training values, and `factors` among them."""
    values = copy.deepcopy(VALUES)
    section = values["tracks"][NAME]
    section["factors"] |= training.pop("factors", {})
    section["training"] |= {"checkpoint_every": 1000, **training}
    values["seeds"] = [0, 1]
    track = Track(tmp_path, values)
    track.begin()
    assert track.run(track.prepare()) == (0, "")
    return track


def run_all(track: Track) -> dict:
    """Run every job but the first; the collected tables."""
    for job in track.jobs()[1:]:
        assert track.run(job) == (0, ""), job[0]
    return {path.stem: read_table(path) for path in (track.root / "tables").glob("*.parquet")}


def test_a_pipeline_in_which_everything_diverges_says_so_in_its_tables(tmp_path):
    tables = run_all(diverging(tmp_path, learning_rate=1e30, clip=None, warmup=0.0))
    runs = tables["runs"]
    assert len(runs) == 6 and runs["diverged"].all()
    assert runs["diverged_at"].between(1, 6).all()
    assert "validation_loss" not in runs or runs["validation_loss"].isna().all()
    assert "test_loss" not in runs or runs["test_loss"].isna().all()
    for name in ("interpolation", "barriers", "posthoc"):
        assert len(tables[name]) == 0


def test_diverged_low_rank_runs_leave_the_dense_ones_alone(tmp_path):
    """A decay of the factors so strong that only they diverge."""
    decay = {"kind": "l2", "strength": 1e30}
    tables = run_all(diverging(tmp_path, learning_rate=0.05, factors={"decay": decay}))
    runs = tables["runs"].set_index(["arm", "seed"])
    assert not runs.loc[DENSE, "diverged"].any() and runs.loc[DENSE, "test_loss"].notna().all()
    assert runs.loc[LOW, "diverged"].all() and runs.loc[LOW, "test_loss"].isna().all()
    after = runs.loc[PRE]
    assert after["diverged"].all() and (after["diverged_at"] > 3).all()
    assert set(tables["interpolation"]["cell"]) == {f"{NAME}/dense-other-seed"}
    assert len(tables["posthoc"]) == 2
    assert set(tables["runs"].query("diverged")["cell"]) == {f"{NAME}/{LOW}", f"{NAME}/{PRE}"}


def test_a_run_whose_dense_part_diverged_is_marked_with_that_step(tmp_path):
    track = diverging(tmp_path, learning_rate=1e30, clip=None, warmup=0.0)
    spec = track.grid.cells[f"{NAME}/{PRE}"].runs({})[0]
    data, cache = tmp_path / "data" / NAME, tmp_path / "runs"
    run = ensure_run(spec, data, cache, "cpu")
    trunk = ensure_run(spec.trunk(), data, cache, "cpu")
    assert trunk.result["diverged_at"] <= spec.switch_step
    assert run.result["diverged"] and run.result["diverged_at"] == trunk.result["diverged_at"]
    assert run.result["parameters"] < trunk.result["parameters"]
    before = (trunk.folder / "manifest.json").stat().st_mtime_ns
    again = ensure_run(spec, data, cache, "cpu")
    assert again.result == run.result
    assert (trunk.folder / "manifest.json").stat().st_mtime_ns == before


def test_a_sweep_in_which_every_rate_diverged_is_one_sentence(tmp_path):
    track = diverging(tmp_path, clip=None, warmup=0.0)
    values = copy.deepcopy(VALUES)
    values["tracks"][NAME]["sweep"] = {"rates": [1e30, 1e32], "extend": 0}
    values["tracks"][NAME]["training"] |= {"clip": None, "warmup": 0.0}
    track = Track(tmp_path, values)
    track.begin()
    status, message = track.run(track.sweep(DENSE))
    assert status == 2
    assert message == (
        f"Error: {NAME}/{DENSE}: every learning rate of the sweep diverged; lower sweep.rates."
    )
    assert not (tmp_path / f"rates/{NAME}/{DENSE}.json").exists()


def test_a_sweep_with_one_diverged_rate_takes_another(tmp_path):
    values = copy.deepcopy(VALUES)
    values["tracks"][NAME]["sweep"] = {"rates": [0.05, 1e30], "extend": 0}
    values["tracks"][NAME]["training"] |= {"clip": None, "warmup": 0.0}
    track = Track(tmp_path, values)
    track.begin()
    for job in (track.prepare(), track.sweep(DENSE)):
        assert track.run(job) == (0, "")
    found = read_json(tmp_path / f"rates/{NAME}/{DENSE}.json")
    assert found["learning_rate"] == 0.05
    assert [row["validation_loss"] is None for row in found["rates"]] == [False, True]


@pytest.mark.parametrize("spoilt", ["loss", "gradient"])
def test_the_state_saved_is_the_one_before_the_step_that_was_not_finite(
    spoilt, whole, tmp_path, monkeypatch
):
    """Weights, batch-norm statistics and all equal those of a run stopped one step earlier."""
    track = diverging(tmp_path, learning_rate=0.05)
    spec = track.grid.cells[f"{NAME}/{LOW}"].runs({})[0]
    data = tmp_path / "data" / NAME
    ensure_run(spec, data, tmp_path / "stopped", "cpu", until=4)
    original, calls = ImageTask.loss, [0]

    def loss(task, model, batch):
        value = original(task, model, batch)
        if model.training:
            calls[0] += 1
            if calls[0] == 5:
                if spoilt == "loss":
                    return value * math.inf
                value.register_hook(lambda gradient: gradient * math.nan)
        return value

    monkeypatch.setattr(ImageTask, "loss", loss)
    run = ensure_run(spec, data, tmp_path / "diverged", "cpu")
    assert run.result["diverged"] and run.result["diverged_at"] == 5
    assert run.table("history")["step"].max() == 4
    saved = load_file(run.folder / "model.safetensors")
    folder = checkpoint.fork_path(tmp_path / "stopped" / run.folder.name, 4)
    before = load_file(folder / "model.safetensors")
    assert saved.keys() == before.keys()
    assert all(saved[name].equal(before[name]) for name in saved)


def test_a_validation_loss_that_is_not_finite_ends_the_run(tmp_path, monkeypatch):
    track = diverging(tmp_path, learning_rate=0.05)
    spec = track.grid.cells[f"{NAME}/{LOW}"].runs({})[0]
    original = ImageTask.evaluate

    def evaluate(task, *arguments):
        return original(task, *arguments) | {"loss": math.nan}

    monkeypatch.setattr(ImageTask, "evaluate", evaluate)
    run = ensure_run(spec, tmp_path / "data" / NAME, tmp_path / "runs", "cpu")
    assert run.result["diverged"] and run.result["diverged_at"] == 3
    assert run.result["validation_loss"] is None


def test_weights_that_are_not_finite_can_be_measured(whole):
    spec = whole.grid.cells[f"{NAME}/{LOW}"].runs({f"{NAME}/{LOW}": 0.1})[0]
    for changes in ({}, {"factors": None}):
        model = build_model(spec.model_copy(update=changes), 10)
        names = [n for n, m in model.named_modules() if type(m).__name__ == "FactorizedConv2d"][:2]
        if not names:
            names = [n for n, m in model.named_modules() if isinstance(m, torch.nn.Conv2d)][:2]
        before = probe.snapshot(model, names)
        with torch.no_grad():
            for parameter in model.get_submodule(names[0]).parameters():
                parameter.fill_(math.inf)
        rows = probe.measure(model, names, 0.1, before)
        assert math.isnan(rows[0]["effective_rank"]) and rows[0]["largest_possible_rank"] > 0
        assert math.isfinite(rows[1]["effective_rank"])
