"""Seconds of a training step over sizes, dense and factorised, by both readings of a rank: nothing is trained.

Whether the paper's 0.62 is a share of a matrix's smaller side or of the parameters is not known. By the first a
square matrix is trained with 1.24 times its parameters, by the second with 0.62 of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from pydantic import Field, model_validator

from lowrank.experiment.sections import Fraction, Size, Strict
from lowrank.experiment.study import STUDIES, Figure, Given, Job, Study
from lowrank.experiment.track import Arm, Track
from lowrank.studies.scaling import sizes, unfit

if TYPE_CHECKING:
    import pandas as pd


class SpeedStudy(Strict):
    """Seconds of a training step over sizes; nothing is trained."""

    widths: tuple[Size, ...] = Field(min_length=1, description="Model widths.")
    heads: tuple[Size, ...] | None = Field(
        None, description="Heads at each width; null: the model section's head size is kept."
    )
    ranks: tuple[Fraction, ...] = Field(
        min_length=1, description="Rank fractions, of the smaller side of each matrix."
    )
    kept: tuple[Fraction, ...] = Field(
        (),
        description="The other reading: shares of the parameters that factorised layers keep, at one rank "
        "fraction, which follows.",
    )

    @model_validator(mode="after")
    def _heads_for_each_width(self) -> SpeedStudy:
        if self.heads is not None and len(self.heads) != len(self.widths):
            raise ValueError(
                f"heads: {list(self.heads)} must be as many as the widths {list(self.widths)}"
            )
        return self


def timed(section: SpeedStudy, track: Track) -> Iterator[Arm]:
    """Dense, and the track's factors at each rank and share, at each width."""
    for width, heads in sizes(section, track):
        yield Arm(width=width, heads=heads)
        for rank in section.ranks:
            factors = track.with_factors(rank_fraction=rank)
            yield Arm(width=width, heads=heads, factors=factors)
        for share in section.kept:
            factors = track.with_factors(rank_fraction=share)
            yield Arm(width=width, heads=heads, factors=factors, kept=share)


def run(given: Given) -> dict[str, pd.DataFrame]:
    """Seconds of steps of all that studies name, taking turns."""
    from lowrank.jobs.speed import measure_speed

    rounds = 2 if given.quick else 5
    return {"speed": measure_speed(given.timed, given.data, given.device, rounds)}


STUDIES.add(
    "speed",
    Study(
        place=8,
        title="Speed over sizes",
        section=SpeedStudy,
        timed=timed,
        problem=lambda section, track: unfit("speed", section, track),
        job=Job(
            doing="Timing training steps",
            tables=("speed",),
            run=run,
            version=2,
            times=True,
            spec=lambda *_: None,
            wanted=lambda track: bool(track.timed()),
        ),
        figures=(Figure("speed", ("speed", "runs")),),
    ),
)
