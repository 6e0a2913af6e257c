"""Spectral initialisation with Frobenius decay (Khodak et al. 2021, arXiv 2105.01029), as one method.

    U = A_r sqrt(S_r),  V = B_r sqrt(S_r) for the dense draw A S B^T,  penalty (lambda / 2) |U V^T|_F^2

It is U V^T from the first step with two entries of the factor section, under the name of a method so
that it stands beside others: the section must say `init: spectral` and `decay: {kind: frobenius}`, so
that no table names anything else. The authors read kernels as the matricisation `spatial` and add the
decay to SGD's gradient (`coupled`); both are settings of the section.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lowrank.errors import LowrankError
from lowrank.methods import METHODS, Method, Options
from lowrank.methods.factored import Factored

if TYPE_CHECKING:
    from lowrank.experiment.cell import RunSpec


class Khodak(Factored):
    """U V^T from the first step, by spectral initialisation and Frobenius decay."""

    def __init__(self, spec: RunSpec, options: Options) -> None:
        super().__init__(spec, options)
        factor = spec.factors
        assert factor is not None
        for key, found, own in (
            ("init", factor.init, "spectral"),
            ("decay.kind", factor.decay.kind, "frobenius"),
        ):
            if found != own:
                raise LowrankError(
                    f"factors.{key}: {found} is not the method khodak's: give {own}."
                )


METHODS.add("khodak", Method("spectral + Frobenius", "arXiv 2105.01029", Khodak, sharded=True))
