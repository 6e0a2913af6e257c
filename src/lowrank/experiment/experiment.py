"""A configuration with its grid: what is trained, and what each job computes from.

A job is told the configuration, its cell or track, and a *digest* of all that it computes from there,
versions of the code included. The workflow makes a job's results again when its digest is another one, and
a job whose digest is not the one that it was sent with does nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from lowrank.errors import LowrankError, unknown
from lowrank.experiment.cell import Cell, SweepGroup
from lowrank.experiment.config import Config, TrackConfig, read_config
from lowrank.experiment.expand import Grid, Timed, expand, timed_cells
from lowrank.experiment.ground import Ground, Published, read_ground
from lowrank.experiment.study import Job, jobs
from lowrank.experiment.track import arm_name
from lowrank.files import digest
from lowrank.versions import VERSIONS


class Experiment:
    """A configuration and its grid. Names of cells, sweeps and tracks that it does not hold are a
    LowrankError with the nearest one."""

    def __init__(self, config: Config, published: Published | None = None) -> None:
        self.config = config
        self.grid: Grid = expand(config)
        self.ground = Ground(self, published) if published else None
        """What is there already of what is asked for."""

    @cached_property
    def trained(self) -> list[str]:
        """The cells that are trained: all; with published results those in `retrain`, or those of which
        runs are missing there."""
        if self.config.results_from == "train":
            return list(self.grid.cells)
        if self.ground is None:
            return list(self.config.retrain or ())
        return [name for name, cell in self.grid.cells.items() if self.ground.missing(cell)]

    @cached_property
    def again(self) -> dict[str, tuple[int, ...]]:
        """The published cells whose models are read by jobs whose rows are not published, with the seeds that
        these rows lack."""
        if self.ground is None:
            return {}
        seeds: dict[str, set[int]] = {}
        for study, told in self.grid.jobs.items():
            lacking = (track for track in told if self.lacks(study, track))
            for cell in (cell for track in lacking for cell in self.read_by(study, track)):
                if not self.ground.missing(cell):
                    seeds.setdefault(cell.name, set()).update(cell.seeds)
        return {name: tuple(s for s in self.cell(name).seeds if s in seeds[name]) for name in seeds}

    def lacks(self, study: str, track: str) -> bool:
        """Whether the job of a study is to be done here: all jobs, if nothing is published."""
        return self.ground is None or not self.ground.has(study, track)

    @property
    def known(self) -> dict[str, float]:
        """What published sweeps found, by group: these are not made again."""
        return self.ground.rates if self.ground else {}

    def here(self, name: str) -> Cell:
        """A cell with those of its seeds that are trained here: the missing ones, else those whose models are
        read here, else all."""
        cell = self.cell(name)
        missing = self.ground.missing(cell) if self.ground else ()
        return cell.model_copy(update={"seeds": missing or self.again.get(name, cell.seeds)})

    def track(self, name: str) -> TrackConfig:
        """A track by name."""
        if name not in self.config.tracks:
            raise unknown("track", name, self.config.tracks)
        return self.config.tracks[name]

    def cell(self, name: str) -> Cell:
        """A cell by name."""
        return self.grid.cell(name)

    def sweep(self, name: str) -> SweepGroup:
        """A sweep by its name: that of its arm's cell, with what is swept if not the learning rate."""
        if name not in self.grid.sweeps:
            raise unknown("sweep", name, self.grid.sweeps)
        return self.grid.sweeps[name]

    def evaluated(self, track: str) -> list[Cell]:
        """The trained cells of a track, with the seeds that are trained here."""
        self.track(track)
        return [cell for cell in map(self.here, self.trained) if cell.track == track]

    def job(self, study: str, track: str) -> tuple[Job, Any]:
        """The job of a study, and what it is told of a track that has it."""
        self.track(track)
        if study not in (known := jobs()):
            raise unknown("study with a job of its own", study, known)
        if track not in (told := self.grid.jobs.get(study, {})):
            raise LowrankError(f"tracks.{track}.studies has no {study}.")
        return known[study], told[track]

    def read_by(self, study: str, track: str) -> list[Cell]:
        """The cells whose models the job of a study reads here, the dense one first, with their seeds."""
        cells = self.cells_of_study(study, track)
        lacking = self.ground.lacking(study, track) if self.ground and cells else ()
        return [cell.model_copy(update={"seeds": lacking or cell.seeds}) for cell in cells]

    def cells_of_study(self, study: str, track: str) -> list[Cell]:
        """The cells that the job of a study is about, the dense one first."""
        job, section = self.job(study, track)[0], self.track(track)
        if job.arms is None:
            return []
        arms = job.arms(section.studies.asked().get(study), section)
        names = dict.fromkeys(f"{track}/{arm_name(arm, section)}" for arm in arms)
        return [self.cell(name) for name in names]

    def timed(self, study: str, track: str) -> list[Timed]:
        """What the job of a study times, trained or not."""
        if not self.job(study, track)[0].times:
            return []
        return list(timed_cells(track, self.track(track), self.grid.extensions).values())

    def trunk(self, name: str) -> str | None:
        """The dense cell whose checkpoints a pre-trained cell forks from, if the grid has it; where it is
        published, the run that forks trains as much of it as it needs."""
        trunk = self.cell(name).trunk
        return trunk if trunk in (self.trained if self.ground else self.grid.cells) else None

    def forks(self, name: str) -> list[int]:
        """The steps at which pre-trained cells fork from this cell: checkpoints there are kept."""
        return self._forks.get(name, [])

    @cached_property
    def _forks(self) -> dict[str, list[int]]:
        steps: dict[str, set[int]] = {}
        for cell in self.grid.cells.values():
            if cell.trunk is not None:
                steps.setdefault(cell.trunk, set()).add(cell.fork_step)
        return {name: sorted(found) for name, found in steps.items()}

    # What each job computes from.

    def of_prepare(self, track: str) -> str:
        """Digest of what data are prepared from, files of one's own left out."""
        data = self.track(track).data
        return _digest(data.kind, data)

    def of_sweep(self, name: str) -> str:
        """Digest of what a sweep is made from."""
        return _digest("training", self.sweep(name), self.forks(name))

    def of_train(self, name: str) -> str:
        """Digest of what a cell is trained from, rates and data left out."""
        return _digest("training", self.here(name), self.forks(name))

    def of_evaluate(self, track: str) -> str:
        """Digest of what is evaluated."""
        return _digest("evaluation", *self.evaluated(track))

    def of_study(self, study: str, track: str) -> str:
        """Digest of what the job of a study is told, and of the cells that it reads or times."""
        cells = (*self.read_by(study, track), *self.timed(study, track))
        return digest([self._job(study, track), *(cell.model_dump(mode="json") for cell in cells)])

    def of_tables(self) -> str:
        """Digest of the whole configuration, which tables, claims and report read, and of its extensions,
        which may hold studies."""
        return _digest(None, self.config, *self.grid.extensions.values())

    # What rows of tables are made from: columns `digest`.

    def made_from(
        self, study: str, track: str, rates: Mapping[str, float], data: str
    ) -> dict[int | None, str]:
        """By seed the digest of all that the job of a study makes its rows from: what it is told, the runs that
        it reads, and how they are evaluated. Where it reads none, under None that of the track's data, or of the
        shapes that it times."""
        job, cells = self._job(study, track), self.cells_of_study(study, track)
        if not cells:
            timed = self.timed(study, track)
            shapes = [[one.cell.runs({})[0].identity(""), one.kept] for one in timed]
            return {None: digest([*job, shapes or data])}
        of_seed: dict[int, list[str]] = {}
        for spec in (spec for cell in cells for spec in cell.runs(dict(rates))):
            of_seed.setdefault(spec.seed, []).append(spec.identity(data))
        evaluation = cells[0].evaluation.model_dump(mode="json")
        return {seed: digest([*job, evaluation, runs]) for seed, runs in of_seed.items()}

    def _job(self, study: str, track: str) -> list[Any]:
        """A study's job as it enters digests: name, version, what it is told, and the file of one's own."""
        job, told = self.job(study, track)
        own = self.grid.extensions.get(study)
        parts = [told.model_dump(mode="json") if told else None, own.sha256 if own else None]
        return [study, job.version, *(part for part in parts if part is not None)]

    def digests(self) -> dict[str, str]:
        """The digests of all jobs that compute, by job and name, whatever is published."""
        if self.ground:
            return Experiment(self.config).digests()
        tracks = self.config.tracks
        names: dict[str, Iterable[str]] = {
            "prepare": tracks,
            "sweep": self.grid.sweeps,
            "train": self.grid.cells,
            "evaluate": tracks,
        }
        found = {
            f"{job} {name}": getattr(self, f"of_{job}")(name)
            for job, named in names.items()
            for name in named
        }
        for study, told in self.grid.jobs.items():
            found |= {f"{study} {track}": self.of_study(study, track) for track in told}
        return found


