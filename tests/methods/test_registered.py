"""What holds for every method that is built in: it learns, resumes to the bit, says what it costs, and is
refused with a sentence where it is not defined."""

from __future__ import annotations

import math
import re

import pytest
import torch
from click.testing import CliRunner
from lives import CPU, GPT2, OPTIONS, STEPS, WRN, begun, run_of, same

from lowrank.cli import main
from lowrank.errors import LowrankError
from lowrank.experiment.build import build_model
from lowrank.experiment.sections import TrainingSpec
from lowrank.factor.convert import effective_weights, parameter_count
from lowrank.methods import IMPLIED, METHODS, begin, check_fit
from lowrank.models import llama
from lowrank.optimizers import OPTIMIZERS
from lowrank.train.run import ensure_run
from lowrank.train.task import make_task
from lowrank.train.trainer import Trainer

NO_DENSE_FORM = {"cola"}
METHOD = pytest.mark.parametrize("name", OPTIONS)
KERNELS = pytest.mark.parametrize("name", [n for n in OPTIONS if METHODS[n].kernels])


def spec_of(name: str, **changes):
    return run_of(name, options=OPTIONS[name], **changes)


def images_of(name: str):
    """Twelve steps of a small Wide ResNet, by SGD where the method allows it."""
    sgd = METHODS[name].optimizers is None or "sgd" in METHODS[name].optimizers
    training = spec_of(name).training.model_copy(
        update={"optimizer": "sgd" if sgd else "adamw", "batch": 32}
    )
    return spec_of(name, track="small-images", model=WRN, training=training)


def test_every_method_is_tried_here():
    assert set(OPTIONS) == set(METHODS.names()) - set(IMPLIED)


def test_the_command_lists_them_with_their_settings():
    said = CliRunner().invoke(main, ["methods"]).output
    assert "refactorize: refactorisation (arXiv 2505.22922)" in said
    assert "    every = 200: Steps between two refactorisations." in said
    assert [line.split(":")[0] for line in said.splitlines() if line[0] != " "] == METHODS.names()


@METHOD
def test_it_says_what_it_does_and_where_it_was_published(name):
    method = METHODS[name]
    assert re.search(r"^arXiv \d{4}\.\d{5}$|openreview \w+$", method.source)
    assert method.summary.endswith(".")
    assert all(field.description for field in method.options.model_fields.values())


@METHOD
def test_a_run_learns_and_resumes_to_the_bit(name, invented_text, tmp_path):
    """`ensure_run` also proves the finished run: what it cost follows from its spec and its record."""
    spec = spec_of(name)
    unbroken = ensure_run(spec, invented_text, tmp_path / "unbroken", "cpu")
    history = unbroken.table("history")["train_loss"]
    assert history.iloc[-3:].mean() < history.iloc[0]
    assert unbroken.result["diverged"] is False
    same(unbroken, ensure_run(spec, invented_text, tmp_path / "unbroken", "cpu"))
    for stop in (4, 7, STEPS - 1):
        ensure_run(spec, invented_text, tmp_path / f"{stop}", "cpu", until=stop)
        torch.manual_seed(stop)
        same(unbroken, ensure_run(spec, invented_text, tmp_path / f"{stop}", "cpu"))


@KERNELS
def test_a_network_of_convolutions_learns_too(name, invented_images, tmp_path):
    spec = images_of(name)
    unbroken = ensure_run(spec, invented_images, tmp_path / "unbroken", "cpu")
    history = unbroken.table("history")["train_loss"]
    assert history.iloc[-3:].mean() < history.iloc[:3].mean()  # three batches are an epoch
    ensure_run(spec, invented_images, tmp_path / "broken", "cpu", until=7)
    same(unbroken, ensure_run(spec, invented_images, tmp_path / "broken", "cpu"))


@METHOD
def test_the_finished_model_is_the_trained_one_and_its_size_is_told(name, invented_text, tmp_path):
    spec = spec_of(name)
    subject = begun(spec, invented_text, tmp_path / "by-hand")
    subject.train(STEPS, [], lambda _: None)
    run = ensure_run(spec, invented_text, tmp_path / "runs", "cpu")
    model = run.model(300)
    found, expected = model.state_dict(), subject.model.state_dict()
    assert found.keys() == expected.keys()
    assert all(tensor.equal(expected[key]) for key, tensor in found.items())
    assert run.result["parameters"] == parameter_count(subject.model)
    weights = effective_weights(model)
    assert (weights is None) == (name in NO_DENSE_FORM)
    if weights is not None:  # they are those of a dense model that computes the same
        dense = build_model(spec, 300, converted=False)
        dense.load_state_dict(weights)
        tokens = torch.arange(32).reshape(2, 16)
        assert torch.allclose(dense(tokens), model(tokens), atol=1e-5)


