"""What is measured on a track's models, and the tables of those cells that are finished, while others are not."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pandas as pd

from lowrank.analysis.claims import judge_scale
from lowrank.analysis.ledger import Ledger
from lowrank.analysis.tables import collect
from lowrank.errors import LowrankError
from lowrank.experiment.cell import RunSpec
from lowrank.experiment.ground import prepared
from lowrank.experiment.rates import read_sweep
from lowrank.experiment.study import Job, jobs, writers
from lowrank.files import MANIFEST
from lowrank.jobs.train import evaluate, read_rates
from lowrank.parquet import read_table, write_table
from lowrank.train.parallel import held
from lowrank.workflow.scale import Scale


def measure(scale: Scale, finished: set[str], say: Callable[[str], None]) -> None:
    """Do the jobs of studies whose cells are finished, where their tables are not there or made from something
    else, and no other process is at it; `say` gets a line for each."""
    for study, track, job in to_do(scale):
        if _ready(scale, study, track, finished):
            with held(Path(scale.results) / f"study/{track}.{study}.lock") as mine:
                if mine and not _current(scale, study, track, job):
                    say(f"{job.doing} of {track}")
                    _run(scale, study, track)


def gather(scale: Scale, ledger: Ledger, finished: list[str]) -> Path:
    """Write the tables of finished cells, and the claims judged on them; returns their folder.

    The tables of the whole scale, results/<scale>/tables, are the workflow's.
    """
    experiment, folder = scale.experiment, Path(scale.results) / "slice"
    cells = [experiment.here(name) for name in finished]
    best = read_rates(Path(scale.results) / "rates", cells, experiment.known)
    evaluations = []
    for track in dict.fromkeys(cell.track for cell in cells):
        evaluations.append(folder / f"evaluations/{track}.parquet")
        own = [cell for cell in cells if cell.track == track]
        cache = Path(scale.results) / "runs"
        data, device = Path(scale.data(track)), scale.config.device
        evaluate(own, best, data, cache, evaluations[-1], device)
    others: dict[str, list[Path]] = {}
    for study, track, job in to_do(scale):
        if _current(scale, study, track, job):
            for table, path in _files(scale, track, job).items():
                others.setdefault(table, []).append(path)
    folders = [Path(scale.cell_tables(name)[0]).parent for name in finished]
    rates = list(_swept(scale, {cell.track for cell in cells}))
    collect(scale.config, folders, evaluations, rates, others, folder / "tables")
    for name in writers().keys() - others.keys():  # of a slice before, published since
        (folder / f"tables/{name}.parquet").unlink(missing_ok=True)
    tables = {p.stem: read_table(p) for p in (folder / "tables").glob("*.parquet")}
    tables.pop("claims", None)
    write_table(folder / "tables/claims.parquet", judge_scale(ledger, scale.config, tables))
    return folder / "tables"


def _swept(scale: Scale, tracks: set[str]) -> Iterator[Path]:
    """The results of these tracks' sweeps that are finished here, of runs as they are now; those of their cells may
    not be."""
    experiment, folder = scale.experiment, Path(scale.results) / "rates"
    data = prepared(Path(scale.results) / "data", tracks)
    for group in experiment.grid.sweeps.values():
        path = folder / f"{group.name}.json"
        paths = [path, *map(Path, scale.rates_before(group.name))]
        here = group.track in data and all(one.is_file() for one in paths)
        if group.name in experiment.known or not here:
            continue
        best = read_rates(folder, [group], experiment.known)
        specs = [spec for value in group.values for spec in group.runs(value, best)]
        wanted = {spec.identity(data[group.track]) for spec in specs}
        if wanted <= {row["digest"] for row in read_sweep(path)["rates"]}:
            yield path


def to_do(scale: Scale) -> Iterator[tuple[str, str, Job]]:
    """The jobs of studies that are to be done, with their tracks, but those that want the machine to themselves."""
    for study, told in scale.experiment.grid.jobs.items():
        job = jobs()[study]
        for track in told if not job.times else ():
            if scale.experiment.lacks(study, track):
                yield study, track, job


def _ready(scale: Scale, study: str, track: str, finished: set[str]) -> bool:
    """Whether the cells that a job reads are finished, with the models of published ones; what reads none waits for
    the data that any cell brings."""
    cells = {cell.name for cell in scale.experiment.read_by(study, track)}
    if not cells:
        return any(name.startswith(f"{track}/") for name in finished)
    return cells <= finished and _models_here(scale, study, track)


def _models_here(scale: Scale, study: str, track: str) -> bool:
    """Whether all runs whose models a job reads are here, those of published seeds too."""
    cells = scale.experiment.read_by(study, track)
    best = read_rates(Path(scale.results) / "rates", cells, scale.experiment.known)
    return not not_here(scale, track, (spec for cell in cells for spec in cell.runs(best)))


def not_here(scale: Scale, track: str, specs: Iterable[RunSpec]) -> dict[str, RunSpec]:
    """Those of a track's runs that are not finished here, by digest."""
    data = prepared(Path(scale.results) / "data", [track])[track]
    found = {spec.identity(data): spec for spec in specs}
    cache = Path(scale.results) / "runs"
    return {name: spec for name, spec in found.items() if not (cache / name / MANIFEST).is_file()}


def _files(scale: Scale, track: str, job: Job) -> dict[str, Path]:
    return {table: Path(scale.results) / f"{table}/{track}.parquet" for table in job.tables}


def _current(scale: Scale, study: str, track: str, job: Job) -> bool:
    """Whether the tables are there, made from the runs or data that are here now."""
    experiment, paths = scale.experiment, _files(scale, track, job).values()
    data = prepared(Path(scale.results) / "data", [track]).get(track)
    if data is None or not all(path.is_file() for path in paths):
        return False
    cells = experiment.read_by(study, track)
    try:
        best = read_rates(Path(scale.results) / "rates", cells, experiment.known)
    except LowrankError:
        return False
    made_from = experiment.made_from(study, track, best, data)
    seeds = set(cells[0].seeds) - _diverged(scale, cells[0].name) if cells else {None}
    expected = {made_from[seed] for seed in seeds}
    return all(set(read_table(path).get("digest", ())) == expected for path in paths)


def _diverged(scale: Scale, name: str) -> set[int]:
    """The seeds of a cell's runs here that diverged: of a dense one, nothing is measured."""
    path = Path(scale.cell_tables(name)[0])
    runs = read_table(path) if path.is_file() else pd.DataFrame()
    return set(runs.loc[runs["diverged"].eq(True), "seed"]) if len(runs) else set()


def _run(scale: Scale, study: str, track: str) -> None:
    options = {"config": scale.config_file, "track": track, "data": scale.data(track)}
    options |= {"rates": f"{scale.results}/rates", "cache": f"{scale.results}/runs"}
    options |= {"device": scale.config.device, "output": scale.results}
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    words += scale.ground.split()
    done = subprocess.run([sys.executable, "-m", "lowrank", "measure", study, *words], check=False)
    if done.returncode:
        raise LowrankError(f"lowrank measure {study} of {track} failed; its words stand above.")
