"""The loss of a language model from what its head reads, without the logits of a whole batch."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from lowrank.factor.product import add_product, multiply

PART = 1 << 20
"""Logits at a time on a CPU: 4 MB of float32."""
FEWEST = 512
"""Rows at a time at least: products of fewer are slower."""


def head_loss(x: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """The mean cross entropy in nats of the logits x W^T for the targets.

    x (..., C), W (V, C), targets (...) from 0 to V - 1. On a CPU logits become the softmax and the gradient
    in place, some rows after others, so that with a large vocabulary a batch of logits never exists.
    """
    x, targets = x.flatten(0, -2), targets.flatten()
    plain = type(x) is Tensor and x.is_cpu and not torch.is_autocast_enabled("cpu")
    if not plain or torch.compiler.is_compiling():
        return F.cross_entropy(F.linear(x, weight).float(), targets)
    return _HeadLoss.apply(x, weight, targets)


class _HeadLoss(torch.autograd.Function):
    """The gradient at the logits is softmax - onehot, over the number of rows."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        trained = any(ctx.needs_input_grad)
        at_x, at_weight = (torch.zeros_like(x), torch.zeros_like(weight)) if trained else (x, x)
        rows, loss = max(FEWEST, PART // len(weight)), x.new_zeros(())
        minus_one = x.new_tensor(-1.0).expand(rows, 1)
        for x_part, target, at_x_part in zip(
            x.split(rows), targets.unsqueeze(1).split(rows), at_x.split(rows), strict=True
        ):
            log_p = torch.log_softmax(multiply(x_part, weight), 1)
            loss -= log_p.gather(1, target).sum()
            if trained:
                difference = log_p.exp_().scatter_add_(1, target, minus_one)
                add_product(at_x_part, difference, weight.T)
                add_product(at_weight, difference.T, x_part.T)
        if trained:
            ctx.save_for_backward(at_x, at_weight)
        return loss / len(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None]:
        at_x, at_weight = ctx.saved_tensors
        share = gradient / len(at_x)
        return at_x * share, at_weight * share, None
