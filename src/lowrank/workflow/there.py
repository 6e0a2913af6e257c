"""What is published of a scale, where nothing is made of what is missing there."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from lowrank.experiment.ground import read_ground
from lowrank.experiment.study import jobs, writers

if TYPE_CHECKING:
    import pandas as pd


class There:
    """The published tables in `folder` that tell what there is to show beside the cells that are trained."""

    def __init__(self, folder: Path, trained: Collection[str]) -> None:
        self.tables: Mapping[str, pd.DataFrame] = read_ground(folder, Path(), ()).tables
        self.trained = trained

    def has_runs(self, cells: Iterable[str]) -> bool:
        """Whether any of these cells has published runs, or is trained."""
        return not {*self.tables["runs"]["cell"], *self.trained}.isdisjoint(cells)

    def has_rates(self, track: str) -> bool:
        """Whether any of a track's sweeps is published, or may be made for what is trained."""
        return track in self.tracks("rates") or any(c.startswith(f"{track}/") for c in self.trained)

    def tracks(self, table: str) -> set[str]:
        """The tracks that have rows in a table."""
        found = self.tables.get(table)
        return set() if found is None or found.empty else set(found["track"])

    def measured(self, told: Mapping[str, list[str]]) -> dict[str, list[str]]:
        """Of the tables that studies' jobs write, each with its tracks, those of which something is there."""
        rows = {table: self.tracks(jobs()[writers()[table]].tables[0]) for table in told}
        kept = {table: [t for t in tracks if t in rows[table]] for table, tracks in told.items()}
        return {table: tracks for table, tracks in kept.items() if tracks}
