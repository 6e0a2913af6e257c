"""What the commands of jobs share: their options, and how each begins and ends."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lowrank.command import DEVICE_OPTION, FILE, FOLDER

if TYPE_CHECKING:
    from lowrank.experiment.cell import Extension
    from lowrank.experiment.experiment import Experiment

CELL = click.option("--cell", required=True, help="The cell, as <track>/<arm>.")
TRACK = click.option("--track", required=True, help="The track.")
RATES = click.option("--rates", type=FOLDER, required=True, help="Folder of sweep results.")
DATA = click.option("--data", type=FOLDER, required=True, help="Prepared data folder.")
PARALLEL = click.option(
    "--parallel",
    "mode",
    type=click.Choice(["ddp", "fsdp"]),
    default="ddp",
    show_default=True,
    help="Under torchrun: what each device holds, the whole model or a slice.",
)


PUBLISHED = click.option(
    "--published",
    type=FOLDER,
    help="Published tables to build on: what is there is not made again.",
)


def configured(command: Any) -> Any:
    """The options that every job has: `config`, and `digest` to be sure that it is the one meant."""
    config = click.option(
        "--config",
        type=FILE,
        required=True,
        help="A configuration, config/<scale>.yaml or the one that a run left in results/<scale>.",
    )
    digest = click.option("--digest", help="Do nothing if the job has another digest.")
    return config(digest(command))


def on_models(command: Any) -> Any:
    """The options of a job that reads or trains models."""
    cache = click.option("--cache", type=FOLDER, required=True, help="Folder of all runs.")
    return DATA(cache(DEVICE_OPTION(PUBLISHED(command))))


def output(what: str, kind: Any = FILE) -> Any:
    """The option that names what is written."""
    return click.option("--output", type=kind, required=True, help=f"{what} to write.")


def begin(
    config: Path,
    digest: str | None,
    job: str,
    *names: str,
    published: Path | None = None,
    data: Path | None = None,
) -> Experiment:
    """The experiment, once it is clear that the job is the one meant; `data` is a track's folder."""
    from lowrank.experiment.experiment import expect, read_experiment

    experiment = read_experiment(config, published, data.parent if data else None)
    expect(getattr(experiment, f"of_{job}")(*names), digest, config)
    return experiment


def load(parts: Iterable[Any]) -> None:
    """Import the extensions that cells, sweeps or studies name."""
    from lowrank.experiment.extensions import load_extensions

    found: dict[str, Extension] = {}
    for part in parts:
        found |= getattr(part, "extensions", {})
    load_extensions(found)
