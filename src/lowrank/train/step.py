"""The training step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lowrank.train import parallel

if TYPE_CHECKING:
    from lowrank.train.optimizer import Optimizer
    from lowrank.train.task import Task


def train_step(
    model: nn.Module, task: Task, parts: Sequence[Any], optimizer: Optimizer, rate: float
) -> tuple[Tensor, Tensor]:
    """One optimiser step over this process's `parts` of a batch; returns loss and gradient norm.

    Both are of the whole batch. Neither is read here, so a GPU is not waited for.
    """
    loss = torch.zeros((), device=task.device)
    for number, part in enumerate(parts, 1):
        parallel.communicate(model, now=number == len(parts))
        part_loss = task.loss(model, part) / len(parts)
        part_loss.backward()
        loss += part_loss.detach()
    norm = optimizer.clip_gradients()
    optimizer.step(rate, norm)
    return parallel.mean(loss), norm
