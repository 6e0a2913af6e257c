"""New results beside published ones: what is new joins them, what is there stays.

A run is known by its digest, which determines its numbers on one processor. A published run stays as it is;
made again on another processor it becomes a row of the table `processors`. What contradicts published runs
is refused, or takes their place where that is meant.

All that is published of a track is of one study: of the same data, settings and versions. So beside new runs
of a track only those published ones stay that would be used if the new ones' configuration were built on them
(`lowrank.experiment.ground`); tracks of which nothing is new stay as they are.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from lowrank.analysis.described import as_configured
from lowrank.errors import LowrankError
from lowrank.experiment.config import Config
from lowrank.experiment.expand import outline
from lowrank.experiment.experiment import Experiment
from lowrank.experiment.ground import Ground, Published
from lowrank.experiment.study import jobs
from lowrank.frames import concat

Tables = Mapping[str, pd.DataFrame]
Row = dict[str, Any]
KEY = ["cell", "seed"]
OF_RUNS = ("runs", "history", "layers", "spectra")
MADE_BY = ("processor", "torch", "threads")
"""What runs repeat to the bit on."""
EVALUATED_BY = ("evaluation_version", "test_examples")
ENDS = re.compile(r"(train|validation|test)_(loss|accuracy)")


@dataclass
class _Runs:
    """What becomes of new runs, by cell and seed."""

    added: list[tuple[str, int]] = field(default_factory=list)
    known: list[tuple[str, int]] = field(default_factory=list)
    again: list[Row] = field(default_factory=list)
    """Rows from another processor."""
    other: list[tuple[str, int]] = field(default_factory=list)
    """Published by another digest, or evaluated otherwise."""
    contradicting: list[tuple[str, int]] = field(default_factory=list)
    """Published by the same digest and processor with other numbers."""
    unfit: list[tuple[str, int]] = field(default_factory=list)
    """Published, with no new run of the cell and seed, and of another study than the track's new runs."""


def add(
    old: Tables, new: Tables, config: Config, *, replace: bool
) -> tuple[dict[str, pd.DataFrame], str]:
    """The tables of both, contrasts and claims left out, and what became of the runs in a sentence.

    `config` describes them all. Published cells that it lacks, runs with other numbers or another digest
    than published ones of their cell and seed, and published runs of other data, settings or versions than the
    new ones of their track are a LowrankError; with `replace` the new runs stay and those published ones go.
    """
    grid = outline(config)
    published = old.get("runs", pd.DataFrame(columns=KEY))
    lacking = sorted(set(published["cell"]) - set(grid.cells))
    found = _sorted_out(_rows(published), _rows(old.get("processors")), _rows(new["runs"]))
    tables = {
        name: _measured(old.get(name), new.get(name), unit, replace)
        for name, unit in _units().items()
    }
    tracks = set(new["runs"]["track"])
    ground = _ground(config, old, new, tables["rates"])
    fresh = set(_keys(new["runs"]))
    found.unfit = [
        _key(row)
        for row in _rows(published)
        if row["track"] in tracks
        and row["cell"] in grid.cells
        and _key(row) not in fresh
        and not ground.fits(row)
    ]
    if not replace:
        _refuse(lacking, found)
    gone = [key for key in _keys(published) if key[0] in lacking]
    going = {*found.other, *found.contradicting}
    stay = {*_keys(published)} - {*going, *found.unfit, *gone}
    for name in OF_RUNS:
        parts = [_where(old.get(name), stay), _where(new.get(name), stay, inside=False)]
        tables[name] = concat(parts)
    tables["runs"] = as_configured(config, tables["runs"])
    tables["processors"] = _processors(old.get("processors"), found.again, tables["runs"])
    tables["rates"] = _where_in(tables["rates"], "group", grid.sweeps)
    lost = _without_unfit(tables, new, ground, tracks)
    counts = {
        "added": len(found.added),
        "put in the place of others": len(going),
        "made again on another processor": len(found.again),
        "published before": len(found.known),
    }
    words = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
    sentence = f"Of {len(new['runs'])} runs {words}; {len(tables['runs'])} are published."
    left = {
        "of other data, settings or versions": len(found.unfit),
        "of cells that the configuration lacks": len(gone),
    }
    parts = [f"{count} published runs {what}" for what, count in left.items() if count]
    parts += [f"rows of {name} made from other runs" for name in lost]
    if parts:
        sentence += f" Left out: {', '.join(parts)}."
    return {name: table for name, table in tables.items() if len(table)}, sentence


