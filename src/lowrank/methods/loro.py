"""LORO (Mo et al. 2025, ICLR): Riemannian steps on matrices of rank r, now and then, and Adam between.

With the optimiser's directions D_U, D_V for the gradients G V and G^T U of the factors, each step is

    U <- U - rate (r / min(m, n)) D_U,  V <- V - rate (r / min(m, n)) D_V

but every `every`-th, which moves the product along its tangent space. With U = Q_U R_U, V = Q_V R_V and
G Q_V, Q_U^T G taken as D_U R_V^-1 and R_U^-T D_V^T

    T = Q_U Q_U^T G + (1 - Q_U Q_U^T) G Q_V Q_V^T
    U V^T <- the best rank-r approximation of U V^T - rate T, in balanced factors

which needs an SVD of 2 r x 2 r and no m x n matrix. After it all moments begin at zero and the rate
rises again over `warmup` steps.

Defaults: every 500 steps, 5 of warm-up, as published (github.com/mzf666/LORO-main). Under sgd
without momentum T is the projected gradient itself; at full rank the exact step is then dense SGD's.
"""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from lowrank.factor.svd import balanced
from lowrank.methods import METHODS, Method, Options
from lowrank.methods.base import Run, by_layer, finite, rising
from lowrank.methods.factored import Factored
from lowrank.optimizers import Algorithm
from lowrank.optimizers.base import (
    DIRECTIONS,
    MOMENTS,
    Group,
    OwnOptimizer,
    direction,
    moment_count,
)


class Retractions(Options):
    """Settings."""

    every: int = Field(500, gt=0, description="Steps from one exact step to the next.")
    warmup: int = Field(5, ge=0, description="Steps over which the rate rises after an exact one.")


def tangent_step(
    U: Tensor, V: Tensor, D_U: Tensor, D_V: Tensor, rate: float
) -> tuple[Tensor, Tensor]:
    """Balanced factors of the best rank-r approximation of U V^T - rate T (see above)."""
    Q_U, R_U = torch.linalg.qr(U)
    Q_V, R_V = torch.linalg.qr(V)
    G_Q = D_U @ torch.linalg.pinv(R_V)  # G Q_V (m, r)
    Q_G = torch.linalg.pinv(R_U).mT @ D_V.mT  # Q_U^T G (r, n)
    rest = G_Q - Q_U @ (Q_U.mT @ G_Q)
    left = torch.cat([Q_U, rest], -1)
    right = torch.cat([V @ R_U.mT - rate * Q_G.mT, -rate * Q_V], -1)
    return balanced(left, right, U.shape[-1])


class LoroOptimizer(OwnOptimizer):
    """Both factors of a layer."""

    def move(self, group: dict[str, Any]) -> None:
        """Move U and V."""
        U, V = group["params"]
        D_U, D_V = (direction(self.state[p], p.grad, self.spec) for p in (U, V))
        exact = int(self.state[U]["step"]) % group["every"] == 0
        if exact and finite(U, V, D_U, D_V):
            for old, new in zip((U, V), tangent_step(U, V, D_U, D_V, group["lr"]), strict=True):
                old.copy_(new)
            return
        scale = U.shape[-1] / min(U.shape[-2], V.shape[-2])
        U.sub_(D_U, alpha=group["lr"] * scale)
        V.sub_(D_V, alpha=group["lr"] * scale)


LORO = Algorithm(
    "LORO",
    lambda groups, spec: [LoroOptimizer(groups, spec)],
    MOMENTS,
    lambda group: group.options["moments"] * sum(p.numel() for p in group.parameters.values()),
)


class Loro(Factored):
    """U V^T by Adam, and every T steps along the tangent space of matrices of its rank."""

    def groups(self, model: nn.Module) -> list[Group]:
        """Each layer's factors under LORO."""
        options = {"every": self.options.every, "moments": moment_count(self.spec.training)}
        return by_layer(super().groups(model), LORO, **options)

    def at(self) -> range:
        """The exact steps, but the last."""
        return range(self.options.every, self.spec.training.steps, self.options.every)

    def event(self, run: Run) -> None:
        """Forget all moments."""
        run.optimizer.reset(run.model.parameters())

    def rate(self, step: int, rate: float) -> float:
        """Up again after an exact step."""
        every = self.options.every
        return rate if step < every else rising(rate, step % every, self.options.warmup)


METHODS.add(
    "loro",
    Method("LORO", "ICLR 2025, openreview i0zzO7Hslk", Loro, Retractions, optimizers=DIRECTIONS),
)
