"""Text that is written from other files: `config/README.md`, the JSON schema, the README's verdicts.

A test holds all three in step with what they are written from.
"""

from __future__ import annotations

import json
import typing
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from lowrank.analysis.ledger import read_ledger
from lowrank.analysis.said import mixed_processors
from lowrank.data.images_spec import ImageSpec
from lowrank.data.spec import TextSpec
from lowrank.experiment import config, sections
from lowrank.experiment.study import studies
from lowrank.files import MANIFEST, write_text
from lowrank.parquet import read_table
from lowrank.reports.advice import ADVICE, advice
from lowrank.reports.numbers import at_edges, beside_counted, percentages
from lowrank.reports.scales import controls_side_by_side, published_scales, side_by_side
from lowrank.studies.methods import MethodEntry

SECTIONS: dict[str, type[BaseModel]] = {
    "Top level": config.Config,
    "tracks.&lt;track>": config.TrackConfig,
    "data (text)": TextSpec,
    "data (images)": ImageSpec,
    "model": sections.ModelSpec,
    "model.pretrained": sections.Pretrained,
    "training": sections.TrainingSpec,
    "factors": sections.FactorSpec,
    "factors.decay": sections.DecaySpec,
    "factors.method": sections.MethodSpec,
    "evaluation": sections.EvaluationSpec,
    "sweep": sections.SweepSpec,
    "studies": config.Studies,
    **{f"studies.{name}": study.section for name, study in studies().items() if study.section},
    "studies.methods.methods": MethodEntry,
    "studies.methods.methods.pretraining": sections.PretrainingSpec,
}

BENCH, PICTURE = "methods", "docs/images/leaderboard.png"
"""The scale of the bench of methods, and where `make showcase` puts its board."""

INTRODUCTION = """# Configuration

A configuration file is a *scale*: `smoke.yaml`, `laptop.yaml` (the default), `digits.yaml`, `desk.yaml`, `gpu.yaml` and
`paper.yaml`. `snakemake --config scale=gpu` picks one; `--configfile mine.yaml` takes any other file;
`--config key=value` overrides a top-level key. An unknown key is an error that suggests the nearest known one.
Files mean what they look like: a key may stand once, `014`, `1:30`, `1_000`, `yes` and dates, which
versions of YAML read differently, need quotes or plain digits, and every size, list and text has an upper
bound (`schema.json`). Snakemake reads a file of `--configfile` with its own reader first; one that is
named by `scale=` is read here alone. `extensions` run code with the rights of whoever starts the workflow.
`claims.yaml` holds the paper's claims, how each is tested, and the margins; `field.yaml` those of other papers, which
`methods.yaml` is about.

This page and `schema.json` are written by `lowrank reference` from the typed configuration in
`src/lowrank/experiment/config.py`, `track.py` and `sections.py` beside it, and the files of `src/lowrank/studies`.
"""


def write_reference(
    folder: Path, check: bool = False, readme: Path | None = None, published: Path | None = None
) -> list[Path]:
    """Write the files; with `check`, only return those that are not up to date.

    The README's parts come from the published tables of all scales in `published`, and from what was measured
    with `lowrank advise` in `bench/advice` beside it.
    """
    schema = json.dumps(config.Config.model_json_schema(), indent=2) + "\n"
    wanted = {folder / "README.md": _page(), folder / "schema.json": schema}
    if readme is not None and published is not None and any(published.glob(f"*/{MANIFEST}")):
        texts = {"verdicts": verdicts(published), "methods": methods(published)}
        texts["advice"] = advice(published.parent / ADVICE)
        wanted[readme] = _with_parts(readme.read_text(encoding="utf-8"), texts)
    stale = [path for path, text in wanted.items() if not _says(path, text)]
    if check:
        return stale
    for path in stale:
        write_text(path, wanted[path])
    return []


def _with_parts(text: str, texts: dict[str, str]) -> str:
    """The text with each part between its marks."""
    for name, part in texts.items():
        first, last = f"<!-- {name}: written by `lowrank reference` -->", f"<!-- end of {name} -->"
        before, _, rest = text.partition(first)
        _, _, after = rest.partition(last)
        text = f"{before}{first}\n\n{part}\n\n{last}{after}"
    return text


def methods(published: Path) -> str:
    """The leaderboard's picture and the verdicts on the claims of other papers, as Markdown."""
    if not (published / f"{BENCH}/{MANIFEST}").is_file():
        return "No results of it are published yet."
    picture = f"![Published methods of training side by side]({PICTURE})"
    parts = [picture, _reading(published / BENCH), *_bars(published / BENCH)]
    return "\n\n".join([*parts, verdicts(published, "field")])


