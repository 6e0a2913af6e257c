"""The replication report: what it says of the results, as JSON, and its compilation by Typst.

Every number in the report is read from here when it is compiled. Nothing is computed but means,
differences to dense and counts; verdicts are those of the table `claims`.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import pandas as pd

from lowrank.analysis.claims import VERDICTS
from lowrank.analysis.evidence import (
    apart,
    deciding_tests,
    evidence,
    not_run,
    p_text,
    quoted,
    word,
)
from lowrank.analysis.ledger import Ledger
from lowrank.analysis.measures import NONE, measure, significant
from lowrank.analysis.next_runs import next_runs
from lowrank.analysis.processors import differences, in_words
from lowrank.analysis.publish import commit
from lowrank.analysis.settled import resolution
from lowrank.data.images_spec import ImageSpec
from lowrank.data.spec import TextSpec
from lowrank.errors import LowrankError
from lowrank.escape import visible
from lowrank.experiment.config import Config, TrackConfig
from lowrank.experiment.study import studies
from lowrank.files import MANIFEST, atomic, check_manifest, restore, write_json
from lowrank.optimizers import OPTIMIZERS
from lowrank.parquet import read_table
from lowrank.reports.numbers import beside
from lowrank.reports.scales import published_scales, side_by_side

MEMBER = ("arm", "reference", "estimate", "p_corrected", "verdict")


def export(
    config: Config,
    ledger: Ledger,
    tables: Path,
    figures: Path,
    output: Path,
    published: Path | None = None,
) -> None:
    """Write `facts.json` into `output`; the figures' tables are read where they lie.

    `tables` is a scale's folder of tables (`runs` and `claims` are needed), `figures` its folder of
    figures, `published` where its published tables are, if results are based on them.
    """
    runs = read_table(tables / "runs.parquet")
    claims = read_table(tables / "claims.parquet")
    drawn = [path.relative_to(figures) for path in sorted(figures.rglob("*.json"))]
    facts = {
        "scale": config.scale,
        "config": config.model_dump(mode="json"),
        "parameters": hyper_parameters(config),
        "runs": _summary(runs),
        "tracks": {
            name: {
                "task": track.task.name,
                "data": data_words(track.data),
                "family": track.family.label,
                "optimizer": OPTIMIZERS[track.training.optimizer].label,
                **_track(runs, name),
            }
            for name, track in config.tracks.items()
        },
        "studies": [
            {"name": name, "title": study.title, "figures": [f.name for f in study.figures]}
            for name, study in studies().items()
        ],
        "claims": _claims(ledger, claims),
        "scales": _rows(side_by_side(published_scales(published.parent, ledger, config.ledger)))
        if published
        else [],
        "next": next_runs(claims).to_dict("records"),
        "chosen_after_looking": ledger.chosen_after_looking,
        "not_run": not_run(claims),
        "verdicts": {
            v: claims.loc[(claims["level"] == "claim") & (claims["verdict"] == v), "claim"].tolist()
            for v in VERDICTS
        },
        "margins": {name: margin_words(ledger, name) for name in ledger.margins},
        "swept": [name for name, track in config.tracks.items() if _is_swept(track)],
        "paper": beside(ledger, runs),
        "figures": [p.with_suffix("").as_posix() for p in drawn if p.parts[0] in config.tracks],
        "commit": _commit(published),
        "published": _is_published(published),
        "processors": _processors(published),
    }
    write_json(output / "facts.json", _plain(facts))


def compile_paper(source: Path, data: Path, figures: Path, output: Path) -> None:
    """Compile `source` into `output`: a PDF, or page by page where its name has {p} and ends .png.

    `data` is what `export` wrote. Typst's root, in which all paths must lie, is the current folder, or
    the one that holds it and the source.
    Only the fonts within Typst are used, so every machine sets the same pages.
    """
    import typst

    root = Path(os.path.commonpath([Path.cwd().resolve(), source.resolve().parent]))
    inputs = {"data": _within(root, data), "figures": _within(root, figures)}
    options: dict[str, Any] = {"root": str(root), "sys_inputs": inputs, "ignore_system_fonts": True}
    try:
        if output.suffix == ".png":
            typst.compile(str(source), output=str(output), format="png", ppi=110, **options)
            return
        with atomic(output) as temporary:
            typst.compile(str(source), output=str(temporary), format="pdf", **options)
    except (RuntimeError, typst.TypstError) as error:
        raise LowrankError(f"{source} does not compile: {error}") from None


def hyper_parameters(config: Config) -> list[dict[str, Any]]:
    """Every setting of the tracks: one row a key, one text a track (`–` where it has none)."""
    flat = {
        name: _flatten(track.model_dump(mode="json") | {"seeds": list(config.seeds_of(name))})
        for name, track in config.tracks.items()
    }
    keys = dict.fromkeys(key for values in flat.values() for key in values)
    rows = []
    for key in keys:
        texts: dict[str, Any] = {track: values.get(key, "–") for track, values in flat.items()}
        if set(texts.values()) != {"–"}:
            rows.append({"key": key, **texts})
    return rows


def _flatten(values: dict[str, Any], prefix: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for key, value in values.items():
        if isinstance(value, dict):
            found |= _flatten(value, f"{prefix}{key}.")
        elif value is not None:
            found[prefix + key] = _text(value)
    return found


def _text(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(_text(item) for item in value) or "none"
    if isinstance(value, dict):
        kept = [
            _text(v) if v is not True else k for k, v in value.items() if v not in (None, False)
        ]
        return " ".join(kept)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def margin_words(ledger: Ledger, name: str) -> str:
    """A margin with the unit of the metric that it is asked of: `0.025 nats/token`, `0.5 points`, `2 ×`."""
    margin = ledger.margins[name]
    asked = [test.metric for claim in ledger.claims for test in claim.tests if test.margin == name]
    shown = measure(next(iter(asked), ""), margin.unit)
    return f"{significant(shown.factor * margin.value)} {shown.unit}".strip()


def _is_swept(track: TrackConfig) -> bool:
    """Whether more than one learning rate is tried."""
    return track.training.learning_rate is None and len(track.sweep.rates) > 1


def data_words(data: TextSpec | ImageSpec) -> str:
    """The data of a track in words: what they are and where they come from."""
    if isinstance(data, TextSpec):
        embedded, name, files = "the documentation of installed packages", data.name, data.train
        tokens = f"{data.vocabulary} tokens" if data.tokenizer is None else data.tokenizer
        after = f" ({tokens})"
    else:
        embedded, name, files, after = "scikit-learn's digits", data.path, data.path, ""
    words = {"embedded": embedded, "hub": f"{name}", "local": f"local files {_text(files)}"}
    return words[data.source] + after


def _summary(runs: pd.DataFrame) -> dict[str, Any]:
    def values(column: str) -> list[str]:
        return sorted(map(str, runs[column].dropna().unique())) if column in runs else []

    return {
        "count": len(runs),
        "cells": int(runs["cell"].nunique()),
        "seeds": int(runs["seed"].nunique()),
        "diverged": int(runs["diverged"].fillna(False).astype(bool).sum()),
        "seconds": float(runs["train_seconds"].sum()),
        "flops": float(runs["training_flops"].sum()),
        "finished": max((text[:10] for text in values("finished_at")), default=""),
        **{
            key: values(key)
            for key in ("device", "torch", "transformers", "lowrank", "training_version", "threads")
        },
    }


def _track(runs: pd.DataFrame, track: str) -> dict[str, Any]:
    rows = runs[runs["track"] == track]
    dense = rows[rows["arm"] == "dense"]
    return {
        "runs": len(rows),
        "seconds": float(rows["train_seconds"].sum()),
        "parameters": int(rows["dense_parameters"].iloc[0]) if len(rows) else None,
        "training_flops": float(dense["training_flops"].mean()) if len(dense) else None,
        "run_seconds": float(dense["train_seconds"].mean()) if len(dense) else None,
        "digests": sorted(map(str, rows["data_digest"].dropna().unique()))
        if "data_digest" in rows
        else [],
    }


def _rows(table: pd.DataFrame) -> list[list[str]]:
    """A table of texts, its head first."""
    return [list(table.columns), *table.to_numpy().tolist()]


def _claims(ledger: Ledger, table: pd.DataFrame) -> dict[str, Any]:
    found = {}
    for claim in ledger.claims:
        rows = table[table["claim"] == claim.id]
        tests: list[dict[str, Any]] = []
        members: list[dict[str, Any]] = []
        for _, row in rows.iterrows():
            if row["level"] == "member":
                members.append({key: row[key] for key in MEMBER})
            elif row["level"] == "test":
                keys = ("track", "metric", "verdict", "control")
                tests.append({**{key: row[key] for key in keys}, "members": members})
                members = []
        if not (rows["level"] == "claim").any():
            continue  # the table was judged by another ledger
        for track, own in deciding_tests(rows).groupby("track", sort=False):
            said = [test for test in tests if test["track"] == track and not test["control"]]
            for test, words in zip(said, apart(list(own.itertuples(index=False))), strict=True):
                test["told"] = words
        overall = rows[rows["level"] == "claim"].iloc[0]
        found[claim.id] = {
            "statement": claim.sentence,
            "verified": claim.verified,
            "one_is_enough": any(test.aggregate == "any" for test in claim.tests),
            "verdict": overall["verdict"],
            "word": word(overall),
            "tests": tests,
            "evidence": evidence(rows),
            "resolution": resolution(rows),
            "p": ", ".join(p_text(row) for row in quoted(rows)) or NONE,
        }
    return found


def _commit(published: Path | None) -> str:
    """The commit that published the tables; that of the working tree where none did."""
    if published is not None and _is_published(published):
        return str(check_manifest(published, restore(published))["commit"])
    return commit()


def _is_published(published: Path | None) -> bool:
    return published is not None and (published / MANIFEST).is_file()


def _processors(published: Path | None) -> str:
    """How runs that were published from several processors differ, in words."""
    if published is None or not (published / "processors.parquet").is_file():
        return ""
    tables = {name: read_table(published / f"{name}.parquet") for name in ("runs", "processors")}
    return in_words(differences(tables))


def _within(root: Path, path: Path) -> str:
    absolute = path.resolve()
    if not absolute.is_relative_to(root.resolve()):
        raise LowrankError(f"{path} lies outside {root}: Typst reads files within it only.")
    return "/" + absolute.relative_to(root.resolve()).as_posix()


def _plain(value: Any) -> Any:
    """As JSON for Typst: NaN and infinity, which JSON has not, are null; texts, which may be a
    stranger's, are one line of what can be seen."""
    if isinstance(value, str):
        return visible(value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if value is pd.NA or (isinstance(value, float) and not math.isfinite(value)):
        return None
    return value.item() if hasattr(value, "item") else value
