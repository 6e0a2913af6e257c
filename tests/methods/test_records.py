"""What the methods' records say is so: which they train with, and how many numbers their optimisers hold."""

from __future__ import annotations

import pytest
import torch
from lives import OPTIONS, run_of

from lowrank.experiment.build import build_model
from lowrank.methods import METHODS, begin
from lowrank.optimizers import OPTIMIZERS
from lowrank.train.optimizer import Optimizer

CUT = {"dense", "factored", "pretrained", "khodak", "cola"}
"""Nothing of these needs a whole layer in one place: their factors are Linear layers' or the standard ones."""
BY_ADAM, BY_DIRECTIONS = {"apollo", "fira"}, {"dlrt", "galore", "loro"}


def test_methods_name_the_optimisers_models_and_devices_that_they_go_with():
    records = {name: METHODS[name] for name in METHODS.names()}
    assert {name for name, record in records.items() if record.sharded} == CUT
    assert {name for name, record in records.items() if not record.kernels} == {"cola"}
    taken = {name: set(record.optimizers) for name, record in records.items() if record.optimizers}
    assert taken == {
        **{name: {"adamw"} for name in BY_ADAM},
        **{name: {"adamw", "sgd"} for name in BY_DIRECTIONS},
    }


@pytest.mark.filterwarnings("ignore:At their rank")
@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("name", sorted(OPTIONS.keys() - {"dlrt"}))  # its life takes its steps
def test_an_optimiser_holds_as_many_numbers_as_its_record_says(name, optimizer):
    """After one step of random gradients; counters of steps left out."""
    if METHODS[name].optimizers and optimizer not in METHODS[name].optimizers:
        pytest.skip(f"{name} does not go with {optimizer}")
    spec = run_of(name, options=OPTIONS[name], optimizer=optimizer)
    model, life = build_model(spec, 30), begin(spec)
    groups = life.groups(model)
    subject = Optimizer(model, spec.training, None, groups)
    for parameter in subject.parameters:
        parameter.grad = torch.randn(parameter.shape)
    subject.step(0.01, torch.ones(()))
    held = sum(
        tensor.numel()
        for key, tensor in subject.state().items()
        if subject.roles[key.rpartition("/")[0]][key.rpartition("/")[2]] != "step"
    )
    assert held == sum((g.optimizer or OPTIMIZERS[optimizer]).values(g) for g in groups) > 0
