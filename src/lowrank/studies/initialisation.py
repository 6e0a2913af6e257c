"""Initialisations of the factors at each rank, against each other and against the dense model."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field, model_validator

from lowrank.experiment.sections import Fraction, Name, Strict
from lowrank.experiment.study import STUDIES, Figure, Study
from lowrank.experiment.track import Arm, Track


class InitialisationStudy(Strict):
    """Initialisations against each other and against dense."""

    ranks: tuple[Fraction, ...] = Field(min_length=1, description="Rank fractions.")
    inits: tuple[Name, ...] = Field(
        ("he", "spectral", "spectral_ones"), description="Initialisations at every rank."
    )
    controls: tuple[Name, ...] = Field(
        (), description="Further initialisations, at `control_ranks` only."
    )
    control_ranks: tuple[Fraction, ...] = Field((), description="Rank fractions of the controls.")

    @model_validator(mode="after")
    def _controls_with_ranks(self) -> InitialisationStudy:
        if bool(self.controls) != bool(self.control_ranks):
            raise ValueError(
                f"controls: {list(self.controls)} and control_ranks {list(self.control_ranks)} need "
                "each other: give both or neither"
            )
        return self


def arms(section: InitialisationStudy, track: Track) -> Iterator[Arm]:
    """Dense, and each initialisation at each rank; the controls at their own ranks."""
    yield Arm()
    for inits, ranks in ((section.inits, section.ranks), (section.controls, section.control_ranks)):
        for rank in ranks:
            for init in inits:
                yield Arm(factors=track.with_factors(init=init, rank_fraction=rank))


def contrasts(section: InitialisationStudy, track: Track) -> Iterator[tuple[Arm, Arm]]:
    """Each initialisation against dense, and against spectral at the same rank."""
    for arm in arms(section, track):
        if arm.factors:
            yield arm, Arm()
            yield arm, arm.with_factors(init="spectral")


STUDIES.add(
    "initialisation",
    Study(
        place=1,
        title="Initialisation",
        section=InitialisationStudy,
        arms=arms,
        contrasts=contrasts,
        timed=arms,
        figures=(Figure("initialisation", ("runs", "contrasts", "baselines")),),
    ),
)
