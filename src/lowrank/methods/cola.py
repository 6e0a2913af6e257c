"""CoLA (Liu et al. 2025, arXiv 2502.10940): an activation between the factors.

    y = U sigma(V^T x) + b,  sigma(z) = z / (1 + exp(-z))

so a layer is no matrix: it has no spectrum, and no line leads to it from a dense solution.

Defaults: SiLU between the factors beside the model's own activations, as published
(github.com/alvin-zyl/CoLA). Deviation: the factors begin as the factor section says, of the dense
draw, where the authors draw each normal with a variance of 1 / sqrt(r (m + n)).
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from lowrank.factor.convert import factors, place
from lowrank.factor.dense import affine
from lowrank.factor.layers import Factorized
from lowrank.factor.product import times
from lowrank.methods import METHODS, Method
from lowrank.methods.factored import Factored


class Activated(nn.Module):
    """y = U silu(V^T x) + b."""

    def __init__(self, low: Factorized) -> None:
        super().__init__()
        self.low = low

    @property
    def bias(self) -> Any:
        """That of the factors."""
        return self.low.bias

    def forward(self, x: Tensor) -> Tensor:
        return affine(F.silu(times(x, self.low.V)), self.low.U, self.low.bias)

    def dense_weight(self) -> None:
        """There is none."""
        return None


class CoLA(Factored):
    """U sigma(V^T x): low-rank activations; there is no dense weight that does the same."""

    def convert(self, model: nn.Module) -> None:
        """Factorise, and put the activation between the factors."""
        super().convert(model)
        for name, layer in factors(model).items():
            place(model, name, Activated(layer))


METHODS.add("cola", Method("CoLA", "arXiv 2502.10940", CoLA, sharded=True, kernels=False))
