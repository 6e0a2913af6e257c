"""The line from the dense solution to low-rank ones, through effective weights."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field

from lowrank.experiment.sections import Count, Few, Fraction, Strict
from lowrank.experiment.study import STUDIES, Figure, Job, Study
from lowrank.experiment.track import Arm, Track


class InterpolationStudy(Strict):
    """The line from the dense solution to low-rank ones, through effective weights."""

    points: Few = Field(11, ge=3, description="Points on the line, ends included.")
    fractions: tuple[Fraction, ...] = Field(
        (), description="Pre-trained arms drawn beside the one trained from scratch."
    )
    batches: Count = Field(
        8, description="Training batches that recompute batch-norm statistics at each point."
    )


def arms(section: InterpolationStudy, track: Track) -> Iterator[Arm]:
    """The ends of the lines: dense, low-rank from scratch, low-rank after pre-training."""
    yield Arm()
    yield Arm(factors=track.factors)
    for fraction in section.fractions:
        yield Arm(factors=track.factors, pretraining=track.switched(fraction))


def contrasts(section: InterpolationStudy, track: Track) -> Iterator[tuple[Arm, Arm]]:
    """Pre-trained against from scratch."""
    for arm in arms(section, track):
        if arm.pretraining:
            yield arm, Arm(factors=arm.factors)


STUDIES.add(
    "interpolation",
    Study(
        place=6,
        title="Interpolation between solutions",
        section=InterpolationStudy,
        arms=arms,
        contrasts=contrasts,
        measures={"barriers": ("barrier", "distance", "cosine_distance", "disagreement")},
        job=Job(("interpolation", "barriers"), arms),
        figures=(Figure("interpolation", ("runs", "contrasts", "interpolation", "barriers")),),
        lines=True,
    ),
)
