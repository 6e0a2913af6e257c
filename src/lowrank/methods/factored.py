"""Training U V^T from the first step (Kamalakara et al. 2022, arXiv 2209.13569)."""

from __future__ import annotations

from torch import nn

from lowrank.methods import METHODS, Method
from lowrank.methods.base import Life, factorize


class Factored(Life):
    """Every chosen layer is two factors U V^T from the first step."""

    def convert(self, model: nn.Module) -> None:
        """Factorise the named layers, in place."""
        assert self.spec.factors is not None
        factorize(model, self.spec.model, self.spec.factors, self.spec.seed)


METHODS.add("factored", Method("U V^T", "arXiv 2209.13569", Factored, sharded=True))
