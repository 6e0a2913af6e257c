"""Published results as a ground to build on: what an experiment finds there, and what it still needs.

A published run is used if its digest is that of a run of the experiment: the same spec, data and version of
training. So are sweeps, all of whose runs have to be those of the experiment's sweep, and what is read from
models, by the digests of the runs that it is made from. Names of cells and versions of the code around do not
matter. What is not found is made here.

Data are known by their digest. Where they are not prepared yet, those of the published runs are assumed; who
finds others meanwhile has to begin again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lowrank.experiment.cell import Cell, SweepGroup
from lowrank.experiment.study import jobs, writers
from lowrank.files import MANIFEST, check_manifest, read_json, restore
from lowrank.parquet import read_table
from lowrank.versions import VERSIONS

if TYPE_CHECKING:
    import pandas as pd

    from lowrank.experiment.experiment import Experiment

OF_RUNS = ("runs", "history", "layers", "spectra")
Run = tuple[str, int]
"""Cell and seed."""


@dataclass(frozen=True)
class Published:
    """Published tables, and the digests of the data that are prepared here, by track."""

    tables: Mapping[str, pd.DataFrame]
    data: Mapping[str, str]


def read_ground(folder: Path, data: Path, tracks: Iterable[str]) -> Published:
    """What tells what is published in `folder`; `data` is where tracks' data are prepared, if they are."""
    names = check_manifest(folder, restore(folder))["files"]
    telling = ("runs", "rates", *(job.tables[0] for job in jobs().values()))
    tables = {
        name: read_table(folder / f"{name}.parquet")
        for name in telling
        if f"{name}.parquet" in names
    }
    return Published(tables, prepared(data, tracks))


def prepared(data: Path, tracks: Iterable[str]) -> dict[str, str]:
    """The digests of the data that are prepared in `data`, by track."""
    manifests = {track: data / track / MANIFEST for track in tracks}
    return {t: read_json(path)["digest"] for t, path in manifests.items() if path.is_file()}


