"""The commands of jobs that compute: each takes a configuration, a cell or a track, and named files.

The workflow also gives the job's digest (`lowrank.experiment.experiment`), with which a job is refused that
is no longer the one that was meant.
"""

from __future__ import annotations

from pathlib import Path

import click

from lowrank.command import FOLDER
from lowrank.errors import LowrankError
from lowrank.job_options import (
    CELL,
    PARALLEL,
    RATES,
    TRACK,
    begin,
    configured,
    load,
    on_models,
    output,
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

    experiment = begin(config, digest, "sweep", cell, published=published, data=data)
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

    experiment = begin(config, digest, "train", cell, published=published, data=data)
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

    experiment = begin(config, digest, "evaluate", track, published=published, data=data)
    cells = experiment.evaluated(track)
    load(cells)
    best = jobs.read_rates(rates, cells, experiment.known)
    jobs.evaluate(cells, best, data, cache, output, device)


@click.command()
@configured
@click.argument("study")
@TRACK
@RATES
@output("Folder of <table>/<track>.parquet, results/<scale>,", FOLDER)
@on_models
def measure(
    study: str,
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
    """Do the job of a STUDY, such as posthoc or baselines, on a track."""
    from lowrank.experiment.study import Given
    from lowrank.files import MANIFEST, read_json
    from lowrank.parquet import write_table

    experiment = begin(config, digest, "study", study, track, published=published, data=data)
    (job, told), cells = experiment.job(study, track), experiment.read_by(study, track)
    timed = experiment.timed(study, track)
    load([*cells, *timed, told])
    best: dict[str, float] = {}
    if cells:
        from lowrank.jobs.train import read_rates

        best = read_rates(rates, cells, experiment.known)
    quick = experiment.config.quick
    seeds = experiment.cell(cells[0].name).seeds if cells else ()
    place = (data, cache, device)
    tables = job.run(Given(told, cells, best, *place, timed, quick, seeds, job.version))
    if set(tables) != set(job.tables):
        names = [", ".join(sorted(found)) or "none" for found in (tables, job.tables)]
        raise LowrankError(f"The job of {study} returned the tables {names[0]}, not {names[1]}.")
    made_from = experiment.made_from(study, track, best, read_json(data / MANIFEST)["digest"])
    for name, table in tables.items():
        if cells and len(table) and "seed" not in table:
            raise LowrankError(f"The table {name} of the job of {study} has no column seed.")
        digests = [made_from.get(seed) for seed in table.get("seed", ())]
        made = table.assign(digest=digests if cells else made_from[None])
        write_table(output / name / f"{track}.parquet", made)


JOBS = (prepare, sweep, train, evaluate, measure)
