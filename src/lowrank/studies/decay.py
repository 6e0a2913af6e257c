"""Decays of the factors, each at the arm's learning rate and at half of it.

A decay whose strength is swept is compared with the track's own kind of decay, swept as well: at its best
each, so that neither is judged by a strength that suits the other.
"""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field

from lowrank.experiment.sections import SWEPT, DecaySpec, Positive, Strict
from lowrank.experiment.study import STUDIES, Figure, Study
from lowrank.experiment.track import Arm, Track


class DecayStudy(Strict):
    """Kinds of decay, each at the arm's rate and at half of it."""

    decays: tuple[DecaySpec, ...] = Field(min_length=1, description="The kinds of decay.")
    rate_factors: tuple[Positive, ...] = Field(
        (1.0, 0.5), description="What the arm's learning rate is multiplied by."
    )


def arms(section: DecayStudy, track: Track) -> Iterator[Arm]:
    """Each kind of decay at each share of the arm's learning rate."""
    for decay in section.decays:
        for factor in section.rate_factors:
            yield Arm(factors=track.with_factors(decay=decay), rate_factor=factor)


def contrasts(section: DecayStudy, track: Track) -> Iterator[tuple[Arm, Arm]]:
    """Each decay against the track's own at the same rate, and swept if that is there; each lower rate
    against the full one."""
    own = track.factors.decay.model_copy(update={"strength": SWEPT})
    for arm in arms(section, track):
        fixed = arm.factors and arm.factors.decay.strength not in (SWEPT, None)
        swept = own in section.decays and not fixed
        yield arm, arm.with_factors(decay=own if swept else track.factors.decay)
        yield arm, arm.model_copy(update={"rate_factor": 1.0})


STUDIES.add(
    "decay",
    Study(
        place=2,
        title="Decay, effective step size and effective rank",
        section=DecayStudy,
        arms=arms,
        contrasts=contrasts,
        figures=(
            Figure("decay", ("runs", "contrasts", "layers")),
            Figure("effective_rank", ("runs", "contrasts", "layers")),
            Figure("spectra", ("runs", "spectra"), beside=("initialisation",)),
        ),
    ),
)
