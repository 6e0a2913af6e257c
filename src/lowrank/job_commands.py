"""The commands of jobs that compute: each takes a configuration, a cell or a track, and named files.

The workflow also gives the job's digest (`lowrank.experiment.experiment`), with which a job is refused that
is no longer the one that was meant.
"""

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
    return DATA(cache(DEVICE_OPTION(command)))


def output(what: str, kind: Any = FILE) -> Any:
    """The option that names what is written."""
    return click.option("--output", type=kind, required=True, help=f"{what} to write.")


def _begin(config: Path, digest: str | None, job: str, name: str) -> Experiment:
    """The experiment, once it is clear that the job is the one meant."""
    from lowrank.experiment.experiment import expect, read_experiment

    experiment = read_experiment(config)
    expect(getattr(experiment, f"of_{job}")(name), digest, config)
    return experiment


def _load(*parts: Iterable[Any]) -> None:
    """Import the extensions that cells, sweeps or studies name."""
    from lowrank.experiment.extensions import load_extensions

    found: dict[str, Extension] = {}
    for part in parts:
        for one in part:
            found |= one.extensions
    load_extensions(found)


@click.command()
@configured
@TRACK
@click.option("--state", help="A word for the present state of your files, which is recorded.")
@output("Folder", FOLDER)
def prepare(config: Path, digest: str | None, track: str, state: str | None, output: Path) -> None:
    """Tokenise text or decode images into a prepared data folder."""
    data = _begin(config, digest, "prepare", track).track(track).data
    if data.kind == "text":
        from lowrank.data.text import prepare_text

        prepare_text(data, output, state=state)
    else:
        from lowrank.data.images import prepare_images

        prepare_images(data, output, state=state)


@click.command()
@configured
@CELL
@output("JSON file")
@PARALLEL
@on_models
def sweep(
    config: Path,
    digest: str | None,
    cell: str,
    output: Path,
    mode: str,
    data: Path,
    cache: Path,
    device: str,
) -> None:
    """Find an arm's best learning rate on validation data."""
    from lowrank.jobs import train as jobs
    from lowrank.train import parallel

    experiment = _begin(config, digest, "sweep", cell)
    group, keep = experiment.sweep(cell), experiment.forks(cell)
    _load([group])
    with parallel.session(device):
        jobs.sweep(group, data, cache, output, device, keep, mode)


@click.command()
@configured
@CELL
@RATES
@output("Folder of the cell's tables", FOLDER)
@PARALLEL
@on_models
def train(
    config: Path,
    digest: str | None,
    cell: str,
    rates: Path,
    output: Path,
    mode: str,
    data: Path,
    cache: Path,
    device: str,
) -> None:
    """Train one cell, all its seeds."""
    from lowrank.jobs import train as jobs
    from lowrank.train import parallel

    experiment = _begin(config, digest, "train", cell)
    one, keep = experiment.cell(cell), experiment.forks(cell)
    _load([one])
    with parallel.session(device):
        jobs.train(one, jobs.read_rates(rates, [one]), data, cache, output, device, keep, mode)


@click.command()
@configured
@TRACK
@RATES
@output("Parquet file")
@on_models
def evaluate(
    config: Path,
    digest: str | None,
    track: str,
    rates: Path,
    output: Path,
    data: Path,
    cache: Path,
    device: str,
) -> None:
    """Read the test set for every run of a track's cells."""
    from lowrank.jobs import train as jobs

    cells = _begin(config, digest, "evaluate", track).evaluated(track)
    _load(cells)
    jobs.evaluate(cells, jobs.read_rates(rates, cells), data, cache, output, device)


@click.command()
@configured
@TRACK
@RATES
@click.option("--points", type=FILE, required=True, help="Parquet file of losses on the lines.")
@click.option("--summary", type=FILE, required=True, help="Parquet file of barriers, distances.")
@on_models
def interpolate(
    config: Path,
    digest: str | None,
    track: str,
    rates: Path,
    points: Path,
    summary: Path,
    data: Path,
    cache: Path,
    device: str,
) -> None:
    """Measure losses between a track's dense solution and its low-rank ones."""
    from lowrank.files import write_table
    from lowrank.jobs import interpolate as interpolation
    from lowrank.jobs import train as jobs

    experiment = _begin(config, digest, "interpolate", track)
    study = experiment.job("interpolation", track)
    cells = experiment.read_by("interpolation", track)
    _load(cells)
    best = jobs.read_rates(rates, cells)
    lines, facts = interpolation.interpolate(study, cells[0], cells[1:], best, data, cache, device)
    write_table(points, lines)
    write_table(summary, facts)


@click.command()
@configured
@TRACK
@RATES
@output("Parquet file")
@on_models
def posthoc(
    config: Path,
    digest: str | None,
    track: str,
    rates: Path,
    output: Path,
    data: Path,
    cache: Path,
    device: str,
) -> None:
    """Truncate a track's trained dense models and evaluate them."""
    from lowrank.files import write_table
    from lowrank.jobs import posthoc as method
    from lowrank.jobs import train as jobs

    experiment = _begin(config, digest, "posthoc", track)
    job, (cell,) = experiment.job("posthoc", track), experiment.read_by("posthoc", track)
    _load([cell, job])
    best = jobs.read_rates(rates, [cell])
    table = method.posthoc(job.study, job.factors, cell, best, data, cache, device)
    write_table(output, table)


@click.command()
@configured
@TRACK
@DATA
@output("Parquet file")
def baselines(config: Path, digest: str | None, track: str, data: Path, output: Path) -> None:
    """Losses of n-gram models of a track's prepared text."""
    from lowrank.files import write_table
    from lowrank.jobs.baselines import ngram_losses

    _begin(config, digest, "baselines", track)
    write_table(output, ngram_losses(data))


@click.command()
@configured
@TRACK
@RATES
@DATA
@DEVICE_OPTION
@click.option(
    "--rounds",
    type=click.IntRange(1, 1000),
    default=5,
    show_default=True,
    help="Turns each model takes.",
)
@output("Parquet file")
def speed(
    config: Path,
    digest: str | None,
    track: str,
    rates: Path,
    data: Path,
    device: str,
    rounds: int,
    output: Path,
) -> None:
    """Time training steps of a track's models, taking turns."""
    from lowrank.files import write_table
    from lowrank.jobs.speed import measure_speed

    cells = _begin(config, digest, "speed", track).timed(track)
    _load(cells)
    write_table(output, measure_speed(cells, rates, data, device, rounds))


JOBS = (prepare, sweep, train, evaluate, interpolate, posthoc, baselines, speed)
