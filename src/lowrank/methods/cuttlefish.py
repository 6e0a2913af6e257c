"""Cuttlefish (Wang et al. 2023, arXiv 2305.02538): Pufferfish that finds switch and ranks by itself.

All is dense at first. At each of `measures` times, spread evenly over the run, the stable rank
|W|_F^2 / |W|_2^2 of each chosen layer is taken. A layer is settled once, of its stable ranks smoothed by
an exponential mean over `window` of them, the last `window` differences are `threshold` on average or
less. When all are, or at the share `latest` of the steps, each becomes factors of rank

    xi stable rank,  xi = full rank / stable rank at the first step

at least `least` of the full one and rounded as the factor section says; where that saves no parameters
it stays dense. The section's rank fraction has no say.

Defaults: a window of 5, at least a fifth of the full rank (github.com/hwang595/Cuttlefish), threshold
0.1 (the paper). Deviations: the authors measure once an epoch, here it is so many times a run; they
time layers to tell which of the first stay dense, here it is a number of blocks; without `latest` some
runs would stay dense; moments as under Pufferfish; factors decay as the section says (theirs by
Frobenius decay).
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from lowrank.factor.convert import choose_rank
from lowrank.factor.layers import matricise
from lowrank.factor.spectrum import stable_rank
from lowrank.factor.svd import svdvals, working_precision
from lowrank.methods import METHODS, Method, Options
from lowrank.methods.base import Run, finite
from lowrank.methods.pufferfish import DenseFirst


class Settling(Options):
    """Settings."""

    measures: int = Field(100, gt=1, description="How often a run's stable ranks are measured.")
    window: int = Field(5, gt=0, description="Measurements that are smoothed and compared.")
    threshold: float = Field(0.1, ge=0, description="Largest mean change of a settled rank.")
    latest: float = Field(0.5, gt=0, lt=1, description="Share of the steps that is dense at most.")
    least: float = Field(0.2, gt=0, le=1, description="Least rank over the full rank.")
    dense_blocks: int = Field(1, ge=0, description="First blocks that stay dense.")


def smoothed(values: Tensor, window: int) -> Tensor:
    """The exponential mean of values (k, layers) over their first dimension, begun at the first."""
    weight, found = 2 / (window + 1), [values[0]]
    for value in values[1:]:
        found.append(weight * value + (1 - weight) * found[-1])
    return torch.stack(found)


def settled(values: Tensor, window: int, threshold: float) -> Tensor:
    """Whether each layer's stable ranks, values (k, layers) of which the first was before training, have
    at some time stopped changing (layers)."""
    found = torch.zeros(values.shape[1], dtype=torch.bool)
    changes = smoothed(values, window).diff(dim=0).abs()
    for end in range(window, len(changes) + 1):
        found |= changes[end - window : end].mean(0) <= threshold
    return found


class Cuttlefish(DenseFirst):
    """Dense until stable ranks settle; then factors of ranks in proportion to them."""

    measured: Tensor = torch.zeros(0, 0)
    """Stable ranks (measurements, layers)."""

    @torch.no_grad()
    def measure(self, run: Run) -> None:
        """Add the stable ranks of now."""
        assert self.spec.factors is not None
        rows = []
        for target in self.targets(run.model):
            layer = run.model.get_submodule(target.name)
            weight = matricise(layer, self.spec.factors.matricisation)
            rows.append(
                stable_rank(svdvals(weight.to(working_precision(weight.dtype)))).mean().cpu()
            )
        row = torch.stack(rows)[None]
        self.measured = torch.cat([self.measured, row]) if len(self.measured) else row

    def start(self, run: Run) -> None:
        """Measure what stable ranks are compared with."""
        self.measure(run)

    def at(self) -> list[int]:
        """The times of measurement, up to the latest switch."""
        options, steps, latest = self.options, self.spec.training.steps, self.last
        found = {max(1, steps * k // options.measures) for k in range(1, options.measures + 1)}
        return sorted({step for step in found if step < latest} | {latest})

    @property
    def last(self) -> int:
        """The dense steps at most."""
        return self.spec.step_at(self.options.latest)

    def event(self, run: Run) -> None:
        """Measure, and factorise when all have settled, or at last."""
        options = self.options
        if len(self.changes) > 1 or not finite(*run.model.parameters()):
            return
        self.measure(run)
        rest = settled(self.measured, options.window, options.threshold)
        if run.step < self.last and not rest.all():
            return
        self.split(run, self.ranks(run))

    def ranks(self, run: Run) -> dict[str, int]:
        """The scaled stable ranks, of the layers that they make smaller."""
        assert self.spec.factors is not None
        shares = (self.measured[-1] / self.measured[0]).clamp(self.options.least, 1.0)
        found = {}
        for (name, (m, n)), share in zip(
            self.matrix_shapes(run.model).items(), shares.tolist(), strict=True
        ):
            rank = choose_rank(m, n, share, self.spec.factors.rank_multiple)
            if rank * (m + n) < m * n:
                found[name] = rank
        return found

    def state(self) -> dict[str, Tensor]:
        """The measurements."""
        return {"measured": self.measured}

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Take over what `state` returned."""
        self.measured = tensors["measured"]


METHODS.add("cuttlefish", Method("Cuttlefish", "arXiv 2305.02538", Cuttlefish, Settling))
