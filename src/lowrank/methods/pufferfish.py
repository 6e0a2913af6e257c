"""Pufferfish (Wang et al. 2021, arXiv 2103.03936): a dense warm-up, first layers dense, then factors.

All is dense for the share `until` of the steps. Then each chosen layer but those of the first
`dense_blocks` blocks becomes the balanced factors of its best approximation,

    A S B^T = W,  U = A_r sqrt(S_r),  V = B_r sqrt(S_r)

and all trains on under the same schedule. Moments of the factors begin at zero.

Defaults: 80 of 300 epochs, as published (github.com/hwang595/Pufferfish); its rank is a quarter of the
full one, here the factor section's. Which layers stay dense it says for each network; here it is a
number of blocks. Deviation: the authors' optimiser is made anew at the switch, so that all moments are
lost; here those of what stays are kept.
"""

from __future__ import annotations

from functools import partial

from pydantic import Field
from torch import nn

from lowrank import models
from lowrank.errors import LowrankError
from lowrank.factor.convert import choose_rank
from lowrank.factor.layers import matricise
from lowrank.methods import METHODS, Method, Options
from lowrank.methods.base import Convert, Ranked, Run, finite


class WarmUp(Options):
    """Settings."""

    until: float = Field(80 / 300, gt=0, lt=1, description="Share of the steps that are dense.")
    dense_blocks: int = Field(1, ge=0, description="First blocks that stay dense.")


class DenseFirst(Ranked):
    """Base: dense at first, and the first blocks to the end."""

    def targets(self, model: nn.Module) -> list[models.Target]:
        """The chosen layers of later blocks."""
        found = super().targets(model)
        later = [target for target in found if target.block >= self.options.dense_blocks]
        if not later:
            raise LowrankError(
                f"factors.method.options.dense_blocks: {self.options.dense_blocks} leave no layer to "
                f"factorise: give a number below {1 + max(target.block for target in found)}."
            )
        return later

    def matrix_shapes(self, model: nn.Module) -> dict[str, tuple[int, int]]:
        """Outputs and inputs of each matrix that is to be factorised, while it is dense."""
        assert self.spec.factors is not None
        view = self.spec.factors.matricisation
        shapes = {}
        for target in self.targets(model):
            m, n = matricise(model.get_submodule(target.name), view).shape[-2:]
            shapes[target.name] = (m, n)
        return shapes


class Pufferfish(DenseFirst):
    """Dense for a while and in the first blocks; then factors of the trained weights."""

    def ranks(self, model: nn.Module) -> dict[str, int]:
        """The factor section's, of the dense model."""
        factor = self.spec.factors
        assert factor is not None
        return {
            name: choose_rank(m, n, factor.rank_fraction, factor.rank_multiple)
            for name, (m, n) in self.matrix_shapes(model).items()
        }

    def phases(self) -> list[tuple[int, Convert]]:
        """Both are known beforehand."""
        return [
            (0, partial(self.build, ranks={})),
            (self.last, lambda model: self.build(model, self.ranks(model))),
        ]

    @property
    def last(self) -> int:
        """The dense steps."""
        return self.spec.step_at(self.options.until)

    def at(self) -> tuple[int]:
        """The switch."""
        return (self.last,)

    def event(self, run: Run) -> None:
        """Factorise."""
        if finite(*run.model.parameters()):
            self.split(run, self.ranks(run.model))


METHODS.add("pufferfish", Method("Pufferfish", "arXiv 2103.03936", Pufferfish, WarmUp))
