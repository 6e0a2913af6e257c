"""Published results: a scale's small tables in version control, sealed by a manifest.

They are leaf inputs: no rule makes them, so nothing retrains because of them. A table that does not
match the manifest is an error that names it, and so is one whose numbers do not follow from the runs:
contrasts and verdicts are derived anew whenever published tables are read.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd

from lowrank.analysis.adding import add
from lowrank.analysis.claims import judge_scale
from lowrank.analysis.contrasts import all_contrasts
from lowrank.analysis.described import described
from lowrank.analysis.ledger import Ledger, read_ledger
from lowrank.errors import LowrankError
from lowrank.experiment.agreement import disagreement
from lowrank.experiment.compared import same
from lowrank.experiment.config import Config, parse
from lowrank.experiment.metrics import task_of
from lowrank.experiment.study import writers
from lowrank.files import (
    MANIFEST,
    atomic_dir,
    check_manifest,
    read_json,
    read_sealed,
    restore,
    stamps,
    write_json,
    write_manifest,
    write_text,
)
from lowrank.parquet import read_table

NEEDED = ("runs", "history", "layers", "spectra", "contrasts")
CONFIG, LEDGER = "config.json", "claims.yaml"
HISTORY_POINTS = 12
"""Logged steps kept of each run's history, the last among them."""


def publish(
    tables: Path,
    config: Path,
    ledger: Path,
    output: Path,
    *,
    replace: bool = False,
    calibration: Mapping[str, float] | None = None,
) -> str:
    """Add a scale's tables to those published in `output` (`adding.add`), histories thinned, with the
    configuration, the ledger of claims, and a manifest of every file with commit, versions, processors and
    date. Contrasts and verdicts are of all that is published then. Returns what was added, in a sentence.
    `calibration` is what `lowrank bench --calibrate` times, by processor; what was published of others stays.

    Tables that do not follow from one another, such as those of two states of a study, or contradict what
    was published (see `replace` there) are a LowrankError, and then what was published before stays.
    """
    settings, claimed = parse(read_sealed(config), str(config)), read_ledger(ledger)
    names = (*NEEDED, "rates", *writers(), "claims")
    paths = {name: tables / f"{name}.parquet" for name in names}
    new = {name: read_table(path) for name, path in paths.items() if path.is_file()}
    for name in NEEDED:
        if name not in new:
            raise LowrankError(f"{paths[name]} is missing.")
    if new["runs"].empty:
        raise LowrankError(f"{paths['runs']} holds no run to publish.")
    if contradiction := _contradiction(new, settings, claimed):
        raise LowrankError(f"{tables} cannot be published: {contradiction}.")
    new["history"] = thin(new["history"])
    old = read_published(output) if (output / MANIFEST).is_file() else {}
    found, sentence = add(old, new, settings, replace=replace)
    found["contrasts"] = all_contrasts(settings, found)
    if "claims" in new:
        found["claims"] = judge_scale(claimed, settings, found)
    if contradiction := _contradiction(found, settings, claimed):
        raise LowrankError(
            f"{tables} cannot be published beside what {output} holds: {contradiction}."
        )
    before = read_json(output / MANIFEST) if old else {}
    known = {**before.get("calibration_seconds", {}), **(calibration or {})}
    _write(output, found, read_sealed(config), ledger, known)
    return sentence


def _write(
    output: Path,
    tables: dict[str, pd.DataFrame],
    config: dict[str, Any],
    ledger: Path,
    calibration: Mapping[str, float],
) -> None:
    runs = tables["runs"]
    seconds = runs.groupby("processor")["train_seconds"].sum()
    timed = {name: calibration[name] for name in seconds.index if name in calibration}
    steps = sum(seconds[name] / step for name, step in timed.items())
    with atomic_dir(output) as folder:
        for name, table in tables.items():
            table.to_parquet(folder / f"{name}.parquet", index=False, compression="zstd")
        write_json(folder / CONFIG, config)
        write_text(folder / LEDGER, ledger.read_text(encoding="utf-8"))
        write_manifest(
            folder,
            [path.name for path in folder.iterdir()],
            commit=commit(),
            date=datetime.now(UTC).date().isoformat(),
            **{key: _values(runs, key) for key in ("lowrank", "torch", "transformers")},
            processors=_values(runs, "processor"),
            data_digests=_values(runs, "data_digest"),
            runs=len(runs),
            train_seconds={name: round(float(spent), 1) for name, spent in seconds.items()},
            calibration_seconds=timed,
            calibration_steps=round(steps) if len(timed) == len(seconds) else None,
        )


