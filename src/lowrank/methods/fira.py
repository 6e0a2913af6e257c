"""Fira (Chen et al. 2024, arXiv 2410.01623): GaLore, and the rest of the gradient at Adam's size.

With P, R = G P and Adam's direction N for R as in GaLore, row by row of the larger side

    phi_i = |N_i| / |R_i|,  S = phi (G - R P^T),  W <- W - rate (scale N P^T + S)

where S may grow by a factor of at most gamma = 1.01 a step in norm (the norm-growth limiter).

Defaults: every 200 steps, scale 0.25, gamma 1.01 (github.com/xichen-fy/Fira). Deviation: the authors'
code subtracts scale R P^T from G; this is the paper's formula.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from lowrank.methods import METHODS, Method
from lowrank.methods.galore import GaLoreOptimizer, Projected, Projections, projecting
from lowrank.optimizers.base import direction

GROWTH = 1.01
TINY = 1e-8


def adaption(N: Tensor, R: Tensor) -> Tensor:
    """|N_i| / |R_i| (m, 1): what Adam makes of the size of each row."""
    return N.norm(dim=1, keepdim=True) / (R.norm(dim=1, keepdim=True) + TINY)


def limited(update: Tensor, state: dict[str, Any]) -> Tensor:
    """The update, its norm at most GROWTH times that of the one before, which `state` keeps."""
    norm = update.norm()
    if (before := state.get("norm")) is not None:
        factor = (GROWTH * before / (norm + TINY)).clamp_max(1.0)
        update, norm = factor * update, factor * norm
    state["norm"] = norm.reshape(1)
    return update


class FiraOptimizer(GaLoreOptimizer):
    """GaLore's step and the rest of the gradient."""

    def update(self, G: Tensor, state: dict[str, Any], group: dict[str, Any]) -> Tensor:
        """scale N P^T + S."""
        P = state["projector"]
        R = G @ P
        N = direction(state, R, self.spec)
        rest = adaption(N, R) * torch.addmm(G, R, P.mT, alpha=-1)
        return group["scale"] * N @ P.mT + limited(rest, state)


class Fira(Projected):
    """GaLore, with the gradient's remainder at the size that Adam gives to the projected part."""

    algorithm = projecting("Fira", FiraOptimizer, extra=1, norm="own")


METHODS.add("fira", Method("Fira", "arXiv 2410.01623", Fira, Projections, optimizers=("adamw",)))
