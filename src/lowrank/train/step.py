"""The training step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from lowrank.train.optimizer import Optimizer
    from lowrank.train.task import Task


def train_step(
    model: nn.Module, task: Task, parts: Sequence[Any], optimizer: Optimizer, rate: float
) -> tuple[Tensor, Tensor]:
    """One optimiser step over a global batch computed in `parts`; returns loss and gradient norm.

    Neither is read here, so a GPU is not waited for.
    """
    loss = torch.zeros((), device=task.device)
    for part in parts:
        part_loss = task.loss(model, part) / len(parts)
        part_loss.backward()
        loss += part_loss.detach()
    norm = optimizer.clip_gradients()
    optimizer.step(rate, norm)
    return loss, norm