def _units() -> dict[str, list[str]]:
    """What is made in one go, by table: its rows stay, or go, together."""
    of_jobs = {table: job.unit for job in jobs().values() for table in job.tables}
    return {"rates": ["group"], **of_jobs}


def _ground(config: Config, old: Tables, new: Tables, rates: pd.DataFrame) -> Ground:
    """All runs, old and new, as what the configuration with the seeds of both is built on; a track's data
    are those of its new runs."""
    runs = concat([old.get("runs", pd.DataFrame()), new["runs"]])
    seeds = {track: tuple(map(int, set(own))) for track, own in runs.groupby("track")["seed"]}
    tracks = {
        name: track.model_copy(update={"seeds": seeds.get(name, track.seeds)})
        for name, track in config.tracks.items()
    }
    whole = config.model_copy(update={"tracks": tracks, "retrain": None})
    tables = {"runs": runs, **({"rates": rates} if len(rates) else {})}
    ground = Experiment(whole, Published(tables, {})).ground
    assert ground is not None
    return ground


def _without_unfit(
    tables: dict[str, pd.DataFrame], new: Tables, ground: Ground, tracks: set[str]
) -> list[str]:
    """Take out of `tables` what was published of these tracks and is neither new nor made from runs as
    `ground` has them; the names of those from which something went. Times of steps are made from no run."""
    lost = []
    for name, unit in _units().items():
        table = tables[name]
        if "processor" in unit or not len(table):
            continue
        fresh = set(_keys(new[name], unit)) if len(new.get(name, ())) else set()
        of = table["group"].str.split("/").str[0] if name == "rates" else table["track"]
        keys = _keys(table, unit)
        fits = set(ground.take(name, table.assign(place=range(len(table)))).get("place", ()))
        kept = [
            track not in tracks or key in fresh or place in fits
            for place, (track, key) in enumerate(zip(of, keys, strict=True))
        ]
        if not all(kept):
            tables[name] = table[kept]
            lost.append(name)
    return lost


def _sorted_out(published: list[Row], repeated: list[Row], new: list[Row]) -> _Runs:
    known = {_key(row): row for row in published}
    elsewhere = {(row["digest"], _made_by(row)): row for row in repeated}
    found = _Runs()
    for row in new:
        key, before = _key(row), known.get(_key(row))
        if before is None:
            found.added.append(key)
        elif not _same_study(before, row):
            found.other.append(key)
        elif _made_by(before) == _made_by(row):
            (found.known if _same(before, row) else found.contradicting).append(key)
        else:
            there = elsewhere.get((row["digest"], _made_by(row)), row)
            if not _same(there, row):
                found.contradicting.append(key)
            elif there is row:
                found.again.append(row)
            else:
                found.known.append(key)
    return found


def _refuse(lacking: list[str], found: _Runs) -> None:
    if lacking:
        raise LowrankError(
            f"{len(lacking)} published cells are not in this configuration ({_some(lacking)}): add them "
            "to it, or leave them out with --replace."
        )
    if keys := found.contradicting:
        raise LowrankError(
            f"{len(keys)} of these runs are published with other numbers from the same processor "
            f"({_named(keys)}): give --replace to put these in their place."
        )
    if keys := [*found.other, *found.unfit]:
        ways = {
            "put these in the place of {}": len(found.other),
            "leave {} out": len(found.unfit),
        }
        chosen = [way.format(count) for way, count in ways.items() if count]
        raise LowrankError(
            f"{len(keys)} published runs are of other data, settings or versions than these "
            f"({_named(keys)}): give --replace to {' and '.join(chosen)}."
        )


