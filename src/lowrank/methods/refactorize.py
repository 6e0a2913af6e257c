"""Weight refactorisation and momentum reset (Glentis et al. 2025, arXiv 2505.22922).

U and V are trained by the training section's optimiser. After every `every` steps their product is
split anew into balanced factors, and their moments begin at zero:

    A S B^T = U V^T,  U <- A sqrt(S),  V <- B sqrt(S),  m <- 0,  v <- 0

so that U^T U = V^T V. The product is unchanged. The rate then rises again over `recovery` steps.

Defaults: every 200 steps (the paper), 10 steps of recovery (the authors' code, OptimAI-Lab's
Memory_Efficient_Pretraining). Deviations: the rate rises from a tenth, not from a thousandth; the last
steps, which nothing would follow, are left alone.
"""

from __future__ import annotations

import torch
from pydantic import Field

from lowrank.factor.convert import factors
from lowrank.factor.svd import balanced
from lowrank.methods import METHODS, Method, Options
from lowrank.methods.base import Run, finite, rising
from lowrank.methods.factored import Factored


class Refactorizing(Options):
    """Settings."""

    every: int = Field(200, gt=0, description="Steps between two refactorisations.")
    recovery: int = Field(10, ge=0, description="Steps over which the rate rises again.")


class Refactorize(Factored):
    """U V^T, split anew into balanced factors every T steps, with moments from zero."""

    def at(self) -> range:
        """Every T steps, but not after the last."""
        return range(self.options.every, self.spec.training.steps, self.options.every)

    @torch.no_grad()
    def event(self, run: Run) -> None:
        """Split every product anew."""
        for layer in factors(run.model).values():
            if finite(layer.U, layer.V):
                layer.set_factors(*balanced(layer.U, layer.V))
                run.optimizer.reset([layer.U, layer.V])

    def rate(self, step: int, rate: float) -> float:
        """From a tenth up over the steps after a refactorisation."""
        every, recovery = self.options.every, self.options.recovery
        return rate if step < every else rising(rate, step % every, recovery)


METHODS.add(
    "refactorize",
    Method("refactorisation", "arXiv 2505.22922", Refactorize, Refactorizing),
)
