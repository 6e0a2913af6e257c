"""Published results: a scale's small tables in version control, sealed by a manifest.

They are leaf inputs: no rule makes them, so nothing retrains because of them. A table that does not
match the manifest is an error that names it.
"""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from lowrank.errors import LowrankError
from lowrank.experiment.metrics import task_of
from lowrank.files import (
    MANIFEST,
    atomic_dir,
    check_manifest,
    read_json,
    read_sealed,
    read_table,
    write_json,
    write_manifest,
)

TABLES = (
    *("runs", "history", "layers", "spectra", "rates"),
    *("interpolation", "barriers", "posthoc", "baselines", "speed", "contrasts", "claims"),
)
HISTORY_POINTS = 12
"""Logged steps kept of each run's history, the last among them."""


def publish(tables: Path, config: Path, output: Path) -> dict[str, Any]:
    """Rewrite `output`: each table there is, histories thinned, floats as float32 where they are
    only drawn, and a manifest with commit, versions, device and date. Returns the manifest."""
    runs = read_table(tables / "runs.parquet")
    with atomic_dir(output) as folder:
        names = []
        for name in TABLES:
            source = tables / f"{name}.parquet"
            if source.is_file():
                table = thin(read_table(source)) if name == "history" else read_table(source)
                table.to_parquet(folder / source.name, index=False, compression="zstd")
                names.append(source.name)
        write_json(folder / "config.json", read_sealed(config))
        write_manifest(
            folder,
            [*names, "config.json"],
            commit=commit(),
            date=datetime.now(UTC).date().isoformat(),
            **{key: _values(runs, key) for key in ("lowrank", "torch", "transformers", "device")},
            data_digests=_values(runs, "data_digest"),
            runs=len(runs),
            train_seconds=round(float(runs["train_seconds"].sum()), 1),
        )
    return read_json(output / MANIFEST)


def read_published(folder: Path) -> dict[str, pd.DataFrame]:
    """The published tables by name; a missing, truncated or altered one is a LowrankError naming it.

    Runs that were published before parts of the code had versions of their own are of their first.
    """
    manifest = check_manifest(folder)
    tables = {
        Path(name).stem: read_table(folder / name)
        for name in manifest["files"]
        if name.endswith(".parquet")
    }
    if "runs" not in tables:
        raise LowrankError(f"{folder} holds no table of runs: publish a scale's tables there.")
    runs = tables["runs"].rename(columns={"method_version": "training_version"})
    if "evaluation_version" not in runs:
        runs["evaluation_version"] = 1
    baselines = tables.get("baselines")
    if baselines is not None and "track" not in baselines:
        # They are of the only track of its task, published before there could be several.
        tasks = {
            track: task_of(family)
            for family, track in zip(runs["family"], runs["track"], strict=True)
        }
        tables["baselines"] = baselines.assign(
            track=next(track for track, task in tasks.items() if task.language)
        )
    return {**tables, "runs": runs}


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
