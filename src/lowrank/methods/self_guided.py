"""Self-guided training (Wei et al. 2024, arXiv 2406.16450): a dense weight that leads and then goes.

    y = lambda W x + (1 - lambda) U V^T x + b,  lambda = (1 + cos(pi t / T)) / 2

for the first T steps, the share `until` of all; then W is dropped and U V^T trains on with the moments
that it has. W begins as U V^T, so both paths begin alike. Its matrix products and its state are counted
for as long as it is there.

Defaults: half of the steps and a cosine, as published (github.com/CLAIRE-Labo/StructuredFFN).
Deviation: W's path always runs; the authors save FLOPs by skipping it at random with probability
1 - lambda.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from lowrank.factor.convert import factors, place
from lowrank.factor.layers import Factorized
from lowrank.methods import METHODS, Method, Options
from lowrank.methods.base import Convert, Run
from lowrank.methods.factored import Factored


class Guidance(Options):
    """Settings."""

    until: float = Field(0.5, gt=0, lt=1, description="Share of the steps that are guided.")


class Guided(nn.Module):
    """y = lambda dense(x) + (1 - lambda) low(x); both have the same bias."""

    share: Tensor
    """lambda."""

    def __init__(self, dense: nn.Module, low: Factorized) -> None:
        super().__init__()
        self.dense, self.low = dense, low
        self.dense.bias = low.bias  # type: ignore[assignment]
        self.register_buffer("share", torch.ones((), device=low.U.device), persistent=False)

    @property
    def bias(self) -> Any:
        """The one of both."""
        return self.low.bias

    def forward(self, x: Tensor) -> Tensor:
        return self.share * self.dense(x) + (1 - self.share) * self.low(x)

    def dense_weight(self) -> Tensor:
        """lambda W + (1 - lambda) U V^T, in the dense layer's layout."""
        guide: Any = self.dense.weight
        return self.share * guide + (1 - self.share) * self.low.dense_weight()


class SelfGuided(Factored):
    """U V^T beside a dense weight W, whose share falls from 1 to 0 over the first half of the steps."""

    guided = True

    @property
    def last(self) -> int:
        """The steps that are guided."""
        return self.spec.step_at(self.options.until)

    def convert(self, model: nn.Module) -> None:
        """Factorise, with W beside while it is there."""
        super().convert(model)
        if self.guided:
            self._guide(model)

    def _guide(self, model: nn.Module) -> None:
        for name, layer in factors(model).items():
            place(model, name, Guided(layer.to_dense(), layer))

    def phases(self) -> list[tuple[int, Convert]]:
        """With W and without."""

        def guided(model: nn.Module) -> None:
            super(SelfGuided, self).convert(model)
            self._guide(model)

        return [(0, guided), (self.last, super().convert)]

    def before_step(self, run: Run) -> None:
        """Set lambda."""
        if self.guided:
            share = (1 + math.cos(math.pi * run.step / self.last)) / 2
            for layer in run.model.modules():
                if isinstance(layer, Guided):
                    layer.share.fill_(share)

    def at(self) -> tuple[int]:
        """The step at which W goes."""
        return (self.last,)

    def event(self, run: Run) -> None:
        """Drop W; the factors keep their moments."""
        self.guided = False
        layers = {n: m.low for n, m in run.model.named_modules() if isinstance(m, Guided)}
        run.replace(layers)

    def record(self) -> dict[str, Any]:
        """Whether W is there."""
        return {"guided": self.guided}

    def load_record(self, record: dict[str, Any]) -> None:
        """Take over what `record` returned."""
        self.guided = record["guided"]


METHODS.add("self_guided", Method("self-guided", "arXiv 2406.16450", SelfGuided, Guidance))
