"""Spectron (Janson et al. 2026, arXiv 2602.12429): steps of the factors with a bounded product.

For each layer, with the gradients at U (m, r) and V (n, r),

    M_U <- beta M_U + (1 - beta) G_U,   O_U = NewtonSchulz(M_U),   and so for V
    rho = rate / (|U|_2 + |V|_2 + 1),   U <- U - rho O_U,  V <- V - rho O_V

O has orthonormal columns, but for the error of the iteration, so that U V^T moves by at most the rate
in operator norm. The norms are estimated by one power iteration a step, begun where the last ended.
Everything else is moved by the training section's optimiser at the same rate.

Defaults: beta 0.95, five Newton-Schulz iterations, one power iteration, as in the paper's algorithm.
Deviation: the first power iteration begins at the exact singular vector, not at a random one. Factors
decay as the factor section says.
"""

from __future__ import annotations

from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from lowrank.factor.svd import svd, working_precision
from lowrank.methods import METHODS, Method, Options
from lowrank.methods.base import by_layer, finite
from lowrank.methods.factored import Factored
from lowrank.optimizers import Algorithm
from lowrank.optimizers.base import Group, OwnOptimizer

ITERATIONS = 5
QUINTIC = 3.4445, -4.7750, 2.0315
"""Coefficients of Muon's Newton-Schulz iteration (Jordan et al. 2024)."""


class Momentum(Options):
    """Settings."""

    beta: float = Field(0.95, ge=0, lt=1, description="Decay of the mean of gradients.")


def orthogonalised(M: Tensor) -> Tensor:
    """M (..., m, n) with its singular values brought to between 0.7 and 1.2: a polynomial of it."""
    a, b, c = QUINTIC
    tall = M.shape[-2] > M.shape[-1]
    X = M.mT if tall else M
    X = X / X.norm(dim=(-2, -1), keepdim=True).clamp_min(1e-7)
    for _ in range(ITERATIONS):
        A = X @ X.mT
        X = a * X + (b * A + c * A @ A) @ X
    return X.mT if tall else X


def operator_norm(W: Tensor, state: dict[str, Any]) -> Tensor:
    """|W|_2 (...) of W (..., m, r) by one power iteration; `state` keeps the left vector u (..., m, 1)."""
    if "u" not in state:
        left = svd(W.to(working_precision(W.dtype)))[0] if finite(W) else W
        state["u"] = left[..., :1].to(W).contiguous()
    v = nn.functional.normalize(W.mT @ state["u"], dim=-2)
    product = W @ v
    state["u"] = nn.functional.normalize(product, dim=-2)
    return (state["u"] * product).sum((-2, -1), keepdim=True)


class SpectronOptimizer(OwnOptimizer):
    """Both factors of a layer by steps that bound their product's."""

    def move(self, group: dict[str, Any]) -> None:
        """Move U and V."""
        steps, norms = [], []
        for factor in group["params"]:
            state = self.state[factor]
            mean = state.setdefault("momentum_buffer", torch.zeros_like(factor))
            mean.lerp_(factor.grad, 1 - group["beta"])
            steps.append(orthogonalised(mean))
            norms.append(operator_norm(factor, state))
        rho = group["lr"] / (norms[0] + norms[1] + 1)
        for factor, step in zip(group["params"], steps, strict=True):
            factor.sub_(rho * step)


def values(group: Group) -> int:
    """A mean and a vector of each factor."""
    return sum(p.numel() + p[..., :1].numel() for p in group.parameters.values())


SPECTRON = Algorithm(
    "Spectron",
    lambda groups, spec: [SpectronOptimizer(groups, spec)],
    {"momentum_buffer": "first", "u": "own"},
    values,
)


class Spectron(Factored):
    """U V^T by orthogonalised momentum, at a rate over |U| + |V| + 1 in operator norm."""

    def groups(self, model: nn.Module) -> list[Group]:
        """Each layer's factors under Spectron."""
        return by_layer(super().groups(model), SPECTRON, beta=self.options.beta)


METHODS.add("spectron", Method("Spectron", "arXiv 2602.12429", Spectron, Momentum))
