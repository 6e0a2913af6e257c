"""A finished run proves itself: a number that was changed, and the manifest with it, is found."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from runs import FACTORS, PRETRAINING, RUNS, image_run, language_run
from safetensors.torch import load_file, save_file

from lowrank.errors import LowrankError
from lowrank.experiment.agreement import disagreement
from lowrank.files import read_json, write_json, write_manifest
from lowrank.parquet import read_table, write_table
from lowrank.train import proof, result
from lowrank.train.run import ensure_run, finished_runs

SPECS = {
    "language": language_run(
        factors=FACTORS,
        pretraining=PRETRAINING.model_copy(update={"dense_learning_rate": 0.02}),
    ),
    "images": image_run(factors=FACTORS),
}


SEEDS = (1, 2)
"""Of the honest runs beside the forged one."""


@pytest.fixture(scope="module")
def runs(invented_text, invented_images, tmp_path_factory):
    """Of each kind the prepared data, a cache with the run, and the run's folder in it."""
    made = {}
    images = SPECS["images"].model_copy(
        update={"model": SPECS["images"].model.model_copy(update={"channels": 3})}
    )
    for name, spec, data in (
        ("language", SPECS["language"], invented_text),
        ("images", images, invented_images),
    ):
        cache = tmp_path_factory.mktemp(name)
        for seed in SEEDS:
            ensure_run(spec.model_copy(update={"seed": seed}), data, cache, "cpu")
        made[name] = spec, data, ensure_run(spec, data, cache, "cpu").folder
    return made


def sealed(folder: Path) -> None:
    """The manifest of what lies there now."""
    write_manifest(folder, read_json(folder / "manifest.json")["files"])


def in_result(name: str, value: object) -> Callable[[Path], None]:
    def forge(folder: Path) -> None:
        row = read_json(folder / "result.json")
        assert row[name] != value
        write_json(folder / "result.json", {**row, name: value})

    return forge


def in_table(table: str, column: str, factor: float, place: int = -1) -> Callable[[Path], None]:
    def forge(folder: Path) -> None:
        rows = read_table(folder / f"{table}.parquet")
        value = rows[column].astype(float)
        value.iloc[place] *= factor
        write_table(folder / f"{table}.parquet", rows.assign(**{column: value}))

    return forge


def less_loss(folder: Path) -> None:
    """A validation loss in the row and the history alike, but not in perplexity and bits."""
    row = read_json(folder / "result.json")
    in_result("validation_loss", row["validation_loss"] * 0.7)(folder)
    in_table("history", "validation_loss", 0.7)(folder)


def without_last_row(folder: Path) -> None:
    write_table(folder / "history.parquet", read_table(folder / "history.parquet").iloc[:-1])


def other_spectrum(folder: Path) -> None:
    """A spectrum and what follows from it in layers and row, but not the weights."""
    spectra = read_table(folder / "spectra.parquet")
    spectra["singular_value"] *= 2
    write_table(folder / "spectra.parquet", spectra)
    layers = read_table(folder / "layers.parquet")
    layers["product_norm"] *= 2
    layers["effective_step_size"] /= 4
    write_table(folder / "layers.parquet", layers)


def other_seed(folder: Path) -> None:
    spec = read_json(folder / "spec.json")
    write_json(folder / "spec.json", {**spec, "seed": spec["seed"] + 1})


def other_weights(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in weights if name.endswith(".U"))
    save_file({**weights, name: 1.5 * weights[name]}, folder / "model.safetensors")


def as_diverged(folder: Path) -> None:
    in_result("diverged", True)(folder)
    in_result("diverged_at", 5)(folder)


def without_layers(folder: Path) -> None:
    for table in ("layers", "spectra"):
        write_table(folder / f"{table}.parquet", pd.DataFrame())
    row = read_json(folder / "result.json")
    ranks = dict.fromkeys(("effective_rank", "entropy_rank", "stable_rank"))
    write_json(folder / "result.json", {**row, **ranks})


