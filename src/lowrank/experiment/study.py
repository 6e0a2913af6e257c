"""What a study is: the record that each file of `lowrank.studies` enters.

The configuration, the grid, contrasts, figures, plan and report learn of a study from its record alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lowrank.errors import LowrankError
from lowrank.experiment.cell import Cell, Extension
from lowrank.experiment.sections import Strict
from lowrank.experiment.track import Arm, Track
from lowrank.files import PLACES
from lowrank.registry import Registry

if TYPE_CHECKING:
    import pandas as pd

    from lowrank.experiment.config import TrackConfig
    from lowrank.experiment.expand import Timed


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
class Given:
    """What a job works on: one track."""

    told: Any
    """Its `spec`."""
    cells: Sequence[Cell]
    """Those whose models it reads, the dense one first, with the seeds that are wanted; `lowrank.jobs.train.runs_of`
    returns the runs of each, given what follows."""
    rates: dict[str, float]
    """What the sweeps of these cells found."""
    data: Path
    """The track's prepared data."""
    cache: Path
    """The folder of all runs."""
    device: str
    timed: Sequence[Timed]
    """The models whose steps it times."""
    quick: bool
    """Whether the scale is there to be quick, and its times mean nothing."""
    seeds: Sequence[int] = ()
    """All seeds of the cells, those too of which nothing is wanted because it is published."""
    version: int = 1
    """The job's, which what is kept of it has to know."""


@dataclass(frozen=True)
class Job:
    """What a study measures beyond training and evaluating: on trained models, on steps, or on data alone."""

    doing: str
    """What it does, as the workflow says: `Truncating the dense models`, of a track."""
    tables: tuple[str, ...]
    """What it writes, for each track: results/<scale>/<table>/<track>.parquet. By the rows of the first one it is known
    what is there."""
    run: Callable[[Given], Mapping[str, pd.DataFrame]]
    """Returns these tables, those made of models with a column `seed`. It imports what it computes with itself:
    studies are read without torch and pandas."""
    version: int = 1
    """Which results `run` computes: raised when it computes others of the same input, and only then."""
    arms: Callable[[Any, Track], Iterable[Arm]] | None = None
    """Whose models it reads, from the study's section, the dense one first, at least that; None: it reads none,
    as where it times steps."""
    times: bool = False
    """Whether it times the steps of what studies name as `timed`: it waits until all is trained, has the machine to
    itself, and says in a column `processor` which one that is."""
    spec: Callable[[Any, Track, Mapping[str, Extension]], Strict | None] = lambda section, *_: (
        section
    )
    """What it is told, from the study's section and the configuration's extensions."""
    wanted: Callable[[TrackConfig], bool] = lambda _: False
    """Whether it is done for a track that does not have the study's section."""

    def __post_init__(self) -> None:
        """LowrankError where it would both read models and time steps."""
        if self.arms and self.times:
            raise LowrankError(
                f"The job that writes {', '.join(self.tables)} has `arms` and `times`: read models in one "
                "study's job, and time steps in another's."
            )

    @property
    def unit(self) -> list[str]:
        """The columns that tell apart what is made in one go."""
        return ["track", *(["seed"] if self.arms else ["processor"] if self.times else [])]


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


TAKEN = PLACES | {
    *("history", "layers", "spectra", "contrasts", "claims", "processors", "data"),
    *("logs", "notebooks", "paper", "slice"),
}
"""Tables and folders of results/<scale> that no study writes."""


def studies() -> dict[str, Study]:
    """All studies by name, each in its place."""
    return dict(sorted(STUDIES.items(), key=lambda item: (item[1].place, item[0])))


def jobs() -> dict[str, Job]:
    """The jobs of studies by the study's name, in the order of these."""
    return {name: study.job for name, study in studies().items() if study.job}


def writers() -> dict[str, str]:
    """For each table that a job writes the study's name; a table that is written twice is a LowrankError."""
    found: dict[str, str] = {}
    for study, job in jobs().items():
        for table in job.tables:
            if table in found or table in TAKEN:
                other = f"the study {found[table]}" if table in found else "the project itself"
                raise LowrankError(
                    f"The job of the study {study} writes the table {table}, and so does {other}: give it "
                    "another name."
                )
            found[table] = study
    return found
