"""ReLoRA (Lialin et al. 2023, arXiv 2307.05695): low-rank updates that are merged and begun anew.

A layer is W x + s U V^T x with W frozen. After every `every` steps

    W <- W + s U V^T,  U <- 0,  V <- uniform in +-1/sqrt(n)

which leaves the layer's weight unchanged; of the factors' moments the share `prune` is set to zero,
at random or the smallest; and the rate rises again over `warmup` steps ("jagged cosine"). A full-rank
warm start is the section `pretraining`: the trained dense weight is then W.

Defaults: the authors' README (github.com/Guitaricet/relora) for 250 M parameters, every 5,000 steps
with 100 of warm-up, and its code, 99.9 % pruned at random; s is its alpha over rank, 32 / 128. The
paper prunes 99 % by size. Deviations: V is drawn before the first step, too (the code begins there
with U = V = 0, whose gradients are zero until the first restart); after a warm start the rate rises
over `warmup` steps as after a restart.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from lowrank.factor.convert import place
from lowrank.factor.layers import Factorized
from lowrank.methods import METHODS, Method, Options
from lowrank.methods.base import Convert, Life, Run, generator, moved, names_of, plan, rising

if TYPE_CHECKING:
    from lowrank.experiment.cell import RunSpec


class Restarts(Options):
    """Settings."""

    every: int = Field(5000, gt=0, description="Steps between two restarts.")
    warmup: int = Field(100, ge=0, description="Steps over which the rate rises after a restart.")
    scale: float = Field(0.25, gt=0, description="s, alpha over rank.")
    prune: float = Field(0.999, ge=0, le=1, description="Share of the moments set to zero.")
    by: Literal["random", "magnitude"] = Field("random", description="Which of the moments.")


class Update(nn.Module):
    """y = dense(x) + s x V U^T, the dense weight frozen."""

    def __init__(self, dense: nn.Module, low: Factorized, scale: float) -> None:
        super().__init__()
        self.dense, self.low, self.scale = dense, low, scale
        self.dense.weight.requires_grad_(False)  # type: ignore[operator, union-attr]
        self.low.bias = None

    @property
    def bias(self) -> Any:
        """The dense layer's, which is trained."""
        return self.dense.bias

    def forward(self, x: Tensor) -> Tensor:
        return self.dense(x) + self.scale * self.low(x)

    def dense_weight(self) -> Tensor:
        """W + s U V^T, in the dense layer's layout."""
        return self.dense.weight + self.scale * self.low.dense_weight()  # type: ignore[operator]


class ReLora(Life):
    """W + s U V^T with W frozen; the product is merged into W and begun anew every T steps."""

    def convert(self, model: nn.Module) -> None:
        """Put an update beside each chosen layer."""
        for step in plan(model, self.spec):
            layer = Update(step.dense, step.factorized, self.options.scale)
            if not layer.low.U.is_meta:
                self._restart(step.name, layer, self.spec.switch_step)
            place(model, step.name, layer)

    def _restart(self, name: str, layer: Update, step: int) -> None:
        """U = 0 and V drawn, which leaves the layer's weight as it is."""
        V = layer.low.V
        drawn = torch.rand(V.shape, generator=generator(self.spec, name, step))
        bound = V.shape[-2] ** -0.5
        layer.low.set_factors(torch.zeros_like(layer.low.U), (2 * drawn - 1).to(V) * bound)

    def trunk(self) -> tuple[RunSpec, int] | None:
        """The dense run of a warm start."""
        return (self.spec.trunk(), self.spec.switch_step) if self.spec.pretraining else None

    def phases(self) -> list[tuple[int, Convert]]:
        """Dense up to the end of a warm start."""
        start = self.spec.switch_step
        return [*([(0, lambda model: None)] if start else []), (start, self.convert)]

    def switch(
        self, model: nn.Module, state: dict[str, Tensor], roles: Mapping[str, str]
    ) -> dict[str, Tensor]:
        """Freeze the trained weights."""
        names = names_of(model)
        self.convert(model)
        return moved(state, names, model)

    def at(self) -> range:
        """Every T steps, but not after the last."""
        every, last = self.options.every, self.spec.training.steps
        return range(self.spec.switch_step + every, last, every)

    @torch.no_grad()
    def event(self, run: Run) -> None:
        """Merge, begin anew, and prune the factors' moments."""
        state, pruned = run.optimizer.state(), {}
        for name, layer in run.model.named_modules():
            if not isinstance(layer, Update):
                continue
            layer.dense.weight.copy_(layer.dense_weight())  # type: ignore[operator, union-attr]
            self._restart(name, layer, run.step)
            for key, value in state.items():
                if key.startswith(f"{name}.low.") and value.ndim > 1:
                    pruned[key] = value * self._kept(value, key, run.step)
        run.optimizer.load_state(pruned)

    def _kept(self, moment: Tensor, key: str, step: int) -> Tensor:
        """Which entries of a moment are not pruned."""
        if self.options.by == "magnitude":
            size = moment.abs().float()
            count = round(self.options.prune * size.numel())
            return size > size.flatten().kthvalue(count).values if count else torch.ones_like(size)
        drawn = torch.rand(moment.shape, generator=generator(self.spec, key, step))
        return (drawn >= self.options.prune).to(moment.device)

    def rate(self, step: int, rate: float) -> float:
        """Up again after every restart and after a warm start."""
        start, every = self.spec.switch_step, self.options.every
        since = step - start
        if since < 0 or (not start and since < every):
            return rate
        return rising(rate, since % every, self.options.warmup)


METHODS.add("relora", Method("ReLoRA", "arXiv 2307.05695", ReLora, Restarts, warm=True))
