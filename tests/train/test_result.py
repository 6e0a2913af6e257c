"""The row of a run: every number follows from its history, its layers, its shapes and its spec."""

from __future__ import annotations

import math

import pandas as pd
import pytest
import torch
from runs import FACTORS, PRETRAINING, language_run
from safetensors.torch import load_file

from lowrank.analysis.tables import COLUMNS
from lowrank.experiment.build import build_model
from lowrank.experiment.sections import MethodSpec
from lowrank.factor.convert import factors, parameter_count
from lowrank.factor.flops import forward_flops, saved_flops
from lowrank.methods import begin
from lowrank.train import result
from lowrank.train.run import ensure_run
from lowrank.train.task import make_task
from lowrank.train.trainer import Trainer

LOW = language_run(
    factors=FACTORS.model_copy(update={"rank_fraction": 0.25}),
    pretraining=PRETRAINING.model_copy(update={"fraction": 0.25}),
)


@pytest.fixture(scope="module")
def run(invented_text, tmp_path_factory):
    """A run that was dense for 3 of its 12 steps."""
    return ensure_run(LOW, invented_text, tmp_path_factory.mktemp("runs"), "cpu")


@pytest.fixture(scope="module")
def sizes(invented_text):
    """Parameters and forward FLOPs of an example, dense and factorised, of real models."""
    task = make_task(LOW, invented_text, torch.device("cpu"))
    models = [build_model(spec, task.outputs) for spec in (LOW.trunk(), LOW)]
    return [(parameter_count(model), forward_flops(model, task.example())) for model in models]


def test_shares_are_of_parameters_and_of_flops_which_differ(run, sizes):
    (dense, dense_flops), (own, own_flops) = sizes
    row = run.result
    assert (row["parameters"], row["dense_parameters"]) == (own, dense)
    assert row["kept_parameters"] == own / dense
    assert row["kept_flops"] == own_flops / dense_flops
    assert row["kept_flops"] != row["kept_parameters"]
    assert row["flops_per_position"] == own_flops / LOW.model.context


def test_flops_of_a_run_are_thrice_forward_dense_before_the_switch_and_low_rank_after(run, sizes):
    """A backward pass is two forward ones. 12 steps of 4 examples, 3 of the steps dense."""
    (_, dense_flops), (_, own_flops) = sizes
    assert run.result["training_flops"] == pytest.approx(3 * 4 * (3 * dense_flops + 9 * own_flops))


def test_gradients_that_nobody_takes_cost_nothing(invented_text):
    """ReLoRA trains factors beside frozen weights; 12 steps of 4 examples."""
    method = MethodSpec(name="relora", options={"every": 4, "warmup": 1})
    spec = language_run(factors=FACTORS.model_copy(update={"method": method}))
    task = make_task(spec, invented_text, torch.device("cpu"))
    model, example = build_model(spec, task.outputs), task.example()
    forward, saved = forward_flops(model, example), saved_flops(model, example)
    assert saved > 0
    found = result.costs(spec, task, begin(spec))
    assert found["training_flops"] == pytest.approx(12 * 4 * (3 * forward - saved))
    assert found["parameters"] == parameter_count(model) > found["dense_parameters"]


def test_losses_and_metrics_are_the_last_of_the_history(run):
    last = run.table("history").iloc[-1]
    row = run.result
    assert last["step"] == 12
    for name in ("train_loss", "validation_loss"):
        assert row[name] == last[name]
    for name in ("validation_perplexity", "validation_word_perplexity", "validation_bits_per_byte"):
        if name in row:
            assert row[name] == last[name]


def test_ranks_are_means_over_layers_at_the_last_step(run):
    layers = run.table("layers")
    last = layers[layers["step"] == 12]
    assert len(last) == 4
    for name in ("effective_rank", "entropy_rank", "stable_rank"):
        assert run.result[name] == pytest.approx(last[name].mean(), rel=1e-12)


