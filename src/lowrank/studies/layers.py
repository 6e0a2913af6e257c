"""Which layers are factorised, and by which matricisation of their kernels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field

from lowrank.errors import unknown
from lowrank.experiment.sections import Name, Strict
from lowrank.experiment.study import STUDIES, Figure, Study
from lowrank.experiment.track import Arm, Track


class LayersStudy(Strict):
    """Which layers are factorised, and by which matricisation of their kernels."""

    groups: tuple[Name, ...] = Field((), description="Groups factorised alone.")
    dense_blocks: tuple[Literal["first", "last"], ...] = Field(
        (), description="Blocks left dense, one arm each."
    )
    matricisations: tuple[Literal["channel", "spatial"], ...] = Field(
        (), description="Alternative matricisations of kernels, with all layers factorised."
    )


def arms(section: LayersStudy, track: Track) -> Iterator[Arm]:
    """All layers, one group alone, the first or the last block left dense, and alternative matricisations."""
    yield Arm(factors=track.factors)
    for group in section.groups:
        yield Arm(factors=track.with_factors(layers=(group,)))
    for block in section.dense_blocks:
        pattern = f"{block}_block"
        yield Arm(factors=track.with_factors(dense_layers=(*track.factors.dense_layers, pattern)))
    for matricisation in section.matricisations:
        yield Arm(factors=track.with_factors(matricisation=matricisation))


def contrasts(section: LayersStudy, track: Track) -> Iterator[tuple[Arm, Arm]]:
    """Each choice of layers against all of them and against dense."""
    for arm in arms(section, track):
        yield arm, Arm(factors=track.factors)
        yield arm, Arm()


def timed(section: LayersStudy, track: Track) -> Iterator[Arm]:
    """Each matricisation: its steps cost differently."""
    for matricisation in section.matricisations:
        yield Arm(factors=track.with_factors(matricisation=matricisation))


def problem(section: LayersStudy, track: Track) -> str | None:
    """Kernels and groups are the family's."""
    family = track.family
    if section.matricisations and not family.convolutions:
        return (
            f"studies.layers.matricisations: {track.model.family} has no convolutions to factorise: "
            "leave it out"
        )
    for group in section.groups:
        if group not in family.groups:
            return str(unknown("group in studies.layers.groups", group, family.groups))
    return None


STUDIES.add(
    "layers",
    Study(
        place=5,
        title="Choice of layers",
        section=LayersStudy,
        arms=arms,
        contrasts=contrasts,
        problem=problem,
        timed=timed,
        figures=(Figure("layers", ("runs", "contrasts")),),
    ),
)