def _made_by(row: Row) -> tuple[str, ...]:
    return tuple(str(row.get(name)) for name in MADE_BY)


def _same_study(one: Row, other: Row) -> bool:
    """Whether two runs of a cell and seed are of the same digest, and evaluated alike."""
    alike = (_equal(one.get(name), other.get(name)) for name in EVALUATED_BY)
    return one.get("digest") == other.get("digest") and all(alike)


def _same(one: Row, other: Row) -> bool:
    """Whether two runs end in the same numbers."""
    names = [name for name in {**one, **other} if ENDS.fullmatch(name)]
    return all(_equal(one.get(name), other.get(name)) for name in names)


def _equal(a: Any, b: Any) -> bool:
    if pd.isna(a) or pd.isna(b):
        return bool(pd.isna(a) and pd.isna(b))
    return math.isclose(a, b, rel_tol=1e-9)


def _processors(old: pd.DataFrame | None, again: list[Row], runs: pd.DataFrame) -> pd.DataFrame:
    """The ends of published runs that were made again on other processors."""
    columns = [*KEY, "track", "digest", *MADE_BY]
    made = [{k: v for k, v in row.items() if k in columns or ENDS.fullmatch(k)} for row in again]
    first = {row.get("digest"): _made_by(row) for row in _rows(runs)}
    rows = [*_rows(old), *made]
    return pd.DataFrame(
        row for row in rows if first.get(row["digest"], _made_by(row)) != _made_by(row)
    )


def _measured(
    old: pd.DataFrame | None, new: pd.DataFrame | None, unit: list[str], replace: bool
) -> pd.DataFrame:
    """Published rows of each unit, unless new ones were made from something else, or are to replace them."""
    tables = [table for table in (old, new) if table is not None and len(table)]
    if len(tables) < 2:
        return concat(tables)
    old, new = tables
    shared = [name for name in unit if name in old and name in new]
    before, now = _digests(old, shared), _digests(new, shared)
    stay = {
        key
        for key, digests in before.items()
        if key not in now or (now[key] <= digests and not replace)
    }
    kept = [key in stay for key in _keys(old, shared)]
    fresh = [key not in stay for key in _keys(new, shared)]
    return concat([old[kept], new[fresh]])


def _digests(table: pd.DataFrame, unit: list[str]) -> dict[tuple[Any, ...], set[str]]:
    """What the rows of each unit were made from."""
    found: dict[tuple[Any, ...], set[str]] = {}
    for key, digest in zip(_keys(table, unit), table.get("digest", [""] * len(table)), strict=True):
        found.setdefault(key, set()).add(str(digest))
    return found


def _rows(table: pd.DataFrame | None) -> list[Row]:
    return [] if table is None else table.to_dict("records")  # type: ignore[return-value]


def _key(row: Row) -> tuple[str, int]:
    return row["cell"], row["seed"]


def _keys(table: pd.DataFrame, columns: Collection[str] = KEY) -> list[tuple[Any, ...]]:
    return list(zip(*(table[name] for name in columns), strict=True))


def _where(table: pd.DataFrame | None, keys: set[Any], inside: bool = True) -> pd.DataFrame:
    if table is None or not len(table):
        return pd.DataFrame()
    return table[[(key in keys) == inside for key in _keys(table)]]


def _where_in(table: pd.DataFrame, column: str, values: Collection[str]) -> pd.DataFrame:
    return table[table[column].isin(values)] if len(table) else table


def _named(runs: Iterable[tuple[str, int]]) -> str:
    return _some(f"{cell} seed {seed}" for cell, seed in runs)


def _some(names: Iterable[str], most: int = 5) -> str:
    listed = list(names)
    return ", ".join(listed[:most]) + (", ..." if len(listed) > most else "")
