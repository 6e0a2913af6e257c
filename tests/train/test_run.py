"""Runs: deterministic, resumable to the bit, forked from their trunk, honest when they diverge."""

from __future__ import annotations

import shutil

import pandas as pd
import pytest
from runs import FACTORS, PRETRAINING, RUNS, language_run
from safetensors.torch import load_file

from lowrank.errors import LowrankError
from lowrank.experiment.cell import Extension
from lowrank.files import sha256
from lowrank.train import checkpoint
from lowrank.train.build import choose_device
from lowrank.train.run import ensure_run
from lowrank.train.task import make_task
from lowrank.train.trainer import Trainer


def losses(run) -> list[float]:
    return run.table("history")["train_loss"].tolist()


def assert_equal_runs(a, b) -> None:
    """Weights, history and measurements agree to the bit; only clocks may differ."""
    left, right = (load_file(run.folder / "model.safetensors") for run in (a, b))
    assert left.keys() == right.keys()
    assert all(left[name].equal(right[name]) for name in left)
    for table in ("history", "layers", "spectra"):
        first, second = (r.table(table).drop(columns="seconds", errors="ignore") for r in (a, b))
        pd.testing.assert_frame_equal(first, second, check_exact=True)


@pytest.mark.parametrize("name", RUNS)
def test_two_runs_of_one_seed_are_identical_to_the_bit(name, folder_of, tmp_path):
    spec = RUNS[name]
    a, b = (ensure_run(spec, folder_of(spec), tmp_path / side, "cpu") for side in "ab")
    assert_equal_runs(a, b)


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("stop", [1, 4])
def test_a_resumed_run_equals_an_unbroken_one_to_the_bit(name, stop, folder_of, tmp_path):
    spec = RUNS[name]
    unbroken = ensure_run(spec, folder_of(spec), tmp_path / "unbroken", "cpu")
    stop = min(spec.training.steps - 1, stop + spec.switch_step)
    ensure_run(spec, folder_of(spec), tmp_path / "broken", "cpu", until=stop)
    folder = tmp_path / "broken" / unbroken.folder.name
    assert [step for step, _ in checkpoint.saved(folder)] == [stop]
    resumed = ensure_run(spec, folder_of(spec), tmp_path / "broken", "cpu")
    assert_equal_runs(unbroken, resumed)


def test_a_finished_run_is_found_and_not_trained_again(text_folder, tmp_path):
    first = ensure_run(RUNS["dense"], text_folder, tmp_path, "cpu")
    before = (first.folder / "manifest.json").stat().st_mtime_ns
    ensure_run(RUNS["dense"], text_folder, tmp_path, "cpu")
    assert (first.folder / "manifest.json").stat().st_mtime_ns == before


def test_seeds_see_other_data_and_other_weights(text_folder, tmp_path):
    a = ensure_run(RUNS["dense"], text_folder, tmp_path, "cpu")
    b = ensure_run(language_run(seed=1), text_folder, tmp_path, "cpu")
    assert losses(a) != losses(b)


def test_a_pretrained_run_forks_from_the_dense_run(text_folder, tmp_path):
    """Nobody trains the same dense steps twice: the dense cell leaves the checkpoint."""
    dense = ensure_run(language_run(), text_folder, tmp_path, "cpu", keep=[6])
    assert [path.name for _, path in checkpoint.saved(dense.folder)] == ["fork-000000006"]
    forked = ensure_run(RUNS["pretrained"], text_folder, tmp_path, "cpu")
    assert losses(forked)[:3] == losses(dense)[:3]
    assert losses(forked)[3:] != losses(dense)[3:]
    assert {folder.name for folder in tmp_path.iterdir()} == {
        dense.folder.name,
        forked.folder.name,
    }


