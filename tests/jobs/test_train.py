"""Jobs on tiny runs: sweeps, evaluation, interpolation, truncation, baselines, speed."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lowrank.analysis.stats import pair
from lowrank.data.spec import TextSpec
from lowrank.data.text import load_text, prepare_text
from lowrank.experiment import config
from lowrank.experiment.expand import Timed, expand
from lowrank.factor.batch_norm import recompute_batch_norm
from lowrank.factor.truncate import truncate_model
from lowrank.jobs import posthoc as truncation
from lowrank.jobs import train as jobs
from lowrank.jobs.baselines import ngram_losses
from lowrank.jobs.interpolate import interpolate
from lowrank.jobs.posthoc import posthoc
from lowrank.jobs.speed import measure_speed
from lowrank.methods.base import select_targets
from lowrank.plot.summary import summarise
from lowrank.train.build import choose_device
from lowrank.train.task import make_task

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def settings():
    """The smoke configuration with a six-step language track."""
    values = config.read_yaml(ROOT / "config/smoke.yaml")
    values["tracks"] = {"language": values["tracks"]["language"]}
    values["tracks"]["language"]["training"]["steps"] = 6
    values["tracks"]["language"]["model"]["width"] = 16
    return config.parse(values)


@pytest.fixture(scope="module")
def grid(settings):
    return expand(settings)


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def test_a_line_begins_and_ends_at_the_trained_models(settings, grid, text_folder, cache):
    study = settings.tracks["language"].studies.interpolation
    dense, low = grid.cells["language/dense"], grid.cells["language/spectral-r0.5"]
    points, summary = interpolate(study, dense, [low], {}, text_folder, cache, "cpu")
    line = points[points["cell"] == low.name]
    for cell, t in ((dense, 0.0), (low, 1.0)):
        for run in jobs.runs_of(cell, {}, text_folder, cache, "cpu"):
            row = line[(line["t"] == t) & (line["seed"] == run.spec.seed)]
            assert row["loss"].item() == pytest.approx(run.result["validation_loss"], rel=1e-5)
    assert (summary["barrier"] >= 0).all()
    assert "language/dense-other-seed" in set(summary["cell"])
    # Alone a seed's lines are the same, with the solution of the next one.
    last = dense.seeds[-1]
    alone = [cell.model_copy(update={"seeds": (last,)}) for cell in (dense, low)]
    place = ({}, text_folder, cache, "cpu")
    found = interpolate(study, alone[0], alone[1:], *place, seeds=dense.seeds)
    for one, whole in zip(found, (points, summary), strict=True):
        expected = whole[whole["seed"] == last].reset_index(drop=True)
        pd.testing.assert_frame_equal(one, expected)


def test_truncation_at_full_rank_is_the_dense_model(settings, grid, text_folder, cache):
    track = settings.tracks["language"]
    study = track.studies.posthoc.model_copy(
        update={
            "ranks": (1.0,),
            "methods": ("plain", "whitened", "fisher"),
            "fine_tune_steps": (0,),
        }
    )
    dense = grid.cells["language/dense"]
    table = posthoc(study, track.factors, dense, {}, text_folder, cache, "cpu")
    for run in jobs.runs_of(dense, {}, text_folder, cache, "cpu"):
        expected = jobs.test_metrics(run, dense.evaluation, text_folder, "cpu")["test_loss"]
        found = table[table["seed"] == run.spec.seed]["test_loss"]
        assert found.to_numpy() == pytest.approx(expected, rel=1e-4)
    assert not [name for name in table if name.startswith("stale")], "there is no batch norm"


def test_a_measurement_that_was_stopped_goes_on_and_a_further_rank_costs_itself(
    settings, grid, text_folder, cache, monkeypatch
):
    track = settings.tracks["language"]
    told = {"ranks": (0.25, 0.75), "methods": ("plain",), "fine_tune_steps": (0, 1)}
    study = track.studies.posthoc.model_copy(update=told)
    place = (track.factors, grid.cells["language/dense"], {}, text_folder, cache, "cpu")
    seeds, truncated, done = len(settings.seeds), truncation._truncated, []

    def until(most):
        def one(*given):
            if len(done) == most:
                raise KeyboardInterrupt
            done.append(given)
            return truncated(*given)

        monkeypatch.setattr(truncation, "_truncated", one)

    until(1)
    with pytest.raises(KeyboardInterrupt):
        posthoc(study, *place)
    until(2 * seeds)
    table = posthoc(study, *place)
    assert len(done) == 2 * seeds and len(table) == 4 * seeds
    pd.testing.assert_frame_equal(posthoc(study, *place), table)
    until(3 * seeds)
    posthoc(study.model_copy(update={"ranks": (0.5, 0.75)}), *place)
    assert len(done) == 3 * seeds
    # By another version everything is measured anew.
    until(5 * seeds)
    pd.testing.assert_frame_equal(posthoc(study, *place, 2), table)
    assert len(done) == 5 * seeds


def test_truncated_batch_norm_networks_are_tested_with_statistics_of_their_own(
    digits_folder, cache
):
    values = config.read_yaml(ROOT / "config/smoke.yaml")
    values["tracks"] = {"small-images": values["tracks"]["small-images"]}
    track = values["tracks"]["small-images"]
    track["training"] |= {"steps": 30, "learning_rate": 0.1}
    track["sweep"] = {"rates": [0.1]}
    track["studies"]["posthoc"] = {"ranks": [0.3], "methods": ["plain"], "fine_tune_steps": [0, 3]}
    settings = config.parse(values)
    images = settings.tracks["small-images"]
    dense = expand(settings).cells["small-images/dense"]
    rates = dict.fromkeys(dense.groups, 0.1)
    study = images.studies.posthoc
    table = posthoc(study, images.factors, dense, rates, digits_folder, cache, "cpu")
    untuned = table[table["fine_tune_steps"] == 0]
    assert (untuned["test_loss"] < untuned["stale_test_loss"]).all()
    for run, row in zip(
        jobs.runs_of(dense, rates, digits_folder, cache, "cpu"), untuned.itertuples(), strict=True
    ):
        task = make_task(run.spec, digits_folder, choose_device("cpu"))
        model = run.model(task.outputs)
        names = {t.name: t.scale for t in select_targets(model, run.spec.model, images.factors)}
        truncate_model(model, names, method="plain", rank_fraction=0.3, rank_multiple=1)
        held_out = ("test", dense.evaluation.test_examples, dense.evaluation.batch)
        assert row.stale_test_loss == task.evaluate(model, *held_out)["loss"]
        recompute_batch_norm(model, [task.batch(step) for step in range(8)], task.loss)
        found = task.evaluate(model, *held_out)
        assert (row.test_loss, row.test_accuracy) == (found["loss"], found["accuracy"])


def test_fine_tuning_that_diverges_is_marked_and_has_no_metrics(settings, grid, text_folder, cache):
    track = settings.tracks["language"]
    study = track.studies.posthoc.model_copy(
        update={
            "ranks": (0.5,),
            "methods": ("plain",),
            "fine_tune_steps": (0, 3),
            "fine_tune_rate_factor": 1e30,
        }
    )
    dense = grid.cells["language/dense"]
    table = posthoc(study, track.factors, dense, {}, text_folder, cache, "cpu")
    tuned = table["fine_tune_steps"] > 0
    assert table["diverged"].tolist() == tuned.tolist()
    metrics = table.filter(like="test_")
    assert metrics[tuned].isna().all(axis=None) and metrics[~tuned].notna().all(axis=None)
    own = table.assign(cell=table["fine_tune_steps"].astype(str))
    pairs = pair(own[own["cell"] == "3"], own[own["cell"] == "0"], "test_loss")
    assert (pairs.diverged_a, pairs.diverged_b) == (dense_seeds := len(dense.seeds), 0)
    row = summarise(table[tuned], ["test_loss"], keys=["method"]).iloc[0]
    assert (row["seeds"], row["diverged"]) == (0, dense_seeds)


def test_a_sweep_chooses_the_best_rate_and_extends_beyond_an_edge(text_folder, cache, tmp_path):
    values = config.read_yaml(ROOT / "config/smoke.yaml")
    values["tracks"] = {"language": values["tracks"]["language"]}
    track = values["tracks"]["language"]
    track["training"] |= {"steps": 6, "learning_rate": None}
    track["model"]["width"] = 16
    track["sweep"] = {"rates": [0.0001, 0.0002], "extend": 2}
    group = expand(config.parse(values)).sweeps["language/dense"]
    jobs.sweep(group, {}, text_folder, cache, tmp_path / "dense.json", "cpu")
    found = json.loads((tmp_path / "dense.json").read_text(encoding="utf-8"))
    assert [row["learning_rate"] for row in found["rates"]] == [0.0001, 0.0002, 0.0004, 0.0008]
    losses = {row["learning_rate"]: row["validation_loss"] for row in found["rates"]}
    assert found["learning_rate"] == min(losses, key=losses.get)
    assert found["at_edge"] is True


def test_ngram_losses_are_those_of_the_counted_distributions(text_folder):
    table = ngram_losses(text_folder).set_index("model")
    data = load_text(text_folder)
    train = np.asarray(data.tokens["train"]).astype(int)
    test = np.asarray(data.tokens["test"]).astype(int)[1:]
    counts = np.bincount(train, minlength=data.vocabulary) + 1
    by_hand = -np.mean([math.log(counts[token] / counts.sum()) for token in test])
    assert table.loc["unigram", "test_loss"] == pytest.approx(by_hand)
    assert table.loc["bigram", "test_loss"] < table.loc["unigram", "test_loss"]


def test_perplexities_beyond_floats_are_missing_and_the_rest_stands(tmp_path):
    rng = np.random.default_rng(0)
    # No spaces: a line is one word of hundreds of tokens, and its perplexity has hundreds of digits.
    lines = ["".join(chr(0x4E00 + code) for code in rng.integers(0, 2000, 201)) for _ in range(300)]
    (tmp_path / "lines.txt").write_text("\n".join(lines), encoding="utf-8")
    source = TextSpec(source="local", train=str(tmp_path / "lines.txt"), vocabulary=300)
    folder = prepare_text(source, tmp_path / "data")
    table = ngram_losses(folder)
    counts = load_text(folder).counts("test")
    assert (table["test_loss"] * counts["tokens"] / counts["words"] > 710).all()
    assert table["test_word_perplexity"].isna().all()
    np.testing.assert_allclose(table["test_perplexity"], np.exp(table["test_loss"]))
    bits = table["test_loss"] * counts["tokens"] / counts["bytes"] / math.log(2)
    np.testing.assert_allclose(table["test_bits_per_byte"], bits)


def test_models_take_turns_when_steps_are_timed(grid, text_folder):
    cells = [grid.cells["language/dense"], grid.cells["language/spectral-r0.5"]]
    timed = [Timed(cell=cell) for cell in cells]
    table = measure_speed(timed, text_folder, "cpu", rounds=2, seconds=0.02)
    assert table["cell"].tolist() == [cell.name for cell in cells] * 2
    assert (table["step_seconds"] > 0).all()
    assert table.groupby("cell")["state_bytes"].nunique().eq(1).all()
