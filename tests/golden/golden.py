"""The golden study: made from nothing but invented data, and how two of its records are compared.

`make` trains everything and returns what the pipeline's jobs return; `derive` returns what follows
from recorded tables without any training: contrasts, claims and plan.
"""

from __future__ import annotations

import hashlib
import math
import platform as machine
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))

from invented import invent_images, invent_text

from lowrank.analysis import ledger
from lowrank.analysis.claims import judge
from lowrank.analysis.described import described
from lowrank.analysis.tables import all_contrasts, collect
from lowrank.data.images import load_images, prepare_images
from lowrank.data.text import load_text, prepare_text
from lowrank.experiment import config
from lowrank.experiment.cell import RunSpec
from lowrank.experiment.expand import Grid, expand
from lowrank.experiment.study import jobs as jobs_of_studies
from lowrank.experiment.track import arm_name
from lowrank.jobs import train as jobs
from lowrank.jobs.baselines import ngram_losses
from lowrank.jobs.interpolate import interpolate
from lowrank.jobs.posthoc import posthoc
from lowrank.parquet import read_table, write_table
from lowrank.reports.plan import make_plan
from lowrank.train.build import choose_device
from lowrank.train.run import ensure_run
from lowrank.versions import VERSIONS

HERE = Path(__file__).parent
LEDGER = HERE.parents[1] / "config/claims.yaml"
TRACKS = {"language": "language", "small-images": "images", "large-images": "images"}
"""The task of each track that the record speaks of."""
KEYS = {
    "data": ["track", "split"],
    "runs": ["cell", "seed"],
    "history": ["cell", "seed", "step"],
    "layers": ["cell", "seed", "step", "layer"],
    "spectra": ["cell", "seed", "layer", "index"],
    "rates": ["group", "learning_rate"],
    "interpolation": ["cell", "seed", "t"],
    "barriers": ["cell", "seed"],
    "posthoc": ["track", "method", "rank_fraction", "fine_tune_steps", "seed"],
    "baselines": ["model"],
    "contrasts": ["track", "study", "metric", "arm", "reference"],
    "claims": ["claim", "level", "track", "metric", "kind", "arm", "reference"],
    "plan": ["cell"],
}
"""The tables that are recorded, and the columns that tell their rows apart."""
DERIVED = ("contrasts", "claims", "plan")
"""Tables that follow from the recorded ones in double precision, whatever the processor."""
RESULTS = {
    "runs": r"(?:train|validation|test)_(?!seconds).*|(?:effective|entropy|stable)_rank|diverged.*|"
    r"(?:kept_)?parameters|dense_parameters|kept_flops|flops_per_.*|training_flops|learning_rate",
    "rates": "track|seed|validation_loss|chosen|at_edge",
}
"""Columns that are results: the others are the arm's own description, or the machine's."""
NOT_RECORDED = ("seconds", "seconds_a_pair", "paper_value", "note", "arm_facts", "reference_facts")
"""Columns of the other tables that are times or words."""


@dataclass(frozen=True)
class Sort:
    """Numbers that differ alike between instruction sets, and how far they may."""

    words: str
    columns: str
    relative: float = 0.0
    absolute: float = 0.0


SORTS = (
    Sort("accuracy", r".*accuracy|disagreement", absolute=0.05),  # an image or two change sides
    Sort("barrier", r"barrier", absolute=1e-3),  # a small difference of losses
    Sort("perplexity a word", r".*word_perplexity", relative=2e-2),  # a high power
    Sort("norm of one gradient or update", r"gradient_norm|update_norm", relative=0.5),
    Sort("loss, perplexity a token, bits a byte", r".*(?:loss|perplexity|byte)", relative=4e-3),
    Sort("rank, norm, singular value, distance, step size", r".*", relative=5e-3),
)
"""Each column is of the first sort whose expression matches it."""


def allowed(sort: Sort) -> str:
    """How far numbers of a sort may differ, in words."""
    return f"{sort.relative or sort.absolute:g}{'' if sort.relative else ' absolute'}"


def sort_of(column: str) -> Sort:
    """The sort of numbers in a column."""
    return next(sort for sort in SORTS if re.fullmatch(sort.columns, column))


def versions() -> dict[str, int]:
    """Those of all parts, and of the jobs of studies."""
    return VERSIONS | {name: job.version for name, job in jobs_of_studies().items()}