def without(key: str) -> Callable[[Path], None]:
    def forge(folder: Path) -> None:
        row = read_json(folder / "result.json")
        del row[key]
        write_json(folder / "result.json", row)

    return forge


def of_a_method(folder: Path) -> None:
    """Ranks of no weight, and a method that need not have them."""
    in_result("effective_rank", 1.5)(folder)
    write_json(folder / "result.json", {**read_json(folder / "result.json"), "method": "galore"})


FORGERIES = {
    "no layers": (without_layers, "layers has no rows"),
    "unknown whether diverged": (without("diverged"), "diverged is None"),
    "perhaps diverged": (in_result("diverged", None), "diverged is None"),
    "another method": (of_a_method, "effective_rank"),
    "validation loss": (in_result("validation_loss", 2.3), "validation_loss"),
    "training loss": (in_result("train_loss", 2.3), "train_loss"),
    "seed": (in_result("seed", 7), "seed is 7"),
    "rate": (in_result("learning_rate", 0.5), "learning_rate is 0.5"),
    "data": (in_result("data_digest", "0123456789abcdef"), "data_digest"),
    "parameters": (in_result("parameters", 10), "parameters is 10"),
    "dense parameters": (in_result("dense_parameters", 10), "dense_parameters is 10"),
    "kept": (in_result("kept_parameters", 0.1), "kept_parameters"),
    "FLOPs": (in_result("flops_per_position", 1.0), "flops_per_position"),
    "kept FLOPs": (in_result("kept_flops", 0.1), "kept_flops"),
    "FLOPs of training": (in_result("training_flops", 1.0), "training_flops"),
    "seconds": (in_result("train_seconds", 1e-9), "training_flops"),
    "speed": (in_result("positions_per_second", 1e9), "training_flops"),
    "effective rank": (in_result("effective_rank", 1.5), "effective_rank"),
    "entropy rank": (in_result("entropy_rank", 1.5), "entropy_rank"),
    "stable rank": (in_result("stable_rank", 1.5), "stable_rank"),
    "diverged": (as_diverged, "train_loss"),
    "diverged later": (in_result("diverged_at", 5), "diverged_at"),
    "history": (in_table("history", "validation_loss", 0.7), "validation_loss"),
    "rate in history": (in_table("history", "learning_rate", 2.0, 0), "learning rate of step"),
    "step in history": (in_table("history", "step", 2.0), "history"),
    "time in history": (in_table("history", "seconds", 1e6), "train_seconds"),
    "history cut": (without_last_row, "history"),
    "rank in layers": (in_table("layers", "effective_rank", 1.1), "effective_rank"),
    "norm in layers": (in_table("layers", "product_norm", 1.1), "product_norm"),
    "step size in layers": (in_table("layers", "effective_step_size", 3.0), "effective_step_size"),
    "spectrum": (in_table("spectra", "singular_value", 3.0, 0), "spectrum"),
    "all but weights": (other_spectrum, "in the weights"),
    "weights": (other_weights, "in the weights"),
    "spec": (other_seed, "spec.json"),
}
OF_TEXT = {"loss everywhere": (less_loss, "validation_perplexity")}


@pytest.mark.parametrize("kind", SPECS)
@pytest.mark.parametrize("forgery", [*FORGERIES, *OF_TEXT])
def test_a_changed_number_is_found_though_the_manifest_fits(forgery, kind, runs, tmp_path):
    if forgery in OF_TEXT and kind == "images":
        return  # nothing else follows from the loss of images
    forge, named = (FORGERIES | OF_TEXT)[forgery]
    spec, data, whole = runs[kind]
    folder = tmp_path / whole.name
    shutil.copytree(whole.parent, tmp_path, dirs_exist_ok=True)
    forge(folder)
    sealed(folder)
    among = [spec.model_copy(update={"seed": seed}) for seed in (SEEDS[0], spec.seed, SEEDS[1])]
    for read in (
        lambda: ensure_run(spec, data, tmp_path, "cpu"),
        lambda: finished_runs(among, data, tmp_path, "cpu"),
    ):
        with pytest.raises(LowrankError, match=rf"is damaged \(.*delete {folder} and run") as error:
            read()
        assert named in str(error.value)