def test_a_full_rank_switch_goes_on_like_the_dense_run(text_folder, tmp_path):
    """The product is unchanged at the switch, so the next loss is the dense one."""
    whole = FACTORS.model_copy(update={"rank_fraction": 1.0})
    pre = PRETRAINING.model_copy(update={"fraction": 0.5})
    spec = language_run(factors=whole, pretraining=pre, training={"log_points": 12})
    forked = ensure_run(spec, text_folder, tmp_path, "cpu")
    dense = ensure_run(language_run(training={"log_points": 12}), text_folder, tmp_path, "cpu")
    assert losses(forked)[6] == pytest.approx(losses(dense)[6], rel=1e-5)


def test_a_diverged_run_is_kept_with_its_step_and_the_state_before_it(text_folder, tmp_path):
    spec = language_run(training={"learning_rate": 1e30, "clip": None, "warmup": 0.0})
    run = ensure_run(spec, text_folder, tmp_path, "cpu")
    result = run.result
    assert result["diverged"] is True
    assert 1 <= result["diverged_at"] <= spec.training.steps
    assert result["validation_loss"] is None


def test_a_damaged_checkpoint_is_named_and_not_used(text_folder, tmp_path, capsys):
    spec = RUNS["spectral"]
    unbroken = ensure_run(spec, text_folder, tmp_path / "a", "cpu")
    ensure_run(spec, text_folder, tmp_path / "b", "cpu", until=6)
    damaged = tmp_path / "b" / unbroken.folder.name / "fork-000000006" / "model.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-7])
    resumed = ensure_run(spec, text_folder, tmp_path / "b", "cpu")
    assert "model.safetensors does not match its manifest" in capsys.readouterr().out
    assert_equal_runs(unbroken, resumed)


def test_damage_to_a_finished_run_is_named(text_folder, tmp_path):
    run = ensure_run(RUNS["dense"], text_folder, tmp_path, "cpu")
    weights = run.folder / "model.safetensors"
    weights.write_bytes(b"\0" + weights.read_bytes()[1:])
    with pytest.raises(LowrankError, match=r"model\.safetensors does not match"):
        ensure_run(RUNS["dense"], text_folder, tmp_path, "cpu")


def test_checkpoint_intervals_and_kept_steps_do_not_change_the_digest():
    a = RUNS["dense"].identity("data")
    assert a == language_run(training={"checkpoint_every": 3}).identity("data")
    assert a != language_run(training={"batch": 8}).identity("data")
    assert a != RUNS["dense"].identity("other data")


def test_gradient_accumulation_gives_the_same_step_as_one_batch(text_folder, tmp_path):
    whole = ensure_run(RUNS["spectral"], text_folder, tmp_path, "cpu")
    parts = ensure_run(RUNS["accumulated"], text_folder, tmp_path, "cpu")
    assert losses(whole) == pytest.approx(losses(parts), rel=1e-5)


def test_every_gradient_is_asserted_present(text_folder, tmp_path):
    spec = RUNS["dense"]
    task = make_task(spec, text_folder, choose_device("cpu"))
    trainer = Trainer(spec, task, tmp_path)
    with pytest.raises(AssertionError, match="no gradient"):
        trainer.optimizer.clip_gradients()


def test_nothing_temporary_remains(text_folder, tmp_path):
    ensure_run(RUNS["pretrained"], text_folder, tmp_path, "cpu")
    assert not [path for path in tmp_path.rglob("*") if path.name.endswith(".part")]
    shutil.rmtree(tmp_path)


EXTENSION = """
from lowrank.factor.init import initialisation, he


@initialisation("{name}")
def mine(weight, rank, generator, scale=1.0):
    U, V = he(weight, rank, generator, scale)
    return 2 * U, V / 2
"""


def test_a_run_imports_the_file_that_registers_its_method(text_folder, tmp_path):
    name = "mine_for_a_run"
    path = tmp_path / "mine.py"
    path.write_text(EXTENSION.format(name=name), encoding="utf-8")
    spec = language_run(
        factors=FACTORS.model_copy(update={"init": name}),
        extensions={name: Extension(file=str(path), sha256=sha256(path))},
    )
    assert ensure_run(spec, text_folder, tmp_path / "runs", "cpu").result["diverged"] is False