class Ground:
    """What an experiment finds among published results."""

    def __init__(self, experiment: Experiment, published: Published) -> None:
        self.experiment, self.tables = experiment, published.tables
        runs = self.tables["runs"]
        last = dict(zip(runs["track"], runs["data_digest"], strict=True))
        self.data = {**last, **published.data}
        """The digest of each track's data."""
        self.sweeps: dict[str, str] = {}
        """Published sweeps by the names that they have here."""
        self.rates: dict[str, float] = {}
        """What they found."""
        for group in experiment.grid.sweeps.values():
            self._find(group)

    # Sweeps.

    @cached_property
    def _swept(self) -> dict[str, pd.DataFrame]:
        """The published sweeps whose runs are known by digest."""
        rates = self.tables.get("rates")
        if rates is None or "digest" not in rates:
            return {}
        return dict(list(rates.groupby("group")))

    def _find(self, group: SweepGroup) -> None:
        data = self.data.get(group.track)
        if data is None or not self.rates.keys() >= set(group.groups):
            return
        wanted = {
            spec.identity(data) for value in group.values for spec in group.runs(value, self.rates)
        }
        for name, rows in self._swept.items():
            choice = rows["choice"].iloc[0] if "choice" in rows else "learning_rate"
            if choice != group.choice or set(rows["seed"]) != set(group.cell.seeds):
                continue
            further = rows[choice].nunique() - len(group.values)
            if not wanted <= set(rows["digest"]) or further > group.extend:
                continue
            if rows["at_edge"].any() and further < group.extend:
                continue  # it would go on here
            self.sweeps[group.name] = str(name)
            self.rates[group.name] = float(rows.loc[rows["chosen"], group.choice].iloc[0])

    # Runs.

    @cached_property
    def runs(self) -> dict[Run, Run]:
        """The runs that are there, by cell and seed, and the cell and seed that they were published by."""
        table = self.tables["runs"]
        if not {"digest", "evaluation_version", "test_examples"} <= set(table):
            return {}
        evaluated = table[table["evaluation_version"] == VERSIONS["evaluation"]]
        columns = ("digest", "test_examples", "cell", "seed")
        known = {row[:2]: row[2:] for row in zip(*(evaluated[c] for c in columns), strict=True)}
        found: dict[Run, Run] = {}
        for cell in self.experiment.grid.cells.values():
            for seed, digest in self.digests(cell).items():
                if there := known.get((digest, cell.evaluation.test_examples)):
                    found[cell.name, seed] = there
        return found

    def digests(self, cell: Cell) -> dict[int, str]:
        """The digest of each of a cell's runs, by seed; none where a sweep that it needs is missing."""
        data = self.data.get(cell.track)
        if data is None or not self.rates.keys() >= set(cell.groups):
            return {}
        return {spec.seed: spec.identity(data) for spec in cell.runs(self.rates)}

    def fits(self, row: Mapping[Any, Any]) -> bool:
        """Whether a published run is that of its cell and seed in the experiment, evaluated as there."""
        cell = self.experiment.grid.cells.get(row["cell"])
        if cell is None:
            return False
        digests = self.digests(cell.model_copy(update={"seeds": (int(row["seed"]),)}))
        return (
            digests.get(row["seed"]) == row.get("digest")
            and row.get("evaluation_version") == VERSIONS["evaluation"]
            and row.get("test_examples") == cell.evaluation.test_examples
        )

    def missing(self, cell: Cell) -> tuple[int, ...]:
        """The seeds of a cell whose runs are not there."""
        return tuple(seed for seed in cell.seeds if (cell.name, seed) not in self.runs)

    # What is measured beside.

    def lacking(self, study: str, track: str) -> tuple[int, ...]:
        """The seeds for which the job of a study has to read models here; it reads none that diverged."""
        expected, rows = self._made_from(study, track), self._rows(jobs()[study].tables[0], track)
        there = {
            seed
            for seed, digest in zip(rows["seed"], rows["digest"], strict=True)
            if expected.get(seed) == digest
        }
        dense = self.experiment.cells_of_study(study, track)[0].name
        seeds = self.experiment.config.seeds_of(track)
        return tuple(s for s in seeds if s not in there and (dense, s) not in self._diverged)

    @cached_property
    def _diverged(self) -> set[Run]:
        runs = self.tables["runs"]
        lost = runs[runs["diverged"].eq(True)]
        theirs = set(zip(lost["cell"], lost["seed"], strict=True))
        return {here for here, there in self.runs.items() if there in theirs}

    def has(self, study: str, track: str) -> bool:
        """Whether all rows of the job of a study are there, by those of its first table."""
        if (job := jobs()[study]).arms:
            return not self.lacking(study, track)
        rows = self._rows(job.tables[0], track)
        return not set(self._made_from(study, track).values()).isdisjoint(rows["digest"])

    def _rows(self, table: str, track: str) -> pd.DataFrame:
        """A track's published rows of a table, if they say what they are made from."""
        import pandas as pd

        rows = self.tables.get(table, pd.DataFrame())
        if not {"track", "digest"} <= set(rows):
            return pd.DataFrame(columns=["track", "seed", "digest"])
        return rows[rows["track"] == track]

    def _made_from(self, study: str, track: str) -> dict[int | None, str]:
        data = self.data.get(track)
        cells = self.experiment.cells_of_study(study, track)
        if data is None or not all(self.rates.keys() >= set(cell.groups) for cell in cells):
            return {}
        return self.experiment.made_from(study, track, self.rates, data)

    def _expected(self, table: str, track: str) -> set[str]:
        """The digests of what a track's rows of a table are made from."""
        study = writers().get(table, "")
        if track not in self.experiment.grid.jobs.get(study, {}):
            return set()
        return set(self._made_from(study, track).values())

    # What is taken.

    def take(self, name: str, table: pd.DataFrame) -> pd.DataFrame:
        """The rows of a published table that belong to the experiment, by the names that they have here."""
        if name in OF_RUNS:
            names = [(*there, *here) for here, there in self.runs.items()]
            return _renamed(table, ["cell", "seed"], names)
        if name == "rates":
            return _renamed(table, ["group"], [(old, new) for new, old in self.sweeps.items()])
        if "digest" not in table:
            return table[:0]
        tracks = self.experiment.config.tracks
        wanted = set().union(*(self._expected(name, track) for track in tracks))
        return table[table["digest"].isin(wanted)]


def _renamed(table: pd.DataFrame, key: list[str], names: list[tuple[Any, ...]]) -> pd.DataFrame:
    """The rows of these keys, each (old, ..., new, ...), under their new ones."""
    import pandas as pd

    new = [f"{name} here" for name in key]
    if not len(table) or not names:
        return table[:0]
    rows = table.merge(pd.DataFrame(names, columns=[*key, *new]), "inner", key)
    return rows.assign(**{name: rows[here] for name, here in zip(key, new, strict=True)}).drop(
        columns=new
    )
