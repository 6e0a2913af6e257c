"""AdamW (Loshchilov and Hutter 2019), by torch's fused kernel; its one rate is that of every group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lowrank.optimizers import OPTIMIZERS, Algorithm, Moves, Role

if TYPE_CHECKING:
    from lowrank.experiment.sections import TrainingSpec
    from lowrank.optimizers.base import Group


def build(groups: Sequence[Group], spec: TrainingSpec) -> list[Moves]:
    """One AdamW for all groups."""
    from lowrank.optimizers.base import AdamW

    return [AdamW(groups, spec)]


def values(group: Group) -> int:
    """Two moments of every parameter."""
    return 2 * sum(parameter.numel() for parameter in group.parameters.values())


STATES: dict[str, Role] = {"exp_avg": "first", "exp_avg_sq": "second", "step": "step"}
OPTIMIZERS.add("adamw", Algorithm("AdamW", build, STATES, values))
