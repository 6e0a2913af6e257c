"""The commands of jobs that compute: each takes a configuration, a cell or a track, and named files.

The workflow also gives the job's digest (`lowrank.experiment.experiment`), with which a job is refused that
is no longer the one that was meant.
"""

from __future__ import annotations

from pathlib import Path

import click

from lowrank.command import DEVICE_OPTION, FILE, FOLDER
from lowrank.job_options import (
    CELL,
    DATA,
    PARALLEL,
    PUBLISHED,
    RATES,
    TRACK,
    begin,
    configured,
    data_digest,
    load,
    on_models,
    output,
    write,
)


@click.command()
@configured
@TRACK
@click.option("--state", help="A word for the present state of your files, which is recorded.")
@output("Folder", FOLDER)
def prepare(config: Path, digest: str | None, track: str, state: str | None, output: Path) -> None:
    """Tokenise text or decode images into a prepared data folder."""
    data = begin(config, digest, "prepare", track).track(track).data
    if data.kind == "text":
        from lowrank.data.text import prepare_text

        prepare_text(data, output, state=state)
    else:
        from lowrank.data.images import prepare_images

        prepare_images(data, output, state=state)


@click.command()
@configured
@click.option("--cell", required=True, help="The sweep, as <track>/<arm>[.<what is swept>].")
@RATES
@output("JSON file")
@PARALLEL
@on_models
def sweep(
    config: Path,
    digest: str | None,
    cell: str,
    rates: Path,
    output: Path,
    mode: str,
    data: Path,
    cache: Path,
    device: str,
    published: Path | None,
) -> None:
    """Find an arm's best learning rate, decay strength or rate after the switch on validation data."""
    from lowrank.jobs import train as jobs
    from lowrank.train import parallel, trackers

    experiment = begin(config, digest, "sweep", cell, published, data)
    group, keep = experiment.sweep(cell), experiment.forks(cell)
    load([group])
    followed = trackers.session(experiment.config.trackers, cache.parent)
    with parallel.session(device), followed:
        found = jobs.read_rates(rates, [group], experiment.known)
        jobs.sweep(group, found, data, cache, output, device, keep, mode)


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
    published: Path | None,
) -> None:
    """Train one cell, all its seeds."""
    from lowrank.jobs import train as jobs
    from lowrank.train import parallel, trackers

    experiment = begin(config, digest, "train", cell, published, data)
    one, keep = experiment.here(cell), experiment.forks(cell)
    load([one])
    followed = trackers.session(experiment.config.trackers, cache.parent)
    with parallel.session(device), followed:
        best = jobs.read_rates(rates, [one], experiment.known)
        jobs.train(one, best, data, cache, output, device, keep, mode)


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
    published: Path | None,
) -> None:
    """Read the test set for every run of a track's cells."""
    from lowrank.jobs import train as jobs

    experiment = begin(config, digest, "evaluate", track, published, data)
    cells = experiment.evaluated(track)
    load(cells)
    best = jobs.read_rates(rates, cells, experiment.known)
    jobs.evaluate(cells, best, data, cache, output, device)


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
    published: Path | None,
) -> None:
    """Measure losses between a track's dense solution and its low-rank ones."""
    from lowrank.jobs import interpolate as interpolation
    from lowrank.jobs import train as jobs

    experiment = begin(config, digest, "interpolate", track, published, data)
    study = experiment.job("interpolation", track)
    cells = experiment.read_by("interpolation", track)
    load(cells)
    best = jobs.read_rates(rates, cells, experiment.known)
    lines, facts = interpolation.interpolate(study, cells[0], cells[1:], best, data, cache, device)
    digests = experiment.made_from("interpolation", track, best, data_digest(data))
    write(points, lines, digests)
    write(summary, facts, digests)


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
    published: Path | None,
) -> None:
    """Truncate a track's trained dense models and evaluate them."""
    from lowrank.jobs import posthoc as method
    from lowrank.jobs import train as jobs

    experiment = begin(config, digest, "posthoc", track, published, data)
    job, (cell,) = experiment.job("posthoc", track), experiment.read_by("posthoc", track)
    load([cell, job])
    best = jobs.read_rates(rates, [cell], experiment.known)
    table = method.posthoc(job.study, job.factors, cell, best, data, cache, device)
    write(output, table, experiment.made_from("posthoc", track, best, data_digest(data)))


@click.command()
@configured
@TRACK
@DATA
@output("Parquet file")
def baselines(config: Path, digest: str | None, track: str, data: Path, output: Path) -> None:
    """Losses of n-gram models of a track's prepared text."""
    from lowrank.files import write_table
    from lowrank.jobs.baselines import ngram_losses

    experiment = begin(config, digest, "baselines", track)
    made_from = experiment.measured_from("baselines", track, data_digest(data))
    write_table(output, ngram_losses(data).assign(digest=made_from))


@click.command()
@configured
@TRACK
@DATA
@DEVICE_OPTION
@PUBLISHED
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
    data: Path,
    device: str,
    rounds: int,
    published: Path | None,
    output: Path,
) -> None:
    """Time training steps of a track's models, taking turns."""
    from lowrank.files import write_table
    from lowrank.jobs.speed import measure_speed

    experiment = begin(config, digest, "speed", track, published, data)
    timed = experiment.timed(track)
    load(timed)
    table = measure_speed(timed, data, device, rounds)
    write_table(output, table.assign(digest=experiment.measured_from("speed", track, "")))


JOBS = (prepare, sweep, train, evaluate, interpolate, posthoc, baselines, speed)
