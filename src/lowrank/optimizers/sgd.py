"""Stochastic gradient descent with momentum, torch's own; its decay is coupled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lowrank.optimizers import OPTIMIZERS, Algorithm

if TYPE_CHECKING:
    import torch

    from lowrank.experiment.sections import TrainingSpec
    from lowrank.optimizers.base import Group


def build(groups: Sequence[Group], spec: TrainingSpec) -> list[torch.optim.Optimizer]:
    """One SGD for all groups."""
    from torch.optim import SGD

    arguments = [group.for_torch() for group in groups]
    return [SGD(arguments, lr=0.0, momentum=spec.momentum, nesterov=spec.nesterov)]


def values(group: Group) -> int:
    """One momentum of every parameter."""
    return sum(parameter.numel() for parameter in group.parameters.values())


OPTIMIZERS.add("sgd", Algorithm("SGD", build, {"momentum_buffer": "first"}, values))
