"""Quality against compute, time and parameters as the model is widened."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pydantic import Field, model_validator

from lowrank.experiment.sections import Fraction, Size, Strict
from lowrank.experiment.study import STUDIES, Figure, Study
from lowrank.experiment.track import Arm, Track


class ScalingStudy(Strict):
    """Quality against compute and parameters as the model is widened."""

    widths: tuple[Size, ...] = Field(min_length=1, description="Model widths.")
    heads: tuple[Size, ...] | None = Field(
        None, description="Heads at each width; null: the model section's head size is kept."
    )
    fraction: Fraction | None = Field(
        0.25, description="Dense share of the pre-trained arm; null: no such arm."
    )

    @model_validator(mode="after")
    def _heads_for_each_width(self) -> ScalingStudy:
        if self.heads is not None and len(self.heads) != len(self.widths):
            raise ValueError(
                f"heads: {list(self.heads)} must be as many as the widths {list(self.widths)}"
            )
        return self


def sizes(section: Any, track: Track) -> Iterator[tuple[int, int | None]]:
    """Each of a section's `widths` with its heads: those given, else as many as keep their size."""
    model = track.model
    for index, width in enumerate(section.widths):
        heads = None
        if model.heads:
            kept = max(1, width // (model.width // model.heads))
            heads = section.heads[index] if section.heads else kept
        yield width, heads


def unfit(study: str, section: Any, track: Track) -> str | None:
    """Why a study's widths do not fit: their heads do not divide them, or there is but one."""
    if track.model.pretrained is not None:
        return f"studies.{study}: a pretrained model has one width: leave the study out"
    for width, heads in sizes(section, track):
        if heads and width % heads:
            return (
                f"studies.{study}.widths: {width} is not divisible by its {heads} heads: give heads "
                "that divide it"
            )
    return None


def problem(section: ScalingStudy, track: Track) -> str | None:
    """Widths, each with heads that divide it."""
    return unfit("scaling", section, track)


def arms(section: ScalingStudy, track: Track) -> Iterator[Arm]:
    """Dense, low-rank and pre-trained at each width."""
    for width, heads in sizes(section, track):
        yield Arm(width=width, heads=heads)
        yield Arm(width=width, heads=heads, factors=track.factors)
        if section.fraction is not None:
            switched = track.switched(section.fraction)
            yield Arm(width=width, heads=heads, factors=track.factors, pretraining=switched)


def contrasts(section: ScalingStudy, track: Track) -> Iterator[tuple[Arm, Arm]]:
    """Low-rank against dense at each width, and pre-trained against from scratch."""
    for arm in arms(section, track):
        if arm.factors:
            yield arm, Arm(width=arm.width, heads=arm.heads)
        if arm.pretraining:
            yield arm, arm.model_copy(update={"pretraining": None})


STUDIES.add(
    "scaling",
    Study(
        place=4,
        title="Scaling",
        section=ScalingStudy,
        arms=arms,
        contrasts=contrasts,
        problem=problem,
        timed=arms,
        figures=(
            Figure("scaling", ("runs", "contrasts")),
            Figure("parameters", ("runs", "contrasts"), draw="scaling.draw_parameters"),
        ),
        lines=True,
    ),
)