def platform() -> dict[str, str]:
    """What decides which instructions compute a run: the kernels torch chooses, and the processor
    by which its libraries choose theirs."""
    info = Path("/proc/cpuinfo")
    found = re.findall(
        r"^(vendor_id|cpu family|model)\s*: (.*)$",
        info.read_text(encoding="utf-8") if info.is_file() else "",
        re.MULTILINE,
    )
    return {
        "torch": torch.__version__,
        "capability": torch.backends.cpu.get_cpu_capability(),
        "processor": " ".join(v for _, v in found[:3]) or machine.processor() or machine.machine(),
    }


def settings(folder: Path) -> config.Config:
    """The golden study, its data in `folder`."""
    values = config.read_yaml(HERE / "study.yaml")
    for name, track in values["tracks"].items():
        key = "train" if name == "language" else "path"
        track["data"] = {**track["data"], key: str(folder / f"source-{key}")}
    return config.parse(values)


def make(folder: Path) -> dict[str, pd.DataFrame]:
    """Prepare, sweep, train, evaluate, interpolate, truncate: the tables of the whole study."""
    torch.set_num_threads(1)
    choose_device("cpu")
    invent_text(folder / "source-train.jsonl").rename(folder / "source-train")
    invent_images(folder / "source-path")
    study = settings(folder)
    grid, cache = expand(study), folder / "runs"
    cells, evaluations, rates, data = [], [], [], []
    others: dict[str, list[Path]] = {"interpolation": [], "barriers": [], "posthoc": []}

    def written(name: str, track: str, table: pd.DataFrame) -> None:
        others.setdefault(name, []).append(folder / name / f"{track}.parquet")
        write_table(others[name][-1], table)

    for name, track in study.tracks.items():
        where: Any = (folder / "data" / name, cache)
        prepare: Callable[..., object] = prepare_text if name == "language" else prepare_images
        prepare(track.data, where[0])
        data += [{"track": name, **row} for row in _prepared(where[0])]
        for group in (g for g in grid.sweeps.values() if g.track == name):
            rates.append(folder / f"rates/{group.name}.json")
            found = jobs.read_rates(folder / "rates", [group])
            jobs.sweep(group, found, *where, rates[-1], "cpu", _forks(grid, group.name))
        of_track = grid.of_track(name)
        best = jobs.read_rates(folder / "rates", of_track)
        for cell in of_track:
            cells.append(folder / "cells" / cell.name)
            jobs.train(cell, best, *where, cells[-1], "cpu", _forks(grid, cell.name))
        evaluations.append(folder / f"test/{name}.parquet")
        jobs.evaluate(of_track, best, *where, evaluations[-1], "cpu")
        dense = grid.cells[f"{name}/dense"]
        studies = track.studies
        if studies.interpolation:
            _, *ends = [
                grid.cells[f"{name}/{arm_name(arm, track)}"]
                for study, arm in track.arms()
                if study == "interpolation"
            ]
            line = interpolate(studies.interpolation, dense, ends, best, *where, "cpu")
            for table, rows in zip(("interpolation", "barriers"), line, strict=True):
                written(table, name, rows)
        if studies.posthoc:
            rows = posthoc(studies.posthoc, track.factors, dense, best, *where, "cpu")
            written("posthoc", name, rows)
        if name == "language":
            written("baselines", name, ngram_losses(where[0]))
            dropout = _with_dropout(grid.cells["language/spectral-r0.3"].runs(best)[0], *where)
    collect(study, cells, evaluations, rates, others, folder / "tables")
    trained = [name for name in KEYS if name not in (*DERIVED, "data")]
    tables = {name: read_table(folder / f"tables/{name}.parquet") for name in trained}
    for name, rows in dropout.items():
        tables[name] = pd.concat([tables[name], rows], ignore_index=True)
    return {"data": pd.DataFrame(data), **{name: recorded(name, t) for name, t in tables.items()}}


def _prepared(folder: Path) -> Iterator[dict[str, Any]]:
    """A row a split: how much it holds, and the digest of what."""
    if (folder / "tokenizer.json").is_file():
        arrays = {split: [tokens] for split, tokens in load_text(folder).tokens.items()}
    else:
        data = load_images(folder)
        arrays = {split: [data.images[split], data.labels[split]] for split in data.images}
    for split, parts in arrays.items():
        found = hashlib.sha256(b"".join(np.ascontiguousarray(part).tobytes() for part in parts))
        yield {"split": split, "count": len(parts[0]), "sha256": found.hexdigest()[:16]}


