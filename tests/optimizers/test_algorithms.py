"""Every registered optimiser: its record says what it holds, and it goes on from what was saved."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from lowrank.errors import LowrankError
from lowrank.experiment import config
from lowrank.experiment.build import build_model
from lowrank.experiment.cell import RunSpec
from lowrank.experiment.sections import (
    DecaySpec,
    EvaluationSpec,
    FactorSpec,
    ModelSpec,
    PretrainingSpec,
    TrainingSpec,
)
from lowrank.factor.convert import factors
from lowrank.models import family
from lowrank.optimizers import OPTIMIZERS
from lowrank.optimizers.base import Group, standard_groups
from lowrank.train.optimizer import Optimizer
from lowrank.train.run import ensure_run

RATE = 0.02


def run_of(optimizer: str, factorized: bool = True, **changes) -> RunSpec:
    training = TrainingSpec(
        optimizer=optimizer,
        steps=8,
        batch=4,
        learning_rate=RATE,
        log_points=4,
        probe_points=1,
        validation_points=1,
    )
    values = {
        "track": "language",
        "model": ModelSpec(
            family="llama", width=16, depth=1, heads=4, kv_heads=2, context=16, mlp_width=24
        ),
        "training": training,
        "factors": FactorSpec(rank_fraction=0.5, rank_multiple=4) if factorized else None,
        "evaluation": EvaluationSpec(validation_examples=8, test_examples=8, batch=8),
        "seed": 0,
    }
    return RunSpec(**{**values, **changes})


def optimizer_of(spec: RunSpec, sharded: bool = False) -> Optimizer:
    model = build_model(spec, 20)
    record = family(spec.model.family)
    targets = [target.name for target in record.targets(model)]
    groups = standard_groups(model, spec.training, targets, record.embeddings)
    decay = spec.factors.decay if spec.factors else None
    return Optimizer(model, spec.training, decay, groups, sharded)


def stepped(optimizer: Optimizer, steps: int = 1) -> dict[str, torch.Tensor]:
    """The gradients of the first of some steps with random ones."""
    draw, first = torch.Generator().manual_seed(3), {}
    for _ in range(steps):
        for name, parameter in optimizer.model.named_parameters():
            parameter.grad = torch.randn(parameter.shape, generator=draw)
            first.setdefault(name, parameter.grad.clone())
        optimizer.step(RATE, torch.tensor(1.0))
    return first


@pytest.mark.parametrize("factorized", [False, True])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_record_names_the_state_and_counts_it(name, factorized):
    optimizer = optimizer_of(run_of(name, factorized))
    stepped(optimizer)
    state, algorithm = optimizer.state(), OPTIMIZERS[name]
    assert {key.rpartition("/")[2] for key in state} == set(algorithm.states)
    record = family("llama")
    targets = [target.name for target in record.targets(optimizer.model)]
    groups = standard_groups(optimizer.model, optimizer.spec, targets)
    counters = [key for key in state if algorithm.states[key.rpartition("/")[2]] == "step"]
    held = sum(tensor.numel() for key, tensor in state.items() if key not in counters)
    assert sum(algorithm.values(group) for group in groups) == held


@pytest.mark.parametrize("factorized", [False, True])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_resumed_run_equals_an_unbroken_one(name, factorized, invented_text, tmp_path):
    spec = run_of(name, factorized)
    unbroken = ensure_run(spec, invented_text, tmp_path / "unbroken", "cpu")
    ensure_run(spec, invented_text, tmp_path / "broken", "cpu", until=3)
    resumed = ensure_run(spec, invented_text, tmp_path / "broken", "cpu")
    for column in ("train_loss", "gradient_norm"):
        assert unbroken.table("history")[column].equals(resumed.table("history")[column])
    assert unbroken.table("spectra").equals(resumed.table("spectra"))


@pytest.mark.parametrize("moments", ["carry", "reset"])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_moments_move_at_a_switch(name, moments, invented_text, tmp_path):
    pretraining = PretrainingSpec(fraction=0.5, dense_learning_rate=RATE, moments=moments)
    run = ensure_run(run_of(name, pretraining=pretraining), invented_text, tmp_path, "cpu")
    assert math.isfinite(run.result["validation_loss"])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_parameter_that_is_reset_begins_anew_and_others_go_on(name):
    optimizer = optimizer_of(run_of(name))
    stepped(optimizer, 2)
    before = {key: tensor.clone() for key, tensor in optimizer.state().items()}
    layer, module = next(iter(factors(optimizer.model).items()))
    optimizer.reset([module.U])
    after = optimizer.state()
    assert set(before) - set(after) == {k for k in before if k.startswith(f"{layer}.U/")} != set()
    assert all(tensor.equal(before[key]) for key, tensor in after.items())


# Muon


def hidden_of(optimizer: Optimizer) -> set[str]:
    return {key.rpartition("/")[0] for key in optimizer.state() if key.endswith("/momentum_buffer")}


def test_muon_moves_hidden_matrices_and_factors_and_adamw_all_else():
    for factorized in (False, True):
        optimizer = optimizer_of(run_of("muon", factorized))
        stepped(optimizer)
        sides = "UV" if factorized else ["weight"]
        layers = [target.name for target in family("llama").targets(optimizer.model)]
        assert hidden_of(optimizer) == {f"{layer}.{side}" for layer in layers for side in sides}
        others = {k.rpartition("/")[0] for k in optimizer.state() if k.endswith("/exp_avg")}
        assert {"lm_head.weight", "model.embed_tokens.weight", "model.norm.weight"} <= others
        assert not others & hidden_of(optimizer)


def test_a_step_of_muon_is_the_orthogonalised_momentum_at_the_size_of_adams():
    """Singular values of the step are within Newton-Schulz's 0.7 to 1.2 of 0.2 sqrt(max(m, n)) times
    the rate, its directions those of the momentum; decay is off the weight."""
    optimizer = optimizer_of(run_of("muon", factorized=False))
    name = "model.layers.0.mlp.up_proj.weight"
    weight = dict(optimizer.model.named_parameters())[name]
    before = weight.detach().clone()
    gradient = stepped(optimizer)[name]
    step = (before * (1 - RATE * 0.1) - weight.detach()) / (RATE * 0.2 * math.sqrt(24))
    U, _, Vh = torch.linalg.svd(gradient, full_matrices=False)
    values = torch.linalg.svdvals(step)
    assert float(values.min()) > 0.6 and float(values.max()) < 1.3
    alignment = (U.T @ step @ Vh.T).diagonal()
    assert float(alignment.min()) > 0.6


def test_factors_under_muon_decay_as_the_factor_section_says():
    decay = DecaySpec(kind="frobenius", strength=3.0)
    spec = FactorSpec(rank_fraction=0.5, rank_multiple=4, decay=decay)
    layers = []
    for strength in (3.0, 0.0):
        changed = spec.model_copy(update={"decay": decay.model_copy(update={"strength": strength})})
        optimizer = optimizer_of(run_of("muon", factors=changed))
        layer = next(iter(factors(optimizer.model).values()))
        began = layer.U.detach().clone(), layer.V.detach().clone()
        stepped(optimizer)
        layers.append(layer.U.detach())
    U, V = began
    assert layers[1] - layers[0] == pytest.approx(RATE * 3.0 * U @ (V.T @ V), abs=1e-6)


def test_kernels_are_refused_when_the_configuration_is_read_and_when_it_is_built():
    kernel = nn.Parameter(torch.zeros(2, 2, 3, 3))
    group = Group("matrices", {"conv.weight": kernel}, hidden=frozenset({"conv.weight"}))
    with pytest.raises(
        LowrankError, match=r"muon moves matrices, and conv\.weight has 4 dimensions"
    ):
        OPTIMIZERS["muon"].build([group], TrainingSpec(steps=1, batch=1))
    values = config.read_yaml("config/smoke.yaml")
    values["tracks"]["small-images"]["training"]["optimizer"] = "muon"
    with pytest.raises(LowrankError, match="wide_resnet is made of convolutions: use adamw or sgd"):
        config.parse(values)


def test_matrices_cut_over_devices_are_refused():
    values = config.read_yaml("config/smoke.yaml")
    values["tracks"]["language"]["training"]["optimizer"] = "muon"
    config.parse(values)
    values |= {"parallel": "fsdp", "devices": 2}
    with pytest.raises(
        LowrankError, match="muon needs whole matrices, and parallel: fsdp cuts them"
    ):
        config.parse(values)
    with pytest.raises(LowrankError, match="Muon needs whole matrices, and parallel: fsdp cuts"):
        optimizer_of(run_of("muon"), sharded=True)


def test_an_unknown_optimiser_names_those_there_are():
    values = config.read_yaml("config/smoke.yaml")
    values["tracks"]["language"]["training"]["optimizer"] = "adam"
    *others, last = map(repr, sorted(OPTIMIZERS.names()))
    with pytest.raises(LowrankError, match=f"must be one of {', '.join(others)} or {last}"):
        config.parse(values)
