"""The files of one scale: where each lies, what it is made from, and what changes when it must be made again.

Digests (`lowrank.experiment.experiment`) are parameters of the rules: Snakemake makes a file again when they
are not those that it was made with. Names of cells are `<track>/<arm>`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

from lowrank.data import originals
from lowrank.errors import LowrankError, one_sentence
from lowrank.experiment.config import Config
from lowrank.experiment.experiment import Experiment, read_experiment
from lowrank.experiment.extensions import announce, remember
from lowrank.experiment.study import writers
from lowrank.files import CONFIG, write_sealed
from lowrank.workflow.building import build, manifest_of
from lowrank.workflow.figures import Figures
from lowrank.workflow.there import There
from lowrank.workflow.waiting import waited_for

CELL_TABLES = ("runs", "history", "layers", "spectra")
OF_ALL = (*CELL_TABLES, "rates", "contrasts")
"""Tables that every track contributes to."""
TABLE_SOURCES = ("contrasts", "described", "stats", "tables")


class Scale:
    """The files of an experiment; `root` holds the sources, and results are relative to the working
    folder. `workflow` is Snakemake's own, None where nothing is made."""

    def __init__(self, config: Config, root: Path = Path(), workflow: Any = None) -> None:
        self.config, self.root, self.workflow = config, root, workflow
        self.name = self.config.scale
        self.tracks = list(self.config.tracks)
        self.results = f"results/{self.name}"
        self.paper = f"paper/{self.name}/paper.pdf"
        self.config_file = f"{self.results}/{CONFIG}"
        self.figures = Figures(self)
        self.gpus = self.config.devices if self.config.device == "cuda" else 0
        self.published: list[str] = []
        self.experiment, self.said = Experiment(config), ""
        if self.config.results_from == "published":
            manifest = manifest_of(self.name, root)
            self.published = [str(manifest)]
            if config.retrain is None:
                self.experiment, self.said = build(config, manifest.parent, Path(self.results))

    # What happens outside of the rules.

    def check_memory(self) -> None:
        """Refuse results of another configuration when Snakemake no longer knows of which each is."""
        if not Path(self.config_file).is_file() or any(Path(".snakemake").glob("metadata*/*")):
            return
        then, now = read_experiment(Path(self.config_file)).digests(), self.experiment.digests()
        for job in now:
            if then.get(job, now[job]) != now[job] and not job.startswith("evaluate"):
                raise LowrankError(
                    f"{self.results} holds results of another configuration ({job} has changed), and "
                    ".snakemake, which knows of which each file is, is gone: delete all in "
                    f"{self.results} but {self.results}/runs, where finished runs are found again."
                )

    @property
    def ground(self) -> str:
        """The option by which jobs build on what is published."""
        there = self.experiment.ground is not None
        return f"--published {Path(self.published[0]).parent}" if there else ""

    def announce(self) -> None:
        """Say what is trained beside published results, and files of the user's own not announced before."""
        if self.said:
            print(self.said, file=sys.stderr)
        for line in announce(self.experiment.grid.extensions, self._extensions):
            print(line, file=sys.stderr)

    def begin(self) -> None:
        """Write what jobs read, before the first of them, once the user's files that they read are there."""
        with one_sentence():
            self.expect_originals(self._to_prepare())
            write_sealed(self.config_file, self.config.model_dump(mode="json"))
            remember(self.experiment.grid.extensions, self._extensions)
            for track, section in self.config.tracks.items():
                originals.state(section.data, self.data(track), remember=True)

    def expect_originals(self, tracks: Iterable[str]) -> None:
        """Refuse to begin while the user's own text or images of a track are missing."""
        for track in tracks:
            try:
                originals.find(self.experiment.track(track).data)
            except LowrankError as error:
                raise LowrankError(f"tracks.{track}.data: {error}") from None

    def _to_prepare(self) -> list[str]:
        """The tracks whose data this call of Snakemake prepares."""
        if self.workflow is None or self.workflow.touch:
            return []
        made = {file for job in self.workflow.dag.needrun_jobs() for file in job.output}
        return [track for track in self.tracks if self.prepared(track) in made]

    @property
    def _extensions(self) -> Path:
        return Path(f"{self.results}/extensions.json")

    # Sources.

    def source(self, path: str) -> str:
        """A file that comes with the workflow."""
        return str(self.root / path)

    @cached_property
    def package(self) -> Path:
        """The package's sources: those beside the workflow, else the installed ones."""
        beside = self.root / "src/lowrank"
        return beside if beside.is_dir() else Path(__file__).parents[1]

    def analysis(self, *modules: str) -> list[str]:
        """Modules that tables and figures are computed by."""
        return [str(self.package / f"analysis/{module}.py") for module in modules]

    @property
    def launch(self) -> str:
        """What starts a training job: one process, or one for each device."""
        if self.config.devices == 1:
            return "lowrank"
        return (
            "OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 torchrun --standalone"
            f" --nproc-per-node {self.config.devices} -m lowrank"
        )

    @property
    def table_sources(self) -> list[str]:
        """The sources that turn the results of jobs into tables."""
        return self.analysis(*TABLE_SOURCES)

    # Data, training and what is read from trained models.

    def data(self, track: str) -> str:
        """The folder of a track's prepared data."""
        return f"{self.results}/data/{track}"

    def prepared(self, track: str) -> str:
        """The manifest stands for the data: it carries the SHA-256 of every file."""
        return f"{self.data(track)}/manifest.json"

    def state(self, track: str) -> str:
        """Changes when the user's own text or images do, so that the data are prepared again."""
        return originals.state(self.experiment.track(track).data, self.data(track))

    def cell_tables(self, name: str) -> list[str]:
        """The tables of a cell; the first one, of its runs, stands for all."""
        return [f"{self.results}/cells/{name}/{table}.parquet" for table in CELL_TABLES]

    def runs(self, track: str | None = None) -> list[str]:
        """The tables of the runs of all trained cells, or of a track's."""
        names = self.experiment.trained
        return [
            self.cell_tables(name)[0]
            for name in names
            if track in (None, self.experiment.cell(name).track)
        ]

    def rates(self, *names: str) -> list[str]:
        """The results of the sweeps that these cells need and that are made here."""
        groups = (group for name in names for group in self.experiment.cell(name).groups)
        known = self.experiment.known
        return [f"{self.results}/rates/{g}.json" for g in dict.fromkeys(groups) if g not in known]

    def rates_before(self, name: str) -> list[str]:
        """The results of the sweeps that this one needs and that are made here."""
        known, groups = self.experiment.known, self.experiment.sweep(name).groups
        return [f"{self.results}/rates/{group}.json" for group in groups if group not in known]

    def trained_rates(self, track: str | None = None) -> list[str]:
        """The results of the sweeps that the trained cells need, of all or of a track's."""
        names = self.experiment.trained
        return self.rates(*(n for n in names if track in (None, self.experiment.cell(n).track)))

    def trunk(self, name: str) -> list[str]:
        """The runs of the dense cell that a pre-trained one forks from, if there is one."""
        trunk = self.experiment.trunk(name)
        return self.cell_tables(trunk)[:1] if trunk else []

    def measured_on(self, study: str, track: str) -> dict[str, list[str]]:
        """The data, runs and rates that the job of a study reads; published runs whose models it reads it trains
        itself. One that times steps waits until all is trained, for nothing else may run meanwhile."""
        names = [cell.name for cell in self.experiment.read_by(study, track)]
        trained = self.experiment.trained if self.experiment.ground else names
        files = [self.cell_tables(name)[0] for name in names if name in trained]
        data, job = [self.prepared(track)], self.experiment.job(study, track)[0]
        if job.times:
            table = f"{self.results}/{job.tables[0]}/{track}.parquet"
            made_from = self.experiment.of_study(study, track)
            files = waited_for(self.workflow, self.runs(), table, data, made_from)
        return {"cells": files, "rates": self.rates(*names), "data": data}

    # Tables.

    @cached_property
    def there(self) -> There | None:
        """What is published, where what is missing there is not made."""
        if self.config.results_from == "train" or self.experiment.ground:
            return None
        return There(Path(self.published[0]).parent, self.experiment.trained)

    @cached_property
    def contributors(self) -> dict[str, list[str]]:
        """Tables that only some tracks contribute to, and those tracks."""
        told = self.experiment.grid.jobs
        found = {table: list(told[study]) for table, study in writers().items() if study in told}
        return self.there.measured(found) if self.there else found

    def contributes(self, track: str, table: str) -> bool:
        """Whether a table has rows of a track."""
        return table in OF_ALL or track in self.contributors.get(table, ())

    @cached_property
    def collected(self) -> list[tuple[str, str]]:
        """Names and files of those that are made here."""
        if self.config.results_from == "published" and self.experiment.ground is None:
            return []
        return [
            (name, f"{self.results}/{name}/{track}.parquet")
            for name, tracks in self.contributors.items()
            for track in tracks
            if self.experiment.lacks(writers()[name], track)
        ]

    @cached_property
    def evaluations(self) -> list[str]:
        """The test metrics of the tracks of which cells are trained."""
        evaluated = [track for track in self.tracks if self.runs(track)]
        return [f"{self.results}/evaluations/{track}.parquet" for track in evaluated]

    def table(self, name: str) -> str:
        """A table of the whole scale."""
        return f"{self.results}/tables/{name}.parquet"

    @cached_property
    def gathered(self) -> list[str]:
        """All tables but the claims', which is made from them."""
        return [self.table(name) for name in (*OF_ALL, *self.contributors)]

    @cached_property
    def tables(self) -> list[str]:
        """All tables."""
        return [*self.gathered, self.table("claims")]

    # All of it.

    @cached_property
    def intermediate(self) -> list[str]:
        """Every file that figures and report rest on. Their targets name them all: a job takes its old files away
        before it begins, and Snakemake makes a file that a failed job left missing again only where a target, or
        another job that has to run, asks for it."""
        others = [path for _, path in self.collected]
        tracks = dict.fromkeys(Path(path).stem for path in (*self.evaluations, *others))
        return [
            *map(self.prepared, tracks),
            *self.trained_rates(),
            *(table for name in self.experiment.trained for table in self.cell_tables(name)),
            *self.evaluations,
            *others,
            *self.tables,
        ]

    @cached_property
    def products(self) -> set[str]:
        """Every file that can be asked for."""
        grid = self.experiment.grid
        return {
            *(table for name in grid.cells for table in self.cell_tables(name)),
            *(f"{self.results}/rates/{name}.json" for name in grid.sweeps),
            *map(self.prepared, self.tracks),
            *(f"{self.results}/evaluations/{track}.parquet" for track in self.tracks),
            *(
                f"{self.results}/{name}/{track}.parquet"
                for name, tracks in self.contributors.items()
                for track in tracks
            ),
            *self.tables,
            *self.figures.files,
            self.paper,
        }