@METHOD
def test_the_transposed_layers_of_gpt2_are_taken_too(name, invented_text, tmp_path):
    subject = begun(spec_of(name, model=GPT2), invented_text, tmp_path / "run")
    subject.train(5, [], lambda _: None)
    weights, tokens = effective_weights(subject.model), torch.arange(32).reshape(2, 16)
    if weights is not None:
        dense = build_model(subject.spec, 300, converted=False)
        dense.load_state_dict(weights, strict=False)  # the head is the embedding
        assert torch.allclose(dense(tokens), subject.model(tokens), atol=1e-5)


@METHOD
def test_the_state_that_a_plan_counts_is_the_state_that_there_is(name, invented_text, tmp_path):
    """Weights, gradients and the optimiser's numbers, but for its counters of steps."""
    subject = begun(spec_of(name), invented_text, tmp_path / "run")
    subject.train(STEPS, [], lambda _: None)
    held = sum(
        tensor.numel()
        for key, tensor in subject.optimizer.state().items()
        if subject.optimizer.roles[key.rpartition("/")[0]][key.rpartition("/")[2]] != "step"
    )
    counted = sum(
        (group.optimizer or OPTIMIZERS["adamw"]).values(group)
        for group in subject.life.groups(subject.model)
    )
    assert held == counted


@METHOD
def test_a_model_on_the_meta_device_has_the_same_shapes(name):
    spec = spec_of(name)
    with torch.device("meta"):
        shapes = {n: p.shape for n, p in build_model(spec, 16).named_parameters()}
    assert shapes == {n: p.shape for n, p in build_model(spec, 16).named_parameters()}


@METHOD
def test_a_run_that_diverges_is_a_result(name, invented_text, tmp_path):
    training = spec_of(name).training.model_copy(update={"learning_rate": 1e30, "clip": None})
    run = ensure_run(spec_of(name, training=training), invented_text, tmp_path, "cpu")
    assert run.result["diverged"] and math.isfinite(run.result["diverged_at"])


@pytest.mark.parametrize("name", [n for n in OPTIONS if METHODS[n].optimizers is None])
def test_where_any_optimiser_will_do_muon_does_too(name, invented_text, tmp_path):
    """What stands in a chosen layer's place is moved by it, however deep."""
    subject = begun(spec_of(name, optimizer="muon"), invented_text, tmp_path / "run")
    subject.train(STEPS, [], lambda _: None)
    losses = [row["train_loss"] for row in subject.record["history"]]
    assert losses[-1] < losses[0]
    state = {key.rpartition("/")[0] for key in subject.optimizer.state() if "exp_avg" in key}
    layers = tuple(f"{target.name}." for target in llama.targets(subject.model))
    matrices = {n for n, p in subject.model.named_parameters() if p.ndim == 2}
    assert not [name for name in state & matrices if name.startswith(layers)]


@METHOD
def test_optimisers_models_and_slices_that_it_does_not_take_are_refused(
    name, invented_text, tmp_path, monkeypatch
):
    from lowrank.train import parallel

    method, sgd = METHODS[name], TrainingSpec(steps=1, batch=1, optimizer="sgd")
    if method.optimizers and "sgd" not in method.optimizers:
        with pytest.raises(LowrankError, match=f"the method {name} .*, not of sgd"):
            begin(run_of(name, training=sgd.model_copy(update={"learning_rate": 0.1})))
    if not method.kernels:
        with pytest.raises(LowrankError, match=f"{name} is defined for linear layers"):
            check_fit(name, TrainingSpec(steps=1, batch=1), WRN)
    monkeypatch.setattr(parallel, "sharded", lambda mode: mode == "fsdp")
    spec = spec_of(name)
    if not method.sharded:
        with pytest.raises(LowrankError, match=f"{name} needs whole layers, and parallel: fsdp"):
            Trainer(spec, make_task(spec, invented_text, CPU), tmp_path, "fsdp")
