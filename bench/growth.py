"""How costs grow with tokens, cells, runs and the corpus."""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from pipeline import CPU, ROOT, Row, row, snakemake, spent, training

from lowrank.analysis.tables import collect
from lowrank.data import embedded
from lowrank.data.text import load_text
from lowrank.data.text_splits import Documents
from lowrank.data.text_tokens import tokenizer_threads, write_tokens
from lowrank.experiment import config
from lowrank.experiment.expand import expand
from lowrank.files import read_json, write_manifest
from lowrank.parquet import read_table, write_table
from lowrank.train.task import LanguageTask

RATIO, RATE = "times", "MB/s"
GIGABYTE = 1_000_000_000


def growth(seconds: float) -> list[Row]:
    """Each once, the steps in turns."""
    from parts import data

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found = [*_steps(seconds), *_planning(folder), *_corpus(data("language"), folder)]
        return [*found, _tokenising(data("language"), folder), *_gathering(folder)]


def _steps(seconds: float) -> list[Row]:
    from parts import step, trainer
    from timing import race, rows

    spec = trainer("language", rank_fraction=0.62)
    calls = {"one": step(spec)}
    more = trainer("language", rank_fraction=0.62)
    assert isinstance(more.task, LanguageTask)
    more.task.spec = spec.spec.model_copy(
        update={"training": spec.training.model_copy(update={"batch": 4 * spec.training.batch})}
    )
    calls["four"] = step(more)
    one, four = rows(race(calls, seconds), part="growth")
    ratio = four["milliseconds"] / (4 * one["milliseconds"])
    return [row("growth", "a step of four times the tokens, over four times a step", ratio, RATIO)]


def many(tracks: int) -> dict[str, Any]:
    """A configuration of so many large tracks, 500 cells and more each."""
    values = yaml.safe_load((ROOT / "config/laptop.yaml").read_text(encoding="utf-8"))
    track = values["tracks"]["language"]
    study = track["studies"]["initialisation"]
    study["ranks"] = study["control_ranks"] = [round(0.01 * n, 2) for n in range(1, 100)]
    values["tracks"] = {f"language-{number}": track for number in range(tracks)}
    return {**values, "scale": "many"}


def _planning(folder: Path) -> list[Row]:
    found, path = [], folder / "many.yaml"
    for tracks in (1, 4, 20):
        path.write_text(yaml.safe_dump(many(tracks)), encoding="utf-8")
        started = time.process_time()
        count = len(expand(config.read_config(path)).cells)
        taken = time.process_time() - started
        found.append(row("growth", f"reading a configuration of {count:,} cells", taken, CPU))
        if tracks <= 4:
            more = ["--directory", str(folder), "--configfile", str(path), "-n", "-q"]
            taken, _ = spent(snakemake("tables", "many", *more, cores=1))
            found.append(row("growth", f"dry run of {count:,} cells", taken, CPU))
    return found


def _corpus(small: Path, folder: Path) -> list[Row]:
    """Memory of a training process, of a small corpus and of one gigabyte of text."""
    from parts import trainer

    large = folder / "large"
    manifest = read_json(small / "manifest.json")
    counts = manifest["counts"]["train"]
    times = -(-GIGABYTE // counts["bytes"])
    large.mkdir()
    names = list(manifest.pop("files"))
    for name in names:
        content = (small / name).read_bytes()
        with open(large / name, "wb") as file:
            for _ in range(times if name == "tokens-train.bin" else 1):
                file.write(content)
    manifest["counts"]["train"] = {name: times * count for name, count in counts.items()}
    manifest.pop("seal", None)
    write_manifest(large, names, **manifest)
    spec = trainer("language", rank_fraction=0.62).spec
    found, peaks = [], []
    for data in (small, large):
        words = load_text(data).counts("train")["bytes"] / 1e6
        peaks.append(_peak(training(spec, data, 50)) / 1e6)
        name = f"memory of a training process on {words:,.0f} MB of text"
        found.append(row("growth", name, peaks[-1], "MB"))
    ratio = peaks[1] / peaks[0]
    return [*found, row("growth", "the second over the first", ratio, RATIO)]


def _peak(command: list[str]) -> int:
    """The largest resident size of a training process, in bytes."""
    said = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return int(said.split()[-2]) * 1024


def _tokenising(prepared: Path, folder: Path) -> Row:
    """The best of three, over as many threads as there are cores, at most two."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(prepared / "tokenizer.json"))
    corpus = embedded.documents(max_characters=5_000_000, workers=1)
    count = np.arange(len(corpus))
    lengths = np.array([len(text) for text in corpus["text"]])
    documents = Documents(corpus, "text", count, count.astype(np.uint64), lengths)

    def tokenise() -> int:
        return write_tokens(folder / "tokens.bin", documents, tokenizer, "train")["bytes"]

    with tokenizer_threads(2):
        rates = [size / 1e6 / taken for size, taken in (_timed(tokenise) for _ in range(3))]
    return row("growth", "tokenising, on two cores", max(rates), RATE)


def _timed(call: Callable[[], int]) -> tuple[int, float]:
    started = time.perf_counter()
    return call(), time.perf_counter() - started


def _gathering(folder: Path, runs: int = 10_000) -> list[Row]:
    """The published runs of the laptop scale as tracks of other names, until there are so many."""
    names = ("runs", "history", "layers", "spectra")
    tables = {name: read_table(ROOT / f"published/laptop/{name}.parquet") for name in names}
    copies = -(-runs // len(tables["runs"]))
    values = yaml.safe_load((ROOT / "config/laptop.yaml").read_text(encoding="utf-8"))
    tracks = {f"{name}-{k}": s for name, s in values["tracks"].items() for k in range(copies)}
    settings = config.parse({**values, "scale": "many", "tracks": tracks})
    cells = []
    for name, table in tables.items():
        for cell, rows in table.groupby("cell"):
            track, arm = cell.split("/")
            for k in range(copies):
                own = {"cell": f"{track}-{k}/{arm}", "track": f"{track}-{k}"}
                here = folder / "cells" / own["cell"]
                columns = {key: value for key, value in own.items() if key in rows}
                write_table(here / f"{name}.parquet", rows.assign(**columns))
                cells += [here] if name == "runs" else []
    started = time.process_time()
    collect(settings, cells, [], [], {}, folder / "tables")
    taken = time.process_time() - started
    count = copies * len(tables["runs"])
    return [row("growth", f"gathering the tables of {count:,} runs", taken, CPU)]
