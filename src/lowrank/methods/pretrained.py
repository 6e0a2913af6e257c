"""Dense steps first, then factors of the trained weights (Kamalakara et al. 2022, section 4.3).

The dense part is another run, the trunk, which every pre-trained run of a seed shares: this one begins
at its checkpoint. Moments become those of the factors, or begin at zero, as the section `pretraining`
says.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor, nn

from lowrank.factor.convert import factors
from lowrank.factor.moments import carry_moments
from lowrank.methods import METHODS, Method
from lowrank.methods.base import Convert
from lowrank.methods.factored import Factored

if TYPE_CHECKING:
    from lowrank.experiment.cell import RunSpec


class Pretrained(Factored):
    """Dense first; from the switch on, two factors of the trained weights."""

    def trunk(self) -> tuple[RunSpec, int] | None:
        """The dense run and the step of the switch."""
        return self.spec.trunk(), self.spec.switch_step

    def phases(self) -> list[tuple[int, Convert]]:
        """Dense up to the switch."""
        return [(0, lambda model: None), (self.spec.switch_step, self.convert)]

    def switch(
        self, model: nn.Module, state: dict[str, Tensor], roles: Mapping[str, str]
    ) -> dict[str, Tensor]:
        """Factorise the trained weights; moments are carried into the factors, or dropped."""
        assert self.spec.pretraining is not None
        self.convert(model)
        carry = self.spec.pretraining.moments == "carry"
        return carry_moments(state, model, list(factors(model)), roles if carry else None)


METHODS.add(
    "pretrained",
    Method("dense, then U V^T", "arXiv 2209.13569", Pretrained, sharded=True, warm=True),
)
