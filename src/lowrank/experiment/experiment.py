"""A configuration with its grid: what is trained, and what each job computes from.

A job is told the configuration, its cell or track, and a *digest* of all that it computes from there,
versions of the code included. The workflow makes a job's results again when its digest is another one, and
a job whose digest is not the one that it was sent with does nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from lowrank.errors import LowrankError, unknown
from lowrank.experiment.cell import Cell, SweepGroup
from lowrank.experiment.config import Config, TrackConfig, read_config
from lowrank.experiment.expand import Grid, expand
from lowrank.experiment.study import STUDIES
from lowrank.experiment.track import Arm, arm_name
from lowrank.files import digest
from lowrank.versions import VERSIONS


class Experiment:
    """A configuration and its grid. Names of cells, sweeps and tracks that it does not hold are a
    LowrankError with the nearest one."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.grid: Grid = expand(config)

    @cached_property
    def trained(self) -> list[str]:
        """The cells that are trained: all, or with published results only those in `retrain`."""
        return list(self.grid.cells if self.config.results_from == "train" else self.config.retrain)

    def track(self, name: str) -> TrackConfig:
        """A track by name."""
        if name not in self.config.tracks:
            raise unknown("track", name, self.config.tracks)
        return self.config.tracks[name]

    def cell(self, name: str) -> Cell:
        """A cell by name."""
        return self.grid.cell(name)

    def sweep(self, name: str) -> SweepGroup:
        """A learning-rate sweep by the name of its arm's cell."""
        if name not in self.grid.sweeps:
            raise unknown("sweep", name, self.grid.sweeps)
        return self.grid.sweeps[name]

    def evaluated(self, track: str) -> list[Cell]:
        """The trained cells of a track."""
        self.track(track)
        return [cell for cell in map(self.cell, self.trained) if cell.track == track]

    def job(self, study: str, track: str) -> Any:
        """What the job of a study is told of a track that has it."""
        self.track(track)
        jobs = self.grid.jobs.get(study, {})
        if track not in jobs:
            raise LowrankError(f"tracks.{track}.studies has no {study}.")
        return jobs[track]

    def read_by(self, study: str, track: str) -> list[Cell]:
        """The cells whose models the job of a study reads, the dense one first."""
        self.job(study, track)
        section, job = self.track(track), STUDIES[study].job
        assert job is not None
        return self._cells(track, job.arms(section.studies.asked()[study], section))

    def timed(self, track: str) -> list[Cell]:
        """The cells whose steps are timed."""
        if self.config.parallel == "fsdp" and self.config.devices > 1:
            return []  # one device would have to hold whole models, side by side
        return self._cells(track, self.track(track).timed())

    def _cells(self, track: str, arms: Iterable[Arm]) -> list[Cell]:
        section = self.track(track)
        names = dict.fromkeys(f"{track}/{arm_name(arm, section)}" for arm in arms)
        return [self.cell(name) for name in names]

    def trunk(self, name: str) -> str | None:
        """The dense cell whose checkpoints a pre-trained cell forks from, if the grid has it."""
        trunk = self.cell(name).trunk
        return trunk if trunk in self.grid.cells else None

    def forks(self, name: str) -> list[int]:
        """The steps at which pre-trained cells fork from this cell: checkpoints there are kept."""
        return sorted({c.fork_step for c in self.grid.cells.values() if c.trunk == name})

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
        return _digest("training", self.cell(name), self.forks(name))

    def of_evaluate(self, track: str) -> str:
        """Digest of what is evaluated."""
        return _digest("evaluation", *self.evaluated(track))

    def of_study(self, study: str, track: str) -> str:
        """Digest of what the job of a study is told, and of the cells that it reads."""
        return _digest(study, self.job(study, track), *self.read_by(study, track))

    def of_interpolate(self, track: str) -> str:
        """Digest of what the lines are drawn from."""
        return self.of_study("interpolation", track)

    def of_posthoc(self, track: str) -> str:
        """Digest of what is truncated, and how."""
        return self.of_study("posthoc", track)

    def of_baselines(self, track: str) -> str:
        """Digest of what n-gram losses are made from, the data left out."""
        self.track(track)
        return _digest("baselines")

    def of_speed(self, track: str) -> str:
        """Digest of what is timed."""
        return _digest("speed", *self.timed(track))

    def of_tables(self) -> str:
        """Digest of the whole configuration, which tables, claims and report read, and of its extensions,
        which may hold studies."""
        return _digest(None, self.config, *self.grid.extensions.values())

    def digests(self) -> dict[str, str]:
        """The digests of all jobs that compute, by job and name."""
        tracks = self.config.tracks
        names: dict[str, Iterable[str]] = {
            "prepare": tracks,
            "sweep": self.grid.sweeps,
            "train": self.grid.cells,
            "evaluate": tracks,
            "interpolate": self.grid.jobs.get("interpolation", {}),
            "posthoc": self.grid.jobs.get("posthoc", {}),
            "baselines": tracks,
            "speed": tracks,
        }
        return {
            f"{job} {name}": getattr(self, f"of_{job}")(name)
            for job, named in names.items()
            for name in named
        }


def _digest(version: str | None, *values: BaseModel | list[int]) -> str:
    described: list[Any] = [
        value.model_dump(mode="json") if isinstance(value, BaseModel) else value for value in values
    ]
    return digest([version and [version, VERSIONS[version]], *described])


def read_experiment(path: Path) -> Experiment:
    """The experiment of a configuration file, or of the one (JSON) that the workflow wrote."""
    return Experiment(read_config(path))


def expect(found: str, sent_with: str | None, path: Path) -> None:
    """Refuse to do a job that is no longer the one that the workflow sent.

    `found` is the job's digest, `sent_with` the one that it was sent with (None: nobody cares).
    """
    if sent_with not in (None, found):
        raise LowrankError(
            f"{path}, or a file that it names under extensions, has changed since the workflow began: "
            "run again."
        )
