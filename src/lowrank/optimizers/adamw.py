"""AdamW (Loshchilov and Hutter 2019), torch's own; its one rate is that of every group."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lowrank.optimizers import OPTIMIZERS, Algorithm, Role

if TYPE_CHECKING:
    import torch

    from lowrank.experiment.sections import TrainingSpec
    from lowrank.optimizers.base import Group


def build(groups: Sequence[Group], spec: TrainingSpec) -> list[torch.optim.Optimizer]:
    """One AdamW for all groups, by torch's fused kernel."""
    from torch.optim import AdamW

    return [AdamW([g.for_torch() for g in groups], lr=0.0, betas=spec.betas, fused=True)]


def values(group: Group) -> int:
    """Two moments of every parameter."""
    return 2 * sum(parameter.numel() for parameter in group.parameters.values())


STATES: dict[str, Role] = {"exp_avg": "first", "exp_avg_sq": "second", "step": "step"}
OPTIMIZERS.add("adamw", Algorithm("AdamW", build, STATES, values))
