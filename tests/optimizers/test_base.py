"""Every parameter is in one group: matrices, vectors (embeddings among them) or factors."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from lowrank.experiment.sections import TrainingSpec
from lowrank.factor.convert import factorize_model
from lowrank.optimizers.base import (
    SGD,
    AdamW,
    Group,
    check_cover,
    parameter_groups,
    standard_groups,
)


class Tiny(nn.Module):
    """An embedding tied to its head, a norm, a matrix, a kernel, a table that is no embedding layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(6, 4)
        self.norm = nn.LayerNorm(4)
        self.matrix = nn.Linear(4, 4)
        self.kernel = nn.Conv2d(1, 2, 3, bias=False)
        self.positions = nn.Parameter(torch.zeros(3, 4))
        self.head = nn.Linear(4, 6, bias=False)
        self.head.weight = self.embedding.weight


def names(model: nn.Module, *embeddings: str) -> dict[str, set[str]]:
    return {group: set(named) for group, named in parameter_groups(model, embeddings).items()}


def test_matrices_and_kernels_are_apart_from_gains_biases_and_embeddings():
    vectors = {"embedding.weight", "norm.weight", "norm.bias", "matrix.bias"}
    found = names(Tiny(), "posit*")
    assert found["matrices"] == {"matrix.weight", "kernel.weight"}
    assert found["vectors"] == vectors | {"positions"}
    assert found["factors"] == set()
    assert names(Tiny())["matrices"] == {"matrix.weight", "kernel.weight", "positions"}


def test_factors_leave_the_matrices_and_frozen_parameters_every_group():
    model = Tiny()
    factorize_model(model, {"matrix": 1.0}, rank_fraction=0.25, rank_multiple=1)
    model.kernel.weight.requires_grad_(False)
    found = names(model)
    assert found["factors"] == {"matrix.U", "matrix.V"}
    assert found["matrices"] == {"positions"} and "matrix.bias" in found["vectors"]


def test_only_matrices_decay_within_the_optimiser_and_only_targets_are_hidden():
    model = Tiny()
    groups = standard_groups(
        model, TrainingSpec(steps=1, batch=1, weight_decay=0.3), ["kernel"], ["positions"]
    )
    assert {g.name: g.weight_decay for g in groups} == {"matrices": 0.3, "vectors": 0.0}
    assert {g.name: set(g.hidden) for g in groups} == {
        "matrices": {"kernel.weight"},
        "vectors": set(),
    }
    check_cover(model, groups)


@pytest.mark.parametrize("fault", ["twice", "missing"])
def test_a_parameter_in_two_groups_or_in_none_is_found(fault):
    model = Tiny()
    (matrices, vectors) = standard_groups(model, TrainingSpec(steps=1, batch=1))
    groups = [matrices, matrices, vectors] if fault == "twice" else [matrices]
    with pytest.raises(AssertionError, match="two groups" if fault == "twice" else "no group"):
        check_cover(model, groups)


def test_a_group_gives_torch_the_parameters_asked_for_and_the_methods_options():
    weight = nn.Parameter(torch.ones(2))
    group = Group(
        "own", {"a": weight, "b": nn.Parameter(torch.ones(1))}, 0.1, 2.0, options={"k": 3}
    )
    found = group.for_torch(["a"])
    assert len(found["params"]) == 1 and found["params"][0] is weight
    assert (found["weight_decay"], found["rate_factor"], found["k"]) == (0.1, 2.0, 3)
    assert len(group.for_torch()["params"]) == 2


# Optimisers of our own


def steps_of(optimizer, parameters: list[nn.Parameter]) -> list[torch.Tensor]:
    """The parameters after three steps with the same gradients and different rates."""
    draw = torch.Generator().manual_seed(0)
    for rate in (0.1, 0.03, 0.2):
        for parameter in parameters:
            parameter.grad = torch.randn(parameter.shape, generator=draw)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        optimizer.zero_grad()
    assert all(parameter.grad is None for parameter in parameters)
    return [parameter.detach() for parameter in parameters]


@pytest.mark.parametrize(
    ("own", "settings", "twin"),
    [
        (AdamW, {"betas": (0.8, 0.9)}, partial(torch.optim.AdamW, betas=(0.8, 0.9), fused=True)),
        (SGD, {"momentum": 0.0}, torch.optim.SGD),
        (SGD, {"momentum": 0.9}, partial(torch.optim.SGD, momentum=0.9)),
        (SGD, {"momentum": 0.9, "nesterov": True},
         partial(torch.optim.SGD, momentum=0.9, nesterov=True)),
    ],
)  # fmt: skip
def test_they_are_torchs_to_the_bit(own, settings, twin):
    spec = TrainingSpec(steps=1, batch=1, **settings)
    models = [Tiny(), Tiny()]
    models[1].load_state_dict(models[0].state_dict())
    decays = {"matrices": 0.5, "vectors": 0.0}
    groups = [
        [Group(n, named, decays[n]) for n, named in parameter_groups(model).items() if named]
        for model in models
    ]
    optimizers = own(groups[0], spec), twin([group.for_torch() for group in groups[1]], lr=0.0)
    parameters = [[p for group in found for p in group.parameters.values()] for found in groups]
    ours, theirs = (steps_of(o, p) for o, p in zip(optimizers, parameters, strict=True))
    assert all(a.equal(b) for a, b in zip(ours, theirs, strict=True))
    for mine, other in zip(*parameters, strict=True):
        state, expected = optimizers[0].state[mine], optimizers[1].state[other]
        held = {name: tensor for name, tensor in expected.items() if tensor is not None}
        assert state.keys() == held.keys()
        assert all(state[name].equal(tensor) for name, tensor in held.items())
