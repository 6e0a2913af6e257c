"""What is measured on a track's models, and the tables of those cells that are finished, while others are not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from lowrank.analysis.claims import judge_scale
from lowrank.analysis.ledger import Ledger
from lowrank.analysis.tables import collect
from lowrank.errors import LowrankError
from lowrank.experiment.ground import OF_STUDIES, prepared
from lowrank.files import read_table, write_table
from lowrank.jobs import train as jobs
from lowrank.workflow.scale import Scale

COMMANDS = {
    "interpolation": ("interpolate", {"points": "interpolation", "summary": "barriers"}),
    "posthoc": ("posthoc", {"output": "posthoc"}),
    "baselines": ("baselines", {"output": "baselines"}),
}
"""What is measured: the command that does it, and its options that name tables."""


def measure(scale: Scale, finished: set[str]) -> None:
    """Make what is measured on finished cells, where it is not there or made from something else."""
    for what in COMMANDS:
        for track in _tracks(scale, what):
            cells = _needed(scale, what, track)
            if cells <= finished and not _current(scale, what, track):
                _run(scale, what, track)


def gather(scale: Scale, ledger: Ledger, finished: list[str]) -> Path:
    """Write the tables of finished cells, and the claims judged on them; returns their folder.

    The tables of the whole scale, results/<scale>/tables, are the workflow's.
    """
    experiment, folder = scale.experiment, Path(scale.results) / "slice"
    cells = [experiment.here(name) for name in finished]
    best = jobs.read_rates(Path(scale.results) / "rates", cells, experiment.known)
    evaluations = []
    for track in dict.fromkeys(cell.track for cell in cells):
        evaluations.append(folder / f"evaluations/{track}.parquet")
        own = [cell for cell in cells if cell.track == track]
        cache = Path(scale.results) / "runs"
        data, device = Path(scale.data(track)), scale.config.device
        jobs.evaluate(own, best, data, cache, evaluations[-1], device)
    others = {
        table: [
            Path(_table(scale, table, track))
            for track in _tracks(scale, what)
            if _current(scale, what, track)
        ]
        for what, (_, tables) in COMMANDS.items()
        for table in tables.values()
    }
    others = {table: paths for table, paths in others.items() if paths}
    folders = [Path(scale.cell_tables(name)[0]).parent for name in finished]
    rates = [Path(path) for path in scale.rates(*finished)]
    collect(scale.config, folders, evaluations, rates, others, folder / "tables")
    tables = {p.stem: read_table(p) for p in (folder / "tables").glob("*.parquet")}
    tables.pop("claims", None)
    write_table(folder / "tables/claims.parquet", judge_scale(ledger, scale.config, tables))
    return folder / "tables"


def _tracks(scale: Scale, what: str) -> list[str]:
    if what == "baselines":
        return [name for name, track in scale.config.tracks.items() if track.task.language]
    return list(scale.experiment.grid.jobs.get(what, {}))


def _needed(scale: Scale, what: str, track: str) -> set[str]:
    """The cells that have to be finished first; n-grams wait for the data that the first cell brings."""
    if what == "baselines":
        return {next(name for name in scale.experiment.trained if name.startswith(f"{track}/"))}
    return {cell.name for cell in scale.experiment.read_by(what, track)}


def _table(scale: Scale, table: str, track: str) -> str:
    return f"{scale.results}/{table}/{track}.parquet"


def _current(scale: Scale, what: str, track: str) -> bool:
    """Whether the tables are there, made from the runs or data that are here now."""
    experiment = scale.experiment
    data = prepared(Path(scale.results) / "data", [track]).get(track)
    paths = [Path(_table(scale, table, track)) for table in COMMANDS[what][1].values()]
    if data is None or not all(path.is_file() for path in paths):
        return False
    if what in OF_STUDIES.values():
        cells = experiment.read_by(what, track)
        try:
            best = jobs.read_rates(Path(scale.results) / "rates", cells, experiment.known)
        except LowrankError:
            return False
        made_from = experiment.made_from(what, track, best, data)
        expected = {made_from[seed] for seed in cells[0].seeds}
    else:
        expected = {experiment.measured_from(what, track, data)}
    found = [read_table(path) for path in paths]
    return all(set(table.get("digest", ())) == expected for table in found)


def _run(scale: Scale, what: str, track: str) -> None:
    command, tables = COMMANDS[what]
    options = {"config": scale.config_file, "track": track, "data": scale.data(track)}
    if what != "baselines":
        options |= {"rates": f"{scale.results}/rates", "cache": f"{scale.results}/runs"}
        options |= {"device": scale.config.device}
    options |= {option: _table(scale, table, track) for option, table in tables.items()}
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    if what != "baselines" and scale.ground:
        words += scale.ground.split()
    done = subprocess.run([sys.executable, "-m", "lowrank", command, *words], check=False)
    if done.returncode:
        raise LowrankError(f"lowrank {command} of {track} failed; its words stand above.")
