"""APOLLO (Zhu et al. 2024, arXiv 2412.05270): SGD's direction at the size that Adam would give it.

With P (n, r) normal with variance 1 / r, drawn anew every `every` steps, R = G P and Adam's direction N
for R, row by row of the larger side

    phi_i = |N_i| / |R_i|,  W <- W - rate sqrt(scale) limited(phi G)

`limited` being Fira's norm-growth limiter. With `per: tensor` there is one phi for the whole matrix:
APOLLO-Mini, with rank 1 and scale 128. P is kept, although its seed would do: the values of state
that are counted include it.

Defaults: by channel, scale 1, every 200 steps (github.com/zhuhanqing/APOLLO).
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from lowrank.factor.convert import layer_seed
from lowrank.methods import METHODS, Method
from lowrank.methods.fira import TINY, adaption, limited
from lowrank.methods.galore import Projected, ProjectedOptimizer, Projections, projecting
from lowrank.optimizers.base import direction


class Scaling(Projections):
    """Settings."""

    scale: float = Field(1.0, gt=0, description="Its root is what steps are multiplied by.")
    per: Literal["channel", "tensor"] = Field(
        "channel", description="Whether each row of the larger side has a size of its own."
    )


class ApolloOptimizer(ProjectedOptimizer):
    """The gradient itself, at a size taken from a random projection."""

    def projector(self, G: Tensor, group: dict[str, Any], step: int, held: Tensor | None) -> Tensor:
        """Normal, with variance 1 / r, of seed and step alone."""
        rank = group["rank"]
        random = torch.Generator().manual_seed(layer_seed(group["seed"], str(step)))
        return torch.randn(G.shape[1], rank, generator=random).to(G) / rank**0.5

    def update(self, G: Tensor, state: dict[str, Any], group: dict[str, Any]) -> Tensor:
        """sqrt(scale) limited(phi G)."""
        R = G @ state["projector"]
        N = direction(state, R, self.spec)
        phi = adaption(N, R) if group["per"] == "channel" else N.norm() / (R.norm() + TINY)
        return group["scale"] ** 0.5 * limited(phi * G, state)


class Apollo(Projected):
    """Dense weights, moved along their gradient as far as Adam would in a random low-rank space."""

    algorithm = projecting("APOLLO", ApolloOptimizer, extra=1, norm="own")


METHODS.add("apollo", Method("APOLLO", "arXiv 2412.05270", Apollo, Scaling, optimizers=("adamw",)))
