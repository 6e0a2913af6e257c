"""Moments of an optimiser where a dense layer becomes two factors."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor, nn

from lowrank.factor.layers import Factorized, matricise


@torch.no_grad()
def carry_moments(
    state: Mapping[str, Tensor],
    model: nn.Module,
    names: Collection[str],
    roles: Mapping[str, str] | None,
) -> dict[str, Tensor]:
    """Optimiser state of the dense model as state of the factorised one.

    `roles` says what each state tensor is, by name (see `lowrank.optimizers`). A first moment M of a
    weight (m, n) becomes M V for U and M^T U for V: what it would be had the gradient always been
    taken in these factors. A second moment S becomes S (V * V) and S^T (U * U), exact where the
    entries of a gradient's row are uncorrelated. What is an optimiser's own is dropped. Without roles
    factors start with zero moments. Other parameters keep their state either way.
    """
    result = {}
    for key, value in state.items():
        parameter, _, kind = key.rpartition("/")
        layer_name, _, leaf = parameter.rpartition(".")
        if layer_name not in names or leaf != "weight":
            result[key] = value
        elif roles is not None and roles.get(kind) != "own":
            layer = model.get_submodule(layer_name)
            assert isinstance(layer, Factorized)
            for leaf, moved in zip("UV", _project(layer, kind, roles, value), strict=True):
                result[f"{layer_name}.{leaf}/{kind}"] = moved
    return result


def _project(
    layer: Factorized, kind: str, roles: Mapping[str, str], value: Tensor
) -> tuple[Tensor, Tensor]:
    U, V = layer.U.detach(), layer.V.detach()
    role = roles.get(kind)
    if role == "step":
        return value, value.clone()
    if role not in ("first", "second"):
        raise AssertionError(f"no rule to carry the optimiser's '{kind}' into factors")
    dense = layer.to_dense()
    dense.weight.copy_(value)  # type: ignore[operator, union-attr]
    moment = matricise(dense, getattr(layer, "matricisation", "channel"))
    if role == "second":
        U, V = U.square(), V.square()
    return moment @ V, moment.mT @ U
