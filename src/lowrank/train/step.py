"""The training step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lowrank.train import parallel

if TYPE_CHECKING:
    from lowrank.train.optimizer import Optimizer
    from lowrank.train.task import Task


Update = Callable[[float, Tensor, Callable[[], Tensor]], None]


def train_step(
    model: nn.Module,
    task: Task,
    parts: Sequence[Any],
    optimizer: Optimizer,
    rate: float,
    update: Update | None = None,
) -> tuple[Tensor, Tensor]:
    """One optimiser step over this process's `parts` of a batch; returns loss and gradient norm.

    Both are of the whole batch. Neither is read here, so a GPU is not waited for. `update(rate, norm,
    again)` may take the optimiser's place; `again()` takes the gradients of the same batch anew.
    """
    loss, norm = gradients(model, task, parts, optimizer)
    if update is None:
        optimizer.step(rate, norm)
    else:
        update(rate, norm, lambda: gradients(model, task, parts, optimizer)[1])
    return parallel.mean(loss), norm


@torch.enable_grad()
def gradients(
    model: nn.Module, task: Task, parts: Sequence[Any], optimizer: Optimizer
) -> tuple[Tensor, Tensor]:
    """The gradient of a batch in every trained parameter, clipped; returns this process's loss and the
    norm before clipping."""
    optimizer.drop_gradients()
    loss = torch.zeros((), device=task.device)
    for number, part in enumerate(parts, 1):
        parallel.communicate(model, now=number == len(parts))
        part_loss = task.loss(model, part) / len(parts)
        part_loss.backward()
        loss += part_loss.detach()
    return loss, optimizer.clip_gradients()
