"""What is measured inside a run: ranks, norms and the size of one step, for each factorisable layer.

Nothing here forms the product of factors: all numbers come from QRs and Gram matrices of the
factors. For a dense layer the matrix itself takes the product's place, so the columns agree. So does
the dense weight of a layer that is more than two factors; one that has none is measured as not-a-number.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn

from lowrank.errors import LowrankError
from lowrank.factor import spectrum
from lowrank.factor.layers import Factorized, matricise
from lowrank.factor.svd import svdvals, working_precision
from lowrank.train import parallel

COLUMNS = (
    *("product_norm", "update_norm", "effective_step_size"),
    *("effective_rank", "entropy_rank", "stable_rank", "largest_possible_rank"),
)


def snapshot(model: nn.Module, names: Iterable[str]) -> dict[str, Any]:
    """Copies of the named layers' weights: factors (U, V), or the dense weight; sharded as they are."""
    return {
        name: [weight.detach().clone() for weight in _weights(model.get_submodule(name))]
        for name in names
    }


@torch.no_grad()
def singular_values(layer: nn.Module) -> Tensor:
    """Singular values of the layer's matrix (..., min(m, n) or r), largest first; not-a-numbers where
    a weight is not finite."""
    return _singular_values(layer, _whole(layer, _weights(layer)))


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
        now, then = _whole(layer, _weights(layer)), _whole(layer, before[name])
        values = _singular_values(layer, now)
        if not now:
            rows.append({"layer": name, **dict.fromkeys(COLUMNS, math.nan), COLUMNS[-1]: 0})
            continue
        # In float64: the squares of finite float32 numbers may be beyond float32.
        norm = float(values.double().norm())
        if isinstance(layer, Factorized):
            update = float(spectrum.difference_norm(*now, *then).norm())
        else:
            update = float((now[0].double() - then[0].double()).norm())
        rows.append(
            {
                "layer": name,
                "product_norm": norm,
                "update_norm": update,
                "effective_step_size": rate / norm / norm if norm else math.inf,
                "effective_rank": float(spectrum.effective_rank(values).mean()),
                "entropy_rank": float(spectrum.entropy_rank(values).mean()),
                "stable_rank": float(spectrum.stable_rank(values).mean()),
                "largest_possible_rank": values.shape[-1],
            }
        )
    return rows


def _weights(layer: nn.Module) -> list[Tensor]:
    """Factors (U, V), or the dense weight, or nothing."""
    if isinstance(layer, Factorized):
        return [layer.U, layer.V]
    if hasattr(layer, "dense_weight"):
        weight = cast(Any, layer).dense_weight()
        return [] if weight is None else [weight]
    return [cast(Tensor, layer.weight)]


def _whole(layer: nn.Module, weights: list[Tensor]) -> list[Tensor]:
    """Whole factors (U, V), or the whole dense weight as one matrix, or nothing."""
    whole = [parallel.full(weight) for weight in weights]
    if isinstance(layer, Factorized) or not whole:
        return whole
    if hasattr(layer, "dense_weight"):
        return [whole[0].flatten(1)]
    return [matricise(layer, tensor=whole[0])]


def _singular_values(layer: nn.Module, whole: list[Tensor]) -> Tensor:
    if not whole:
        return torch.empty(0)
    try:
        if isinstance(layer, Factorized):
            U, V = whole
            return spectrum.singular_values(U, V)
        return svdvals(whole[0].to(working_precision(whole[0].dtype)))
    except LowrankError:
        shape = whole[0].shape  # (..., m, n), or that of U (..., m, r)
        return torch.full((*shape[:-2], min(shape[-2:])), float("nan"))
