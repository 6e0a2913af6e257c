"""Dense steps before the switch to factors."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import Field

from lowrank.experiment.sections import Fraction, Name, Positive, Strict
from lowrank.experiment.shares import nearest
from lowrank.experiment.study import STUDIES, Figure, Study
from lowrank.experiment.track import Arm, Track


class PretrainingStudy(Strict):
    """Dense steps before the switch to factors."""

    fractions: tuple[Fraction, ...] = Field(min_length=1, description="Dense shares of the steps.")
    inits: tuple[Name, ...] = Field(
        ("spectral", "spectral_ones"), description="Initialisations at the switch."
    )
    variants_at: tuple[Fraction, ...] = Field(
        (),
        description="Dense shares at which full rate and reset moments are run as well, and half the rate "
        "where the others' is swept.",
    )
    longer: tuple[Positive, ...] = Field(
        (), description="From-scratch runs of so many times the steps, for the equal-FLOPs line."
    )


def arms(section: PretrainingStudy, track: Track) -> Iterator[Arm]:
    """Dense and from-scratch ends, each switch between them, and longer from-scratch runs."""
    yield Arm()
    for init in section.inits:
        yield Arm(factors=track.with_factors(init=init))
        for fraction in section.fractions:
            switched = track.switched(fraction)
            yield Arm(factors=track.with_factors(init=init), pretraining=switched)
    half: tuple[dict[str, Any], ...] = ({"rate_factor": 0.5},) if track.sweep.switch_rates else ()
    for fraction in section.variants_at:
        for changes in ({"rate_factor": 1.0}, *half, {"moments": "reset"}):
            yield Arm(factors=track.factors, pretraining=track.switched(fraction, **changes))
    for length in section.longer:
        yield Arm(factors=track.factors, length=length)


def contrasts(section: PretrainingStudy, track: Track) -> Iterator[tuple[Arm, Arm]]:
    """Each switch against from scratch and against dense; each variant against the plain switch."""
    for arm in arms(section, track):
        pre = arm.pretraining
        if arm.factors and (pre or arm.length != 1.0):
            yield arm, Arm(factors=arm.factors)
            yield arm, Arm()
        if arm.factors and pre:
            yield arm, Arm(factors=arm.factors, pretraining=track.switched(pre.fraction))


def problem(section: PretrainingStudy, track: Track) -> str | None:
    """Longer runs have a number of steps."""
    for length in section.longer:
        if not 1 <= nearest(length, track.training.steps) <= 1_000_000_000:
            return (
                f"studies.pretraining.longer: {length:g} times {track.training.steps} steps is no number "
                "of steps: give a factor such as 1.5"
            )
    return None


STUDIES.add(
    "pretraining",
    Study(
        place=3,
        title="Dense pre-training",
        section=PretrainingStudy,
        arms=arms,
        contrasts=contrasts,
        problem=problem,
        figures=(Figure("pretraining", ("runs", "contrasts")),),
    ),
)
