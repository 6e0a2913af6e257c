"""How fast published runs were trained, and which of them a planned one is most like.

FLOPs a second are no constant of a machine: on one core a step of images on a small model reaches far fewer
than one of a language model, and factors of a low rank fewer than the dense layer. So a plan takes each
cell's from the published cell that is nearest to it, and says where none is of the same model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from lowrank.analysis.publish import read_published
from lowrank.experiment.cell import Cell
from lowrank.experiment.metrics import task_of


@dataclass(frozen=True)
class Speed:
    """What all published runs of a cell reached together on one processor."""

    scale: str
    track: str
    cell: str
    family: str
    width: int
    kept_flops: float
    """Forward FLOPs over the dense model's."""
    processor: str
    runs: int
    flops_per_second: float
    """Training FLOPs over seconds of training steps."""

    @property
    def model(self) -> str:
        """The model in words."""
        return f"{self.family} of width {self.width}"


def published_speeds(published: Path) -> list[Speed]:
    """Those of all scales in the folder `published`; empty if there are none."""
    found = []
    by = ["track", "cell", "family", "width", "processor"]
    for folder in sorted(path for path in published.glob("*") if path.is_dir()):
        runs = read_published(folder, judged=False)["runs"]
        runs = runs[runs["diverged"].ne(True) & runs["train_seconds"].gt(0)]
        for key, own in runs.groupby(by, sort=False):
            track, cell, family, width, processor = key
            seconds = float(own["train_seconds"].sum())
            found.append(
                Speed(
                    scale=folder.name,
                    track=str(track),
                    cell=str(cell),
                    family=str(family),
                    width=int(width),
                    kept_flops=float(own["kept_flops"].mean()),
                    processor=str(processor),
                    runs=len(own),
                    flops_per_second=float(own["training_flops"].sum()) / seconds,
                )
            )
    return found


def nearest(speeds: list[Speed], scale: str, cell: Cell, kept_flops: float) -> Speed | None:
    """The published cell that a cell of a scale is most like: in its task, its model's family, its width, then
    the scale, the track and the cell itself, else its share of the dense FLOPs; None if there are none."""
    task = task_of(cell.model.family)

    def distance(speed: Speed) -> tuple[float, ...]:
        return (
            task_of(speed.family) is not task,
            speed.family != cell.model.family,
            abs(math.log(speed.width / cell.model.width)),
            speed.scale != scale,
            speed.track != cell.track,
            speed.cell != cell.name,
            abs(math.log(speed.kept_flops / kept_flops)),
            -speed.runs,
        )

    return min(speeds, key=distance, default=None)


def stand_in(speed: Speed, cell: Cell) -> str:
    """Whose speed a cell is given, in words, where no published run is of its model; else empty."""
    model = f"{cell.model.family} of width {cell.model.width}"
    if speed.model == model:
        return ""
    return (
        f"No published run is of {model}: hours of {cell.track} at that width are at the speed of {speed.model} "
        f"({speed.scale}, {speed.track})."
    )
