"""Stochastic gradient descent with momentum; its decay is coupled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lowrank.optimizers import OPTIMIZERS, Algorithm, Moves

if TYPE_CHECKING:
    from lowrank.experiment.sections import TrainingSpec
    from lowrank.optimizers.base import Group


def build(groups: Sequence[Group], spec: TrainingSpec) -> list[Moves]:
    """One SGD for all groups."""
    from lowrank.optimizers.base import SGD

    return [SGD(groups, spec)]


def values(group: Group) -> int:
    """One momentum of every parameter."""
    return sum(parameter.numel() for parameter in group.parameters.values())


OPTIMIZERS.add("sgd", Algorithm("SGD", build, {"momentum_buffer": "first"}, values))
