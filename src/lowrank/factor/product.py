"""The product of a linear layer, by the faster of the two libraries that torch brings for a CPU.

torch multiplies matrices in float32 by MKL. On AMD's processors that uses no AVX-512, and is slow where a matrix
has few columns and they are no multiple of 16, as factors of a low rank have: oneDNN, which torch otherwise keeps
for convolutions, takes less time with AVX-512, and for such matrices with AVX2 as well.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lowrank.processor import of_intel

SMALLEST, SMALLEST_UNEVEN = 1 << 22, 1 << 19
"""Multiplications of a product, below which calling costs more than oneDNN saves; and where a side is no multiple
of 16."""
FEWEST = 4
"""Rows below which torch is as fast, as for the next token of a few texts."""


def product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """F.linear: x W^T + b for x (..., n), W (m, n), b (m) or None."""
    if suits_onednn(x, weight, bias):
        return _Product.apply(x, weight, bias)
    return F.linear(x, weight, bias)


def times(x: Tensor, matrix: Tensor) -> Tensor:
    """x @ M for x (..., n), M (n, m)."""
    return product(x, matrix.mT) if suits_onednn(x, matrix) else x @ matrix


def multiply(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """The same without gradients, for what computes its own."""
    if suits_onednn(x, weight, bias):
        return _by_onednn(x, weight, bias)
    return F.linear(x, weight, bias)


def add_product(into: Tensor, x: Tensor, weight: Tensor) -> None:
    """Add x W^T to a matrix in place, without gradients."""
    if suits_onednn(x, weight):
        into.add_(_narrow_first(x, weight, multiply))
    else:
        into.addmm_(x, weight.T)


def suits_onednn(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> bool:
    """Whether this product is oneDNN's: plain tensors in float32, large enough, on a processor where it pays."""
    return bool(
        not torch.compiler.is_compiling()
        and x.dtype is weight.dtype is torch.float32
        and x.is_cpu
        and weight.ndim == 2
        and _faster(x.numel() // max(1, x.shape[-1]), *weight.shape)
        and all(type(t) in (Tensor, torch.nn.Parameter) for t in (x, weight))
        and (bias is None or bias.dtype is torch.float32)
        and not torch.is_autocast_enabled("cpu")
        and torch._C._functorch.peek_interpreter_stack() is None  # torch.func
        and torch._C._len_torch_dispatch_stack() == 0  # what counts or replaces operators
    )


def _faster(rows: int, *sides: int) -> bool:
    """Whether oneDNN is there, wanted, and faster than what torch would take for so many rows and a weight of
    these sides."""
    even = not any(side % 16 for side in (rows, *sides))
    return bool(
        rows >= FEWEST
        and rows * prod(sides) >= (SMALLEST if even else SMALLEST_UNEVEN)
        and torch.backends.mkldnn.enabled
        and torch.backends.mkldnn.is_available()
        and torch.backends.mkl.is_available()
        and not (even and torch.backends.cpu.get_cpu_capability() != "AVX512")
        and not of_intel()
    )


def _narrow_first(x: Tensor, weight: Tensor, compute: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """x W^T, or (W x^T)^T where that spares work: oneDNN copies an x that is a transposed matrix, so the one with
    fewer rows takes its place. The result may lie transposed."""
    swapped = not x.is_contiguous() and len(weight) < len(x)
    return compute(weight, x).T if swapped else compute(x, weight)


def _by_onednn(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The product; a weight that is a part of a larger matrix, which oneDNN takes a thousand times as long for,
    is copied first."""
    if not (weight.is_contiguous() or weight.T.is_contiguous()):
        weight = weight.contiguous()
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


class _Product(torch.autograd.Function):
    """Its gradients are products again, so it can be differentiated twice."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _by_onednn(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,), (x, weight) = gradients, ctx.saved_tensors
        wanted = ctx.needs_input_grad
        compute = product if torch.is_grad_enabled() else multiply
        rows, given = gradient.flatten(0, -2), x.flatten(0, -2)
        at_x = compute(gradient, weight.T) if wanted[0] else None
        at_weight = _narrow_first(rows.T, given.T, compute) if wanted[1] else None
        return at_x, at_weight, rows.sum(0) if wanted[2] else None
