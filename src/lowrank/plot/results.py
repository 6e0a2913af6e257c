"""The tables of one track, as figures read them, and which number stands for a track's quality."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd

from lowrank.errors import LowrankError, unknown
from lowrank.experiment.extensions import load_module
from lowrank.experiment.metrics import Task, metric, task_of
from lowrank.parquet import read_table
from lowrank.plot.arms import INITS, TRUNCATIONS, Kind, decay_looks, looks, switch_looks


@dataclass(frozen=True)
class Quality:
    """The metric by which a track's arms are compared, and those reported beside it."""

    metric: str
    label: str
    unit: str
    factor: float
    """From the tables' unit to the one that is shown."""
    digits: int
    better: int
    """+1 where more is better, -1 where less is."""
    beside: dict[str, tuple[str, int]]
    """Column: heading and digits, of further metrics for the table."""

    @property
    def axis(self) -> str:
        """The label of an axis."""
        return f"{self.label} ({self.unit})"

    @property
    def drawn(self) -> dict[str, Any]:
        """How `marks.points` draws it."""
        return {"factor": self.factor, "better": self.better}

    @property
    def shown(self) -> dict[str, Any]:
        """How a table's columns show differences of it."""
        return {"digits": self.digits, "factor": self.factor}


def quality(task: Task) -> Quality:
    """What the arms of a task are compared by."""
    own = metric(task.quality)
    beside = {name: (metric(name).label, metric(name).digits) for name in task.beside}
    return Quality(own.name, own.label, own.unit, own.factor, own.digits, own.better, beside)


@dataclass(frozen=True)
class Results:
    """All tables of one track."""

    folder: Path
    track: str
    _read: dict[str, pd.DataFrame] = field(default_factory=dict, repr=False, compare=False)

    @property
    def quality(self) -> Quality:
        """What the track's arms are compared by."""
        return quality(self.task)

    @cached_property
    def task(self) -> Task:
        """What the track is, by the model family of its runs."""
        return task_of(self.table("runs")["family"].iloc[0])

    @cached_property
    def inits(self) -> dict[str, Kind]:
        """How each initialisation is drawn: the same in all figures of all tracks of a folder."""
        return looks([*self._column("runs", "init"), *self._column("rates", "init")], INITS)

    @cached_property
    def decays(self) -> dict[str, Kind]:
        """How each decay is drawn, by its `arms.decay_label`."""
        runs = read_table(self.folder / "runs.parquet").drop_duplicates("cell")
        return decay_looks(records(runs))

    @cached_property
    def switches(self) -> dict[tuple[str, float], Kind]:
        """How each model that was dense at first is drawn."""
        return switch_looks(self.table("runs"))

    @cached_property
    def truncations(self) -> dict[str, Kind]:
        """How each truncation is drawn."""
        return looks(self._column("posthoc", "method"), TRUNCATIONS)

    def _column(self, table: str, column: str) -> pd.Series:
        """A column of text over all tracks; empty where the table or its rows are missing."""
        path = self.folder / f"{table}.parquet"
        found = read_table(path) if path.is_file() else pd.DataFrame()
        return found[column] if column in found else pd.Series(dtype=str)

    def table(self, name: str) -> pd.DataFrame:
        """The rows of a table that are this track's; LowrankError if there are none."""
        if name not in self._read:
            table = _of_track(read_table(self.folder / f"{name}.parquet"), self.track)
            if not len(table):
                raise LowrankError(
                    f"{self.folder / name}.parquet has no rows of the track {self.track}."
                )
            self._read[name] = table
        return self._read[name]

    def optional(self, name: str) -> pd.DataFrame:
        """The same, but empty where the table or the track's rows in it are missing."""
        try:
            return self.table(name)
        except LowrankError:
            if (self.folder / f"{name}.parquet").is_file():
                return read_table(self.folder / f"{name}.parquet").iloc[:0]
            return pd.DataFrame()

    def study(self, name: str) -> pd.DataFrame:
        """The runs of a study; values of runs that diverged are no values."""
        runs = self.table("runs")
        rows = runs[[name in studies.split(",") for studies in runs["studies"]]]
        if not len(rows):
            raise LowrankError(f"{self.folder}: the study '{name}' of {self.track} has no runs.")
        return rows.reset_index(drop=True)

    def of(self, name: str, cells: pd.Series | list[str]) -> pd.DataFrame:
        """The rows of a table (history, layers, spectra) that belong to the given cells."""
        table = self.table(name)
        return table[table["cell"].isin(list(cells))]


def records(table: pd.DataFrame) -> list[Any]:
    """The rows of a table, their fields as attributes."""
    return list(table.itertuples())


def _of_track(table: pd.DataFrame, track: str) -> pd.DataFrame:
    if "track" in table:
        return table[table["track"] == track].reset_index(drop=True)
    if "cell" in table:
        return table[table["cell"].str.startswith(f"{track}/")].reset_index(drop=True)
    return table.iloc[:0]


def read_results(tables: Path | str, track: str) -> Results:
    """The tables in a folder, for one track. A relative folder is looked for from here upwards."""
    folder = locate(tables)
    if not (folder / "runs.parquet").is_file():
        raise LowrankError(
            f"{tables} has no runs.parquet: make the tables first (snakemake --cores all tables) or "
            "name another folder in the cell 'parameters'."
        )
    tracks = read_table(folder / "runs.parquet")["track"].unique()
    if track not in tracks:
        raise unknown("track", track, tracks)
    return Results(folder, track)


def own(file: Path | str) -> ModuleType:
    """A Python file of one's own as a module, such as one with a study and its figure."""
    return load_module(locate(file))


def locate(path: Path | str) -> Path:
    """A path as meant from the project's root, whether one works there or in a folder below it."""
    path = Path(path)
    if path.is_absolute():
        return path
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "Snakefile").is_file():
            return folder / path
    return here / path