def _digest(version: str | None, *values: BaseModel | list[int]) -> str:
    described: list[Any] = [
        value.model_dump(mode="json") if isinstance(value, BaseModel) else value for value in values
    ]
    return digest([version and [version, VERSIONS[version]], *described])


def read_experiment(
    path: Path, published: Path | None = None, data: Path | None = None
) -> Experiment:
    """The experiment of a configuration file, or of the one (JSON) that the workflow wrote; built on what is
    `published`, if that is given, and on the data that are prepared in `data`. A file that has not changed is
    read once."""
    if published is None or data is None:
        return _read(path)
    config = _read(path).config
    return Experiment(config, read_ground(published, data, config.tracks))


def _read(path: Path) -> Experiment:
    if not path.is_file():
        return Experiment(read_config(path))  # which says so
    state = path.stat()
    key = path.absolute(), state.st_ino, state.st_mtime_ns, state.st_size
    if key not in _READ:
        experiment = Experiment(read_config(path))
        if experiment.config.extensions:  # whose files change by themselves
            return experiment
        _READ.clear()
        _READ[key] = experiment
    return _READ[key]


_READ: dict[tuple[Path, int, int, int], Experiment] = {}


def expect(found: str, sent_with: str | None, path: Path) -> None:
    """Refuse to do a job that is no longer the one that the workflow sent.

    `found` is the job's digest, `sent_with` the one that it was sent with (None: nobody cares).
    """
    if sent_with not in (None, found):
        raise LowrankError(
            f"{path}, a file that it names under extensions, or the data that it builds on has changed since the "
            "workflow began: run again."
        )
