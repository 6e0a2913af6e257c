"""The line from the dense solution to low-rank ones, through effective weights."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pydantic import Field

from lowrank.experiment.sections import Count, Few, Fraction, Strict
from lowrank.experiment.study import STUDIES, Figure, Given, Job, Study
from lowrank.experiment.track import Arm, Track

if TYPE_CHECKING:
    import pandas as pd


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


def run(given: Given) -> dict[str, pd.DataFrame]:
    """Losses on the lines, and how close their ends are."""
    from lowrank.jobs.interpolate import interpolate

    dense, *others = given.cells
    place = given.data, given.cache, given.device
    points, summary = interpolate(
        given.told, dense, others, given.rates, *place, given.version, given.seeds
    )
    return {"interpolation": points, "barriers": summary}


STUDIES.add(
    "interpolation",
    Study(
        place=6,
        title="Interpolation between solutions",
        section=InterpolationStudy,
        arms=arms,
        contrasts=contrasts,
        measures={"barriers": ("barrier", "distance", "cosine_distance", "disagreement")},
        job=Job(
            doing="Interpolating between solutions",
            tables=("barriers", "interpolation"),
            run=run,
            version=3,
            arms=arms,
        ),
        figures=(Figure("interpolation", ("runs", "contrasts", "interpolation", "barriers")),),
        lines=True,
    ),
)
