"""InRank (Zhao et al. 2023, arXiv 2306.11250): the rank grows while the spectrum asks for it.

A layer is U V^T of rank k + b: k modes and a buffer of b. Every `every` steps, from `warmup` steps on
and for the share `until` of all, with the singular values s of the product (min(m, n) of them)

    g(k) = 1 - var(s_{k+1}, ..., as zero before) / var(s)

k becomes the smallest number of modes from k to k + b - 1 with g(k) above `explained`, or the last. New
columns begin with U = 0 and V drawn, so that the product stays, and with zero moments; old ones keep
theirs. After that the product is cut to its k modes in balanced factors, whose moments begin at zero.
The rank, with its buffer, is at most the factor section's.

Defaults: 2 modes at first, 0.9, every 25 steps after 200, as in the authors' GPT-2
(github.com/jiaweizzhao/InRank), whose buffer of 100 is about a quarter of its largest rank. Deviations:
the authors' new columns are random on both sides, so that a layer jumps when it grows; their first
stage is a number of steps, here a fifth of the run.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from lowrank.factor.convert import choose_rank, factors
from lowrank.factor.layers import Factorized, from_dense, matricise
from lowrank.factor.spectrum import singular_values
from lowrank.factor.svd import balanced
from lowrank.methods import METHODS, Method, Options
from lowrank.methods.base import Convert, Ranked, Run, finite, generator


class Growth(Options):
    """Settings."""

    first: int = Field(2, gt=0, description="Modes at the first step.")
    buffer: float = Field(0.25, gt=0, lt=1, description="Buffer over the largest rank.")
    explained: float = Field(0.9, gt=0, lt=1, description="Explained share that is enough.")
    every: int = Field(25, gt=0, description="Steps between two looks at the spectrum.")
    warmup: int = Field(200, ge=0, description="Steps before the first.")
    until: float = Field(0.2, gt=0, lt=1, description="Share of the steps in which ranks grow.")


def explained(s: Tensor, modes: int) -> Tensor:
    """g(k) of singular values s (..., min(m, n))."""
    rest = s.clone()
    rest[..., :modes] = 0
    return 1 - rest.var(-1) / s.var(-1)


class InRank(Ranked):
    """U V^T of a rank that grows until its modes explain enough of the spectrum."""

    def largest(self, m: int, n: int) -> int:
        """The most that a rank and its buffer may be: the factor section's rank."""
        factor = self.spec.factors
        assert factor is not None
        return choose_rank(m, n, factor.rank_fraction, factor.rank_multiple)

    def buffer(self, largest: int) -> int:
        """b, which leaves room for one mode."""
        return max(1, min(largest - 1, round(self.options.buffer * largest)))

    def build(self, model: nn.Module, ranks: dict[str, int]) -> None:
        """Factorise all chosen layers, at their first rank if none is given."""
        super().build(model, ranks or self._first(model))

    def _matrices(self, model: nn.Module) -> dict[str, tuple[int, int]]:
        """Outputs and inputs of each matrix, while it is dense."""
        assert self.spec.factors is not None
        view, found = self.spec.factors.matricisation, {}
        for target in self.targets(model):
            m, n = matricise(model.get_submodule(target.name), view).shape[-2:]
            found[target.name] = m, n
        return found

    def _first(self, model: nn.Module) -> dict[str, int]:
        found = {}
        for name, (m, n) in self._matrices(model).items():
            largest = self.largest(m, n)
            found[name] = min(largest, self.options.first + self.buffer(largest))
        return found

    def expected(self) -> list[tuple[int, Convert]]:
        """The largest ranks throughout."""

        def convert(model: nn.Module) -> None:
            largest = {name: self.largest(m, n) for name, (m, n) in self._matrices(model).items()}
            self.build(model, largest)

        return [(0, convert)]

    @property
    def last(self) -> int:
        """The steps in which ranks may grow."""
        return self.spec.step_at(self.options.until)

    def at(self) -> list[int]:
        """When the spectrum is looked at, and when the buffer goes."""
        options = self.options
        looks = range(options.every, self.last, options.every)
        return [*(step for step in looks if step > options.warmup), self.last]

    @torch.no_grad()
    def event(self, run: Run) -> None:
        """Grow, or cut the buffer off."""
        layers: dict[str, Factorized] = {}
        state: dict[str, Tensor] = {}
        held = run.optimizer.state()
        for name, layer in factors(run.model).items():
            if not finite(layer.U, layer.V):
                return
            largest = self.largest(*layer.matrix_shape)
            buffer = self.buffer(largest)
            modes = self._modes(layer, layer.rank - buffer, largest - buffer)
            if run.step == self.last:
                layers[name] = self._cut(layer, layer.rank - buffer)
            elif modes + buffer > layer.rank:
                draw = generator(self.spec, name, run.step)
                layers[name] = self._grown(layer, modes + buffer, draw)
                state |= _widened(held, name, layer, modes + buffer)
        if layers:
            self.change(run, layers, state)

    def _modes(self, layer: Factorized, modes: int, most: int) -> int:
        """How many modes explain enough, at least those that there are."""
        s = singular_values(layer.U, layer.V)
        missing = min(layer.matrix_shape) - s.shape[-1]
        s = torch.cat([s, s.new_zeros(*s.shape[:-1], missing)], -1)
        choices = range(modes, min(layer.rank, most + 1))
        enough = (k for k in choices if (explained(s, k) > self.options.explained).all())
        return next(enough, max(choices))

    def _grown(self, layer: Factorized, rank: int, draw: torch.Generator) -> Factorized:
        new, (U, V) = _of_rank(layer, rank), (layer.U, layer.V)
        more, bound = rank - layer.rank, V.shape[-2] ** -0.5
        columns = (2 * torch.rand(*V.shape[:-1], more, generator=draw) - 1).to(V) * bound
        new.set_factors(
            torch.cat([U, U.new_zeros(*U.shape[:-1], more)], -1), torch.cat([V, columns], -1)
        )
        return new

    def _cut(self, layer: Factorized, rank: int) -> Factorized:
        new = _of_rank(layer, rank)
        new.set_factors(*balanced(layer.U, layer.V, rank))
        return new


def _of_rank(layer: Factorized, rank: int) -> Factorized:
    """A layer of the same kind and bias, its factors still to be set."""
    new = from_dense(layer.to_dense(), rank, getattr(layer, "matricisation", "channel"))
    new.bias = layer.bias
    return new


def _widened(
    state: dict[str, Tensor], name: str, layer: Factorized, rank: int
) -> dict[str, Tensor]:
    """The optimiser's state of a layer's factors, with zeros for new columns."""
    found = {}
    for side, factor in (("U", layer.U), ("V", layer.V)):
        for key, value in state.items():
            if key.startswith(f"{name}.{side}/"):
                more = value.new_zeros(*value.shape[:-1], rank - layer.rank)
                found[key] = torch.cat([value, more], -1) if value.shape == factor.shape else value
    return found


METHODS.add("inrank", Method("InRank", "arXiv 2306.11250", InRank, Growth))