def _with_dropout(spec: RunSpec, data: Path, cache: Path) -> dict[str, pd.DataFrame]:
    """A run with dropout that was stopped and resumed: its random state has to come back."""
    spec = spec.model_copy(update={"model": spec.model.model_copy(update={"dropout": 0.2})})
    ensure_run(spec, data, cache, "cpu", until=7)
    torch.manual_seed(12345)
    run = ensure_run(spec, data, cache, "cpu")
    assert run is not None
    names = {"cell": "language/dropout-resumed", "seed": spec.seed}
    return {"history": run.table("history").assign(**names)}


def _forks(grid: Grid, name: str) -> list[int]:
    """The steps at which pre-trained cells fork from a dense cell."""
    return sorted({cell.fork_step for cell in grid.cells.values() if cell.trunk == name})


def recorded(name: str, table: pd.DataFrame) -> pd.DataFrame:
    """The rows and columns of a table that are recorded: results, not descriptions or clocks."""
    if name in RESULTS:
        table = table[[c for c in table if c in KEYS[name] or re.fullmatch(RESULTS[name], c)]]
    if name in ("layers", "spectra"):
        table = table[table["seed"] == 0]
    if name == "spectra":
        table = table[table["index"].isin([1, 2, 4, 8])]
    return table.drop(columns=list(NOT_RECORDED), errors="ignore").reset_index(drop=True)


def derive(tables: dict[str, pd.DataFrame], folder: Path) -> dict[str, pd.DataFrame]:
    """What follows from the recorded tables alone; and the plan, which needs no result."""
    study = settings(folder)
    trained = {name: table for name, table in tables.items() if name not in DERIVED}
    trained |= described(study, trained)
    contrasts = all_contrasts(study, trained)
    verdicts = judge(ledger.read_ledger(LEDGER), trained, scale=study.scale, tracks=TRACKS)
    sized = study.model_copy(update={"tracks": {"language": study.tracks["language"]}})
    derived = {"contrasts": contrasts, "claims": verdicts, "plan": make_plan(sized, 1e9)}
    return {name: recorded(name, table) for name, table in derived.items()}


def differences(
    name: str, before: pd.DataFrame, now: pd.DataFrame, close: Callable[[str, float, float], bool]
) -> Iterator[tuple[str, str]]:
    """(column, sentence) for each field of a table that differs; `close` judges two numbers."""
    old, new = (table.set_index(KEYS[name]).sort_index() for table in (before, now))
    for what, rows in (
        ("is gone", old.index.difference(new.index)),
        ("is new", new.index.difference(old.index)),
    ):
        for row in rows:
            yield "", f"{name}: the row {row} {what}"
    for what, columns in (
        ("is gone", old.columns.difference(new.columns)),
        ("is new", new.columns.difference(old.columns)),
    ):
        for column in columns:
            yield column, f"{name}: the column {column} {what}"
    rows = old.index.intersection(new.index)
    for column in old.columns.intersection(new.columns):
        for row, a, b in zip(rows, old.loc[rows, column], new.loc[rows, column], strict=True):
            if not _same(column, a, b, close):
                yield column, f"{name}: {column} of {row} was {a!r} and is {b!r}"


def _same(column: str, a: Any, b: Any, close: Callable[[str, float, float], bool]) -> bool:
    if pd.isna(a) or pd.isna(b):
        return bool(pd.isna(a) and pd.isna(b))
    if isinstance(a, str) or isinstance(b, str):
        return str(a) == str(b)
    a, b = float(a), float(b)
    return a == b or (math.isfinite(a) and math.isfinite(b) and close(column, a, b))


def read(folder: Path, name: str) -> pd.DataFrame:
    """A recorded table; fields without a value are missing."""
    return pd.read_csv(folder / f"{name}.csv", keep_default_na=False, na_values=[""])


def write(folder: Path, tables: dict[str, pd.DataFrame]) -> None:
    """Write the tables as CSV, a row a line, sorted, nine digits (as many as float32 has)."""
    folder.mkdir(exist_ok=True)
    for name, table in tables.items():
        keys = KEYS[name]
        digits = "%.12g" if name in DERIVED else "%.9g"
        ordered = table.sort_values(keys)[keys + [c for c in table if c not in keys]]
        ordered.to_csv(
            folder / f"{name}.csv", index=False, float_format=digits, lineterminator="\n"
        )