@pytest.mark.parametrize("kind", SPECS)
def test_honest_runs_are_found_again_in_their_order_and_compared_once(kind, runs, monkeypatch):
    spec, data, whole = runs[kind]
    seeds = (SEEDS[1], spec.seed, SEEDS[0], spec.seed)
    specs = [spec.model_copy(update={"seed": seed}) for seed in seeds]
    compared = []
    monkeypatch.setattr(
        proof, "disagreement", lambda tables: compared.append(tables) or disagreement(tables)
    )
    monkeypatch.setattr(proof, "_SOUND", set())
    found = finished_runs(specs, data, whole.parent, "cpu")
    assert [run.spec for run in found] == specs and found[1].folder == whole
    assert [len(tables["runs"]) for tables in compared] == [3]
    assert finished_runs([], data, whole.parent, "cpu") == []
    os.utime(whole / "layers.parquet")  # compared anew is what may have been written since
    finished_runs(specs, data, whole.parent, "cpu")
    assert [len(tables["runs"]) for tables in compared] == [3, 1]


@pytest.mark.parametrize("name", ["spec.json", "result.json", "spectra.parquet"])
def test_a_file_that_is_gone_is_named_though_the_run_was_sound(name, runs, tmp_path):
    spec, data, whole = runs["images"]
    folder = Path(shutil.copytree(whole, tmp_path / whole.name))
    ensure_run(spec, data, tmp_path, "cpu")
    (folder / name).unlink()
    with pytest.raises(LowrankError, match=name):
        ensure_run(spec, data, tmp_path, "cpu")


@pytest.mark.parametrize("name", RUNS)
def test_an_honest_run_is_found_again(name, folder_of, tmp_path):
    spec = RUNS[name]
    row = ensure_run(spec, folder_of(spec), tmp_path, "cpu").result
    assert ensure_run(spec, folder_of(spec), tmp_path, "cpu").result == row


@pytest.mark.parametrize("pretraining", [None, PRETRAINING])
def test_a_diverged_run_is_found_again(pretraining, text_folder, tmp_path):
    if pretraining is not None:
        pretraining = pretraining.model_copy(update={"dense_learning_rate": 1e30})
    training = {"learning_rate": 1e30, "clip": None, "warmup": 0.0, "log_points": 12}
    spec = language_run(training=training, factors=FACTORS, pretraining=pretraining)
    row = ensure_run(spec, text_folder, tmp_path, "cpu").result
    assert row["diverged"] and ensure_run(spec, text_folder, tmp_path, "cpu").result == row
    in_result("diverged", False)(tmp_path / row["digest"])
    sealed(tmp_path / row["digest"])
    with pytest.raises(LowrankError, match=r"loss|layers has no rows"):
        ensure_run(spec, text_folder, tmp_path, "cpu")


def test_the_norm_of_a_layer_without_weights_is_no_number():
    from lowrank.train.proof import _norm

    assert pd.isna(_norm({}, "layer"))


def test_costs_are_remembered_of_any_seed_but_not_of_other_ranks(monkeypatch):
    """Two seeds of a method that learns ranks need not end at the same ones."""
    counted = []
    monkeypatch.setattr(result, "_KNOWN", {})
    monkeypatch.setattr(result, "costs", lambda spec, task, life: counted.append(life.record()))
    task, spec = SimpleNamespace(digest="data"), SPECS["language"]
    lives = [
        SimpleNamespace(record=lambda rank=rank: {"ranks": [[0, {"a": rank}]]}) for rank in (2, 3)
    ]
    for seed in (0, 1):
        for life in lives:
            result.costs_of_any_seed(spec.model_copy(update={"seed": seed}), task, life)
    assert counted == [life.record() for life in lives]
    result.costs_of_any_seed(spec, SimpleNamespace(digest="other"), lives[0])
    assert len(counted) == 3