def test_speed_is_positions_over_seconds_and_memory_what_it_takes(run):
    row = run.result
    assert row["positions_per_second"] == pytest.approx(12 * 4 * 16 / row["train_seconds"])
    assert row["peak_memory_bytes"] > 50e6
    count = row["parameters"]
    assert (
        4 * 4 * count <= row["state_bytes"] < 4 * 4 * count + 4 * 100
    )  # and a counter a parameter
    assert row["devices"] == 1


def test_the_row_says_where_it_comes_from(run, invented_text):
    row = run.result
    assert row["digest"] == run.folder.name
    assert (row["seed"], row["learning_rate"]) == (0, 0.01)
    assert row["data_digest"] == make_task(LOW, invented_text, torch.device("cpu")).digest
    assert (row["diverged"], row["diverged_at"]) == (False, None)
    assert row["torch"] == torch.__version__
    assert row["threads"] == torch.get_num_threads()
    capability = torch.backends.cpu.get_cpu_capability()
    assert row["processor"] == f"{row['device']}, {capability}"
    assert pd.Timestamp(row["finished_at"]).tzinfo is not None
    assert set(row) <= set(COLUMNS) | {"versions"}


def test_spectra_are_those_of_the_kept_weights(run):
    weights = load_file(run.folder / "model.safetensors")
    spectra = run.table("spectra")
    names = list(factors(build_model(LOW, 300)))
    assert list(spectra["layer"].unique()) == names
    for name in names:
        product = weights[f"{name}.U"].double() @ weights[f"{name}.V"].double().T
        rows = spectra[spectra["layer"] == name]
        assert list(rows["index"]) == list(range(1, len(rows) + 1))
        expected = torch.linalg.svdvals(product)[: len(rows)]
        assert rows["singular_value"].to_numpy() == pytest.approx(expected.numpy(), rel=1e-4)


def test_a_run_that_diverged_has_costs_but_no_ends(invented_text, tmp_path):
    spec = language_run(training={"learning_rate": 1e30, "clip": None, "warmup": 0.0})
    found = ensure_run(spec, invented_text, tmp_path, "cpu")
    row = found.result
    assert row["diverged"] is True
    assert row["diverged_at"] >= 1
    for name in ("train_loss", "validation_loss", "positions_per_second"):
        assert row[name] is None
    assert row["parameters"] == row["dense_parameters"]
    assert row["kept_flops"] == 1.0
    assert len(found.table("spectra")) == 0
    assert list(found.table("spectra").columns) == ["layer", "index", "singular_value"]


@pytest.mark.parametrize(
    ("value", "lost"),
    [
        (math.nan, True),
        (math.inf, True),
        (1.0, False),
        (10**400, False),
        ("nan", False),
        (None, False),
    ],
)
def test_what_is_not_finite_has_no_word_in_json(value, lost):
    assert result._not_finite(value) is lost


def test_a_mean_over_no_layers_is_none():
    assert result._mean([], "x") is None
    assert result._mean([{"x": 1.0}, {"x": 4.0}, {"x": 4.0}], "x") == 3.0


def test_a_run_that_diverged_late_has_no_ends_either(invented_text, tmp_path):
    """Its last logged loss is that of a step before the end, and would flatter it."""
    spec = language_run()
    trainer = Trainer(spec, make_task(spec, invented_text, torch.device("cpu")), tmp_path)
    trainer.train(8, [], lambda _: None)
    with torch.no_grad():
        trainer.model.transformer.wte.weight[:] = math.nan
    assert trainer.train(12, [], lambda _: None) is False
    row = result.result_row(trainer, finished=False)
    assert [h["step"] for h in trainer.record["history"]] == [2, 4, 6, 8]
    assert (row["diverged"], row["diverged_at"]) == (True, 9)
    for name in ("train_loss", "validation_loss", "positions_per_second"):
        assert row[name] is None
