"""SLTrain (Han et al. 2024, arXiv 2406.02214): a low-rank plus a sparse weight.

    y = (s U V^T + S) x + b

with S non-zero on a support that is drawn once, uniformly, and never changes: the share `support` of
the entries. U begins at zero, V and the entries of S uniform in +-1/sqrt(n).

Defaults: 3 %, and s its alpha over rank, 32 / 128 (github.com/andyjm3/SLTrain, 60 M parameters). S is
multiplied as the dense matrix that it is written into, as in the authors' code, and so counted: the
sparse part saves memory, not FLOPs. Deviation: the two products are added, where the authors add the
matrices first. The places of the entries are neither parameters nor counted as state.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from lowrank.factor.convert import place
from lowrank.factor.dense import affine
from lowrank.factor.layers import Factorized, FactorizedConv2d
from lowrank.methods import METHODS, Method, Options
from lowrank.methods.base import Life, generator, plan


class Support(Options):
    """Settings."""

    support: float = Field(0.03, gt=0, le=1, description="Share of the entries of S.")
    scale: float = Field(0.25, gt=0, description="s, alpha over rank.")


class SparseLowRank(nn.Module):
    """y = s low(x) + S x + b."""

    places: Tensor
    """The support, as sorted places in S flattened; it is kept with the weights."""

    def __init__(self, low: Factorized, scale: float, share: float) -> None:
        super().__init__()
        self.low, self.scale = low, scale
        self.bias, self.low.bias = low.bias, None
        self.shape = (*low.U.shape[:-2], *low.matrix_shape)
        count, device = max(1, int(share * math.prod(self.shape))), low.U.device
        self.values = nn.Parameter(torch.zeros(count, device=device, dtype=low.U.dtype))
        self.register_buffer("places", torch.zeros(count, dtype=torch.long, device=device))

    def sparse(self) -> Tensor:
        """S (..., m, n) as a dense matrix."""
        values = self.values
        flat = torch.zeros(math.prod(self.shape), dtype=values.dtype, device=values.device)
        return flat.index_put((self.places,), values).reshape(self.shape)

    def forward(self, x: Tensor) -> Tensor:
        low, S = self.low, self.sparse()
        if not isinstance(low, FactorizedConv2d):
            return self.scale * low(x) + affine(x, S, self.bias)
        geometry: Any = low.stride, low.padding, low.dilation, low.groups
        return self.scale * low(x) + F.conv2d(x, low.dense_weight(S), self.bias, *geometry)

    def dense_weight(self) -> Tensor:
        """s U V^T + S, in the dense layer's layout."""
        return self.low.dense_weight(self.scale * self.low.product() + self.sparse())


class SLTrain(Life):
    """s U V^T + S, S sparse on a support that is drawn once."""

    def convert(self, model: nn.Module) -> None:
        """Put a low-rank plus a sparse weight in each chosen layer's place."""
        for step in plan(model, self.spec):
            options = self.options
            layer = SparseLowRank(step.factorized, options.scale, options.support)
            if not layer.values.is_meta:
                self._draw(step.name, layer)
            place(model, step.name, layer)

    @torch.no_grad()
    def _draw(self, name: str, layer: SparseLowRank) -> None:
        random, bound = generator(self.spec, name), layer.shape[-1] ** -0.5
        places = torch.randperm(math.prod(layer.shape), generator=random)[: len(layer.values)]
        layer.places.copy_(places.sort().values)
        layer.values.copy_((2 * torch.rand(len(places), generator=random) - 1) * bound)
        U, V = layer.low.U, layer.low.V
        layer.low.set_factors(
            torch.zeros_like(U), (2 * torch.rand(V.shape, generator=random) - 1).to(V) * bound
        )


METHODS.add("sltrain", Method("SLTrain", "arXiv 2406.02214", SLTrain, Support))
