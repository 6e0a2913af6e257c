"""What a study is: the record that each file of `lowrank.studies` enters.

The configuration, the grid, contrasts, figures, plan and report learn of a study from its record alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lowrank.experiment.cell import Extension
from lowrank.experiment.sections import Strict
from lowrank.experiment.track import Arm, Track
from lowrank.registry import Registry


@dataclass(frozen=True)
class Figure:
    """A figure with its table, drawn for each track that has its study."""

    name: str
    """Of its notebook and of its files."""
    tables: tuple[str, ...]
    """What it is drawn from; those that a track does not have are left out."""
    draw: str = ""
    """The module of `lowrank.plot` and the function there, if it is not `draw` of the figure's own."""
    beside: tuple[str, ...] = ()
    """Further studies that it shows; any one is enough for it to be drawn."""

    @property
    def drawn_by(self) -> tuple[str, str]:
        """The module of `lowrank.plot` that draws it, and the function there."""
        module, _, function = (self.draw or f"{self.name}.draw").partition(".")
        return module, function


@dataclass(frozen=True)
class Job:
    """What is done with a track's trained models beyond evaluating them."""

    tables: tuple[str, ...]
    """What it writes, for each track."""
    arms: Callable[[Any, Track], Iterable[Arm]]
    """Whose models it reads, from the study's section; the dense one first."""
    spec: Callable[[Any, Track, Mapping[str, Extension]], Strict] = lambda section, *_: section
    """What it is told, from the study's section and the configuration's extensions."""


def _none(*_: Any) -> tuple[()]:
    return ()


@dataclass(frozen=True)
class Study:
    """All that the rest of the code knows of a study. Functions are given its section and the track."""

    title: str
    """Its heading in the report."""
    place: int = 100
    """Its turn among the studies, in configurations, grid and figures: after the project's own."""
    section: type[Strict] | None = None
    """Its section of a track; None: a study that needs no settings, nor trains anything."""
    arms: Callable[[Any, Track], Iterable[Arm]] = _none
    """What is trained."""
    contrasts: Callable[[Any, Track], Iterable[tuple[Arm, Arm]]] = _none
    """Which arms are compared with which: a family for Holm's correction."""
    measures: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Table: metrics of it in which the same arms are compared, beside those of the track's task."""
    problem: Callable[[Any, Track], str | None] = lambda *_: None
    """Why a section does not fit its track: the key, the value, what would be right."""
    settle: Callable[[Any, Track], Any] | None = None
    """Returns the section with what takes long to find out, so that it is found out once for all jobs."""
    timed: Callable[[Any, Track], Iterable[Arm]] = _none
    """The arms whose steps are worth timing."""
    truncations: Callable[[Any], Iterable[str]] = _none
    """The truncations that it names."""
    job: Job | None = None
    figures: tuple[Figure, ...] = ()
    lines: bool = False
    """Whether its figures join arms that were dense at first, and so give these looks of their own."""
    wanted: Callable[[Any], bool] = lambda _: False
    """Of a study without a section: whether a track has it."""


STUDIES: Registry[Study] = Registry("study", package="lowrank.studies")


def studies() -> dict[str, Study]:
    """All studies by name, each in its place."""
    return dict(sorted(STUDIES.items(), key=lambda item: (item[1].place, item[0])))
