"""DLRT (Schotthoefer et al. 2022, arXiv 2205.13571): dynamical low-rank training, by K-, L- and S-steps.

A layer is U S V^T with orthonormal U (m, r), V (n, r) and S (r, r). With D the training section's
optimiser's direction for a gradient, each step is

    K = U S,    K <- K - rate D(G V),     U' = orth(K)
    L = V S^T,  L <- L - rate D(G^T U),   V' = orth(L)
    S <- (U'^T U) S (V^T V'),  U <- U',  V <- V',  and S moves by the gradient U^T G V

each by a gradient of its own: three passes a step, the last of which moves all that is not factorised,
too. With S = 1 in the first two the gradients at U = K and V = L are those of K and L, so the layer has
one formula.

This is the paper's integrator of fixed rank; the one that chooses ranks is not here. Bases do not decay:
S does by the section's weight decay, which is Frobenius decay of the product. Moments of K and L are
kept while their bases turn, as in the authors' code (github.com/CSMMLab/DLRT-Net). At full rank, of
square matrices under sgd without momentum, a step is dense SGD's.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from lowrank.factor.convert import factors, place
from lowrank.factor.dense import affine
from lowrank.factor.layers import Factorized, FactorizedConv2d
from lowrank.factor.product import times
from lowrank.methods import METHODS, Method
from lowrank.methods.base import Run, finite
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


class Core(nn.Module):
    """y = U S V^T x + b; U and V are those of `low`."""

    def __init__(self, low: Factorized) -> None:
        super().__init__()
        self.low = low
        U = low.U.detach()
        self.S = nn.Parameter(torch.zeros(*U.shape[:-2], low.rank, low.rank).to(U))

    @property
    def bias(self) -> Any:
        """That of the factors."""
        return self.low.bias

    def forward(self, x: Tensor) -> Tensor:
        low = self.low
        if isinstance(low, FactorizedConv2d):  # S is small beside the kernel: U S is one
            return functional_call(low, {"U": low.U @ self.S}, (x,))
        return affine(F.linear(times(x, low.V), self.S), low.U, low.bias)

    def dense_weight(self) -> Tensor:
        """U S V^T, in the dense layer's layout."""
        return self.low.dense_weight(self.low.U @ self.S @ self.low.V.mT)

    @torch.no_grad()
    def stand(self, U: Tensor, S: Tensor | None, V: Tensor) -> None:
        """Take over these three; without S the one that changes nothing."""
        self.low.set_factors(U, V)
        self.S.copy_(torch.eye(self.low.rank).to(U) if S is None else S)


class Bases(OwnOptimizer):
    """K- and L-steps: only when asked, for the S-step leaves the bases alone."""

    def move(self, group: dict[str, Any]) -> None:
        """Nothing: the S-step's gradients at U and V are not theirs."""

    def turned(self, factor: nn.Parameter, rate: float) -> Tensor:
        """An orthonormal basis of where a factor goes by its gradient."""
        assert factor.grad is not None
        moved = factor - rate * direction(self.state[factor], factor.grad, self.spec)
        return torch.linalg.qr(moved).Q


BASES = Algorithm(
    "K- and L-steps",
    lambda groups, spec: [Bases(groups, spec)],
    MOMENTS,
    lambda group: group.options["moments"] * sum(p.numel() for p in group.parameters.values()),
)


class DLRT(Factored):
    """U S V^T with orthonormal U and V: both are moved and turned first, then S between them."""

    passes = 3
    decays_factors = False

    def convert(self, model: nn.Module) -> None:
        """Factorise, and part each pair of factors into bases and a core."""
        super().convert(model)
        for name, low in factors(model).items():
            layer = Core(low)
            if not low.U.is_meta:
                (U, R), (V, T) = torch.linalg.qr(low.U.detach()), torch.linalg.qr(low.V.detach())
                layer.stand(U, R @ T.mT, V)
            place(model, name, layer)

    def groups(self, model: nn.Module) -> list[Group]:
        """The bases by themselves."""
        options = {"moments": moment_count(self.spec.training)}
        return [
            Group(group.name, group.parameters, optimizer=BASES, options=options)
            if group.name == "factors"
            else group
            for group in super().groups(model)
        ]

    @torch.no_grad()
    def before_step(self, run: Run) -> None:
        """Stand at K V^T, where the first gradients are taken."""
        self.layers = [m for m in run.model.modules() if isinstance(m, Core)]
        self.began = [(m.low.U.clone(), m.S.clone(), m.low.V.clone()) for m in self.layers]
        for layer, (U, S, V) in zip(self.layers, self.began, strict=True):
            layer.stand(U @ S, None, V)

    @torch.no_grad()
    def update(self, run: Run, rate: float, norm: Tensor, again: Callable[[], Tensor]) -> None:
        """The three steps, or none where a gradient is about to end the run."""
        layers = list(zip(self.layers, self.began, strict=True))
        if not norm.is_cuda and not finite(norm):  # a GPU is not waited for: see Optimizer.step
            for layer, (U, S, V) in layers:
                layer.stand(U, S, V)
            return
        (bases,) = (o for o in run.optimizer.torch if isinstance(o, Bases))
        left = [bases.turned(layer.low.U, rate) for layer in self.layers]
        for layer, (U, S, V) in layers:
            layer.stand(U, None, V @ S.mT)
        again()
        right = [bases.turned(layer.low.V, rate) for layer in self.layers]
        for (layer, (U, S, V)), new_U, new_V in zip(layers, left, right, strict=True):
            layer.stand(new_U, (new_U.mT @ U) @ S @ (V.mT @ new_V), new_V)
        run.optimizer.step(rate, again())


METHODS.add("dlrt", Method("DLRT", "arXiv 2205.13571", DLRT, optimizers=DIRECTIONS))