def read_published(folder: Path, *, judged: bool = True) -> dict[str, pd.DataFrame]:
    """The published tables by name; a missing, truncated or altered one is a LowrankError naming it,
    and so is a number that contradicts those that it follows from or that follow from it.

    A folder that this process has read is read again only if a file of it has been written since. Unless
    `judged`, contrasts and verdicts are left out, and not derived anew, which takes longest.
    """
    places = [folder, *sorted(folder.iterdir())] if folder.is_dir() else []
    tables = _read_once(Path(os.path.abspath(folder)), folder, judged, stamps(places))
    return {name: table.copy() for name, table in tables.items()}


@lru_cache(maxsize=8)
def _read_once(
    place: Path, folder: Path, judged: bool, written: tuple[str, ...]
) -> dict[str, pd.DataFrame]:
    names = check_manifest(folder, restore(folder))["files"]
    if strange := sorted({path.name for path in folder.iterdir()} - {*names, MANIFEST}):
        raise LowrankError(f"{folder / strange[0]} is not in the manifest: take it away.")
    tables = _read(folder, names)
    if not judged:
        tables = {
            name: table for name, table in tables.items() if name not in ("contrasts", "claims")
        }
    # What was published before verdicts came with their ledger cannot be judged again.
    ledger = read_ledger(folder / LEDGER) if (folder / LEDGER).is_file() else None
    if contradiction := _contradiction(tables, _config(folder), ledger):
        raise LowrankError(f"{folder} contradicts itself ({contradiction}): {restore(folder)}.")
    return tables


def _read(folder: Path, names: Iterable[str]) -> dict[str, pd.DataFrame]:
    tables = {
        Path(name).stem: read_table(folder / name) for name in names if name.endswith(".parquet")
    }
    for name in NEEDED:
        if name not in tables:
            raise LowrankError(
                f"{folder} holds no table of {name}: publish a scale's tables there."
            )
    return {**tables, **as_now(tables, _config(folder))}


def _config(folder: Path) -> Config:
    return parse(read_json(folder / CONFIG), str(folder / CONFIG))


def as_now(tables: dict[str, pd.DataFrame], config: Config) -> dict[str, pd.DataFrame]:
    """Tables that were published before parts of the code had versions of their own, which are of their
    first, before instruction sets stood beside processors, before all facts of an arm were columns, which
    follow from the configuration, and before there could be several tracks of text, as they are now."""
    runs = tables["runs"].rename(columns={"method_version": "training_version"})
    if "evaluation_version" not in runs:
        runs["evaluation_version"] = 1
    if "processor" not in runs and "device" in runs:
        runs["processor"] = runs["device"]
    found = described(config, {**tables, "runs": runs})
    speed = tables.get("speed")
    if speed is not None and "processor" not in speed:
        found["speed"] = speed.assign(processor=runs["processor"].iloc[0])
    baselines = tables.get("baselines")
    if baselines is not None and "track" not in baselines:
        tracks = zip(runs["family"], runs["track"], strict=True)
        text = next(track for family, track in tracks if task_of(family).language)
        found["baselines"] = baselines.assign(track=text)
    return found


def _contradiction(
    tables: dict[str, pd.DataFrame], config: Config, ledger: Ledger | None
) -> str | None:
    """What in tables does not follow from the runs, their configuration and ledger."""
    if found := disagreement(tables):
        return found
    if "contrasts" in tables:
        key = ["arm", "reference", "metric", "track", "study"]
        expected = all_contrasts(config, tables)
        if found := same(tables["contrasts"], expected, key, "contrasts"):
            return found
    if "claims" not in tables or ledger is None:
        return None
    rest = {name: table for name, table in tables.items() if name != "claims"}
    expected = judge_scale(ledger, config, rest)
    key = ["level", "claim", "track", "arm", "reference", "metric"]
    return same(tables["claims"], expected, key, "claims")


def thin(history: pd.DataFrame) -> pd.DataFrame:
    """About HISTORY_POINTS rows of each run, evenly spread, its last and all validated ones kept."""

    def keep(rows: pd.DataFrame) -> pd.DataFrame:
        stride = max(1, len(rows) // HISTORY_POINTS)
        chosen = [(len(rows) - 1 - index) % stride == 0 for index in range(len(rows))]
        validated = rows.get("validation_loss", pd.Series(index=rows.index, dtype=float)).notna()
        return rows[pd.Series(chosen, index=rows.index) | validated]

    parts = [keep(rows) for _, rows in history.groupby(["cell", "seed"], sort=False)]
    return pd.concat(parts, ignore_index=True) if parts else history


def _values(runs: pd.DataFrame, column: str) -> list[str]:
    return sorted(map(str, runs[column].dropna().unique())) if column in runs else []


def commit() -> str:
    """The commit of the working tree, marked if it has changes; `unknown` outside git."""
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return found.stdout.strip()
