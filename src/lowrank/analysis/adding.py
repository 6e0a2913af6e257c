"""New results beside published ones: what is new joins them, what is there stays.

A run is known by its digest, which determines its numbers on one processor. A published run stays as it is;
made again on another processor it becomes a row of the table `processors`. What contradicts published runs
is refused, or takes their place where that is meant.

All that is published of a track is of one study: of the same data, settings and versions. So beside new runs
of a track only those published ones stay that would be used if the new ones' configuration were built on them
(`lowrank.experiment.ground`); tracks of which nothing is new stay as they are.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import pandas as pd

from lowrank.analysis.described import as_configured
from lowrank.analysis.sorting import (
    ENDS,
    KEY,
    MADE_BY,
    Row,
    key_of,
    keys_of,
    made_by,
    refuse,
    rows_of,
    sorted_out,
)
from lowrank.experiment.config import Config
from lowrank.experiment.expand import outline
from lowrank.experiment.experiment import Experiment
from lowrank.experiment.ground import Ground, Published
from lowrank.experiment.study import jobs
from lowrank.frames import concat

Tables = Mapping[str, pd.DataFrame]
OF_RUNS = ("runs", "history", "layers", "spectra")


def add(
    old: Tables, new: Tables, config: Config, *, replace: bool
) -> tuple[dict[str, pd.DataFrame], str]:
    """The tables of both, contrasts and claims left out, and what became of the runs in a sentence.

    `config` describes them all. Published cells that it lacks, runs with other numbers or another digest
    than published ones of their cell and seed, published runs of other data, settings or versions than the
    new ones of their track, and new runs that do not follow from the published sweeps are a LowrankError; with `replace` the new runs stay and those published ones go.
    """
    grid = outline(config)
    published = old.get("runs", pd.DataFrame(columns=KEY))
    lacking = sorted(set(published["cell"]) - set(grid.cells))
    found = sorted_out(rows_of(published), rows_of(old.get("processors")), rows_of(new["runs"]))
    tables = {
        name: _measured(old.get(name), new.get(name), unit, replace)
        for name, unit in _units().items()
    }
    tracks = set(new["runs"]["track"])
    ground = _ground(config, old, new, tables["rates"])
    fresh = set(keys_of(new["runs"]))
    found.unfit = [
        key_of(row)
        for row in rows_of(published)
        if row["track"] in tracks
        and row["cell"] in grid.cells
        and key_of(row) not in fresh
        and not ground.fits(row)
    ]
    before, added = set(published.get("track", ())), set(found.added)
    found.strange = [
        key_of(row)
        for row in rows_of(new["runs"])
        if key_of(row) in added and row["track"] in before and not ground.fits(row)
    ]
    if not replace:
        refuse(lacking, found)
    gone = [key for key in keys_of(published) if key[0] in lacking]
    going = {*found.other, *found.contradicting}
    stay = {*keys_of(published)} - {*going, *found.unfit, *gone}
    for name in OF_RUNS:
        parts = [_where(old.get(name), stay), _where(new.get(name), stay, inside=False)]
        tables[name] = concat(parts)
    tables["runs"] = as_configured(config, tables["runs"])
    tables["processors"] = _processors(old.get("processors"), found.again, tables["runs"])
    tables["rates"] = _where_in(tables["rates"], "group", grid.sweeps)
    lost = _without_unfit(tables, new, ground, tracks)
    foreign = _foreign(old, tables)
    same = {
        name: _where_in(rows, "track", {*config.tracks} - tracks) for name, rows in foreign.items()
    }
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
    parts += [
        f"rows of {name} that no study here writes"
        for name, rows in foreign.items()
        if len(same[name]) < len(rows)
    ]
    if parts:
        sentence += f" Left out: {', '.join(parts)}."
    return {name: table for name, table in {**tables, **same}.items() if len(table)}, sentence


def _units() -> dict[str, list[str]]:
    """What is made in one go, by table: its rows stay, or go, together."""
    of_jobs = {table: job.unit for job in jobs().values() for table in job.tables}
    return {"rates": ["group"], **of_jobs}


def _foreign(old: Tables, known: Tables) -> dict[str, pd.DataFrame]:
    """Published tables that no study here writes, such as that of another configuration's own study."""
    derived = ("contrasts", "claims")
    return {name: rows for name, rows in old.items() if name not in known and name not in derived}


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
    `ground` has them; the names of those from which something went. Times of steps, which are made from no run,
    are those of one version and of the same models beside new times of their track."""
    lost = []
    for name, unit in _units().items():
        table = tables[name]
        if not len(table):
            continue
        anew = new[name] if len(new.get(name, ())) else table[:0]
        fresh = set(keys_of(anew, unit))
        compared = set(anew["track"]) if "processor" in unit else tracks
        of = table["group"].str.split("/").str[0] if name == "rates" else table["track"]
        keys = keys_of(table, unit)
        fits = set(ground.take(name, table.assign(place=range(len(table)))).get("place", ()))
        kept = [
            track not in compared or key in fresh or place in fits
            for place, (track, key) in enumerate(zip(of, keys, strict=True))
        ]
        if not all(kept):
            tables[name] = table[kept]
            lost.append(name)
    return lost


def _processors(old: pd.DataFrame | None, again: list[Row], runs: pd.DataFrame) -> pd.DataFrame:
    """The ends of published runs that were made again on other processors."""
    columns = [*KEY, "track", "digest", *MADE_BY]
    made = [{k: v for k, v in row.items() if k in columns or ENDS.fullmatch(k)} for row in again]
    first = {row.get("digest"): made_by(row) for row in rows_of(runs)}
    rows = [*rows_of(old), *made]
    return pd.DataFrame(
        row for row in rows if first.get(row["digest"], made_by(row)) != made_by(row)
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
    kept = [key in stay for key in keys_of(old, shared)]
    fresh = [key not in stay for key in keys_of(new, shared)]
    return concat([old[kept], new[fresh]])


def _digests(table: pd.DataFrame, unit: list[str]) -> dict[tuple[Any, ...], set[str]]:
    """What the rows of each unit were made from."""
    found: dict[tuple[Any, ...], set[str]] = {}
    for key, digest in zip(
        keys_of(table, unit), table.get("digest", [""] * len(table)), strict=True
    ):
        found.setdefault(key, set()).add(str(digest))
    return found


def _where(table: pd.DataFrame | None, keys: set[Any], inside: bool = True) -> pd.DataFrame:
    if table is None or not len(table):
        return pd.DataFrame()
    return table[[(key in keys) == inside for key in keys_of(table)]]


def _where_in(table: pd.DataFrame, column: str, values: Collection[str]) -> pd.DataFrame:
    return table[table[column].isin(values)] if column in table else table[:0]
