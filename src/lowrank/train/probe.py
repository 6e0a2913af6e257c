"""What is measured inside a run: ranks, norms and the size of one step, for each factorisable layer.

Nothing here forms the product of factors: all numbers come from QRs and Gram matrices of the
factors. For a dense layer the matrix itself takes the product's place, so the columns agree.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from lowrank.errors import LowrankError
from lowrank.factor import spectrum
from lowrank.factor.layers import Factorized, matricise


def snapshot(model: nn.Module, names: Iterable[str]) -> dict[str, Any]:
    """Copies of the named layers' factors (U, V) or of their dense matrices."""
    copies: dict[str, Any] = {}
    for name in names:
        layer = model.get_submodule(name)
        if isinstance(layer, Factorized):
            copies[name] = (layer.U.detach().clone(), layer.V.detach().clone())
        else:
            copies[name] = matricise(layer).detach().clone()
    return copies


@torch.no_grad()
def singular_values(layer: nn.Module) -> Tensor:
    """Singular values of the layer's matrix (..., min(m, n) or r), largest first; not-a-numbers where
    the matrix is not finite, be it because the product of finite factors is too large."""
    if isinstance(layer, Factorized):
        try:
            return spectrum.singular_values(layer.U, layer.V)
        except LowrankError:
            return torch.full((*layer.U.shape[:-2], layer.U.shape[-1]), float("nan"))
    matrix = matricise(layer).float()
    if not torch.isfinite(matrix).all():
        return torch.full((*matrix.shape[:-2], min(matrix.shape[-2:])), float("nan"))
    return torch.linalg.svdvals(matrix)


@torch.no_grad()
def measure(
    model: nn.Module, names: Iterable[str], rate: float, before: dict[str, Any]
) -> list[dict[str, Any]]:
    """One row a layer after a step of size `rate` from the snapshot `before`.

    `product_norm` |W|_F, `update_norm` |W_after - W_before|_F, `effective_step_size` rate / |W|_F^2
    (Khodak et al. 2021), and effective, entropy and stable rank of W, W being the product.
    """
    rows = []
    for name in names:
        layer = model.get_submodule(name)
        values = singular_values(layer)
        norm = float(values.square().sum().sqrt())
        if isinstance(layer, Factorized):
            moved = spectrum.difference_norm(layer.U, layer.V, *before[name])
            update = float(moved.square().sum().sqrt())
        else:
            update = float((matricise(layer) - before[name]).norm())
        rows.append(
            {
                "layer": name,
                "product_norm": norm,
                "update_norm": update,
                "effective_step_size": rate / norm**2 if norm else float("inf"),
                "effective_rank": float(spectrum.effective_rank(values).mean()),
                "entropy_rank": float(spectrum.entropy_rank(values).mean()),
                "stable_rank": float(spectrum.stable_rank(values).mean()),
                "largest_possible_rank": values.shape[-1],
            }
        )
    return rows