def _reading(folder: Path) -> str:
    """How to read the leaderboard, as its caption."""
    seeds = read_table(folder / "runs.parquet").groupby("cell")["seed"].nunique()
    number = f"{seeds.min()}" if seeds.min() == seeds.max() else f"{seeds.min()} to {seeds.max()}"
    return (
        "*Means with 95 % intervals. Grey and white bands: paired tests do not tell a method from the best of its band; "
        f"{number} seeds, corrected over all pairs of a board, tell few apart, which does not make them equal. Stars are on "
        "the front: no other method is at least as good in quality, state and FLOPs, and better in one.*"
    )


def _bars(folder: Path) -> list[str]:
    """A sentence for each track on which no arm is as good as n-grams: the weakest that none reaches."""
    runs, found = read_table(folder / "runs.parquet"), []
    for track, grams in read_table(folder / "baselines.parquet").groupby("track"):
        own = runs[runs["track"].eq(track)]
        best = own.groupby("arm")["test_loss"].mean().min()
        better = grams[grams["test_loss"].lt(best)].sort_values("test_loss")
        if len(better):
            bar = better.iloc[-1]
            found.append(
                f"No method reaches the {bar['model']} model's {bar['test_loss']:.2f} nats/token on the track "
                f"{track}: the best ends at {best:.2f}, and the longest runs take {own['steps'].max():,} steps. What "
                "is compared there is the beginning of training."
            )
    return found


def verdicts(published: Path, name: str = "claims") -> str:
    """The verdicts on the claims of a ledger at all published scales that have it, their controls, and the
    arms of which the paper's numbers are verified, as Markdown."""
    ledger = read_ledger(Path(f"config/{name}.yaml"))
    scales = published_scales(published, ledger, name)
    parts = [_markdown(side_by_side(scales))]
    controls = controls_side_by_side(scales)
    if len(controls):
        parts.append("Controls, beside the claims and without a say in them:")
        parts.append(_markdown(controls))
    names = [claims["scale"].iloc[0] for claims in scales]
    runs = {name: read_table(published / name / "runs.parquet") for name in names}
    paths = {name: published / name / "baselines.parquet" for name in names}
    counted = {name: read_table(path) for name, path in paths.items() if path.is_file()}
    if edges := at_edges({name: published / name / "rates.parquet" for name in names}):
        parts.append(edges)
    mixed = {name: mixed_processors(table) for name, table in runs.items()}
    parts += [f"At the scale {name}: {text}" for name, text in mixed.items() if text]
    if len(beside := beside_counted(runs, counted)):
        parts.append(
            "Test loss of the language models, and of n-grams counted on their whole training text:"
        )
        parts.append(_markdown(beside))
    numbers = percentages(ledger, runs)
    if len(numbers):
        parts.append(
            "Difference to the dense model of the same track, where the paper's is verified:"
        )
        parts.append(_markdown(numbers))
    return "\n\n".join(parts)


def _markdown(table: pd.DataFrame) -> str:
    rows = [list(table.columns), ["---"] * len(table.columns), *table.to_numpy().tolist()]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _says(path: Path, text: str) -> bool:
    return path.is_file() and path.read_text(encoding="utf-8") == text


def _page() -> str:
    parts = [INTRODUCTION]
    for title, model in SECTIONS.items():
        doc = (model.__doc__ or "").strip().split("\n\n")[0]
        rows = ["| key | type | default | meaning |", "|---|---|---|---|"]
        for name, field in model.model_fields.items():
            cells = (f"`{name}`", _type(field.annotation), _default(field), field.description or "")
            rows.append(
                "| " + " | ".join(" ".join(c.split()).replace("|", "\\|") for c in cells) + " |"
            )
        parts.append(f"## {title}\n\n{doc}\n\n" + "\n".join(rows) + "\n")
    return "\n".join(parts)


def _type(annotation: Any) -> str:
    """An annotation in words a reader of YAML knows."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        schemas = [getattr(note, "json_schema", None) for note in arguments[1:]]
        return "text" if {"type": "string"} in schemas else _type(arguments[0])
    if origin is typing.Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin is tuple:
        if len(arguments) == 2 and arguments[1] is not Ellipsis:
            return "two " + _type(arguments[0]) + "s"
        return "list of " + _type(arguments[0])
    if origin is dict:
        return f"mapping to {_type(arguments[1])}"
    if arguments:
        named = [_type(a) for a in arguments if a is not type(None)]
        return " or ".join(named) + (" or null" if type(None) in arguments else "")
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "section"
    return {int: "integer", float: "number", str: "text", bool: "true or false"}.get(
        annotation, getattr(annotation, "__name__", str(annotation))
    )


def _default(field: Any) -> str:
    if field.default is PydanticUndefined:
        return "required"
    value = field.default
    if isinstance(value, BaseModel):
        return "the section's defaults"
    if isinstance(value, tuple):
        value = list(value)
    return f"`{json.dumps(value)}`"
