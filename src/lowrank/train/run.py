"""A run from its spec to its finished folder: built, trained, resumed, measured, kept.

`ensure_run` is the one entrance. A finished run is found by its digest and returned; an unfinished one
resumes from its last checkpoint; a pre-trained one forks from the dense run's checkpoint at the
switch, and trains that dense run so far if nobody has.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from torch import nn

from lowrank.experiment.build import build_model
from lowrank.experiment.cell import RunSpec
from lowrank.experiment.extensions import load_extensions
from lowrank.factor.own import in_a_sentence
from lowrank.files import (
    MANIFEST,
    check_manifest,
    damaged,
    make_folder,
    read_json,
    remove_leftovers,
    write_json,
    write_manifest,
)
from lowrank.methods import METHODS, begin
from lowrank.parquet import read_table, write_table
from lowrank.progress import Progress
from lowrank.train import checkpoint, parallel, probe
from lowrank.train.build import choose_device
from lowrank.train.proof import contradiction
from lowrank.train.result import result_row
from lowrank.train.task import Task, make_task
from lowrank.train.trackers import following
from lowrank.train.trainer import Trainer

TABLES = ("history", "layers", "spectra")


@dataclass
class FinishedRun:
    """A finished run's folder, checked against its manifest."""

    folder: Path
    spec: RunSpec

    @property
    def result(self) -> dict[str, Any]:
        """The run's row: results and provenance."""
        return read_json(self.folder / "result.json")

    def table(self, name: str) -> pd.DataFrame:
        """One of `history`, `layers`, `spectra`."""
        return read_table(self.folder / f"{name}.parquet")

    def model(self, outputs: int) -> nn.Module:
        """The trained model, on the host."""
        life = checkpoint.recorded(begin(self.spec), check_manifest(self.folder))
        model = build_model(self.spec, outputs, life=life, pretrained=False)
        source = self.folder / "model.safetensors"
        checkpoint.load_model_tensors(model, checkpoint.load_weights(source), source)
        return model


def finished_runs(
    specs: Iterable[RunSpec], data: Path, cache: Path, device: str
) -> list[FinishedRun]:
    """`ensure_run` of several specs of one track, their files compared with each other once for all."""
    runs = [ensure_run(spec, data, cache, device, prove=False) for spec in specs]
    found = [run for run in runs if run is not None]
    where = choose_device(device)
    distinct = {run.folder: run for run in found}  # cells may share a run
    _prove([(run, make_task(run.spec, data, where)) for run in distinct.values()])
    return found


def checked_run(folder: Path, spec: RunSpec, task: Task, prove: bool = True) -> FinishedRun:
    """A finished run, none of whose files is damaged; nor, where it is proved, another run's, or contradicts
    the others."""
    check_manifest(folder)
    run = FinishedRun(folder, spec)
    if prove:
        _prove([(run, task)])
    return run


def _prove(runs: Sequence[tuple[FinishedRun, Task]]) -> None:
    if runs and (found := contradiction(runs)):
        raise damaged(found[0].folder, found[1])


def ensure_run(
    spec: RunSpec,
    data: Path,
    cache: Path,
    device: str = "auto",
    *,
    until: int | None = None,
    keep: Iterable[int] = (),
    mode: str = "ddp",
    prove: bool = True,
) -> FinishedRun | None:
    """The finished run of a spec, trained as far as it is not; with `until`, train to that step only
    and leave a checkpoint there (returns None, or the finished run if it diverged before).

    `data` is the prepared data folder, `cache` the folder of all runs, `keep` the steps whose
    checkpoints outlive the run because pre-trained runs fork there, `mode` how the devices of one run
    share its model (ddp or fsdp). `prove`: hold a run that was found finished against its own files.
    """
    load_extensions(spec.extensions)
    task = make_task(spec, data, choose_device(device))
    folder = cache / spec.identity(task.digest)
    make_folder(folder)
    finished = (folder / MANIFEST).is_file()
    if finished and not os.access(folder, os.W_OK):
        # Somebody else's cache, or a read-only disk: nobody is at work there.
        return checked_run(folder, spec, task, prove)
    # Cells that share a run may be in progress side by side: the second waits and finds it finished.
    with parallel.locked(folder / "lock"):
        if parallel.is_main():
            remove_leftovers(folder)
        if until is not None and checkpoint.fork_path(folder, until).is_dir():
            return None
        finished = (folder / MANIFEST).is_file()
        if finished and until is None:
            if parallel.is_main():
                checkpoint.prune(folder)
            return checked_run(folder, spec, task, prove)
        if finished and checked_run(folder, spec, task).result["diverged"]:
            return FinishedRun(folder, spec)
        trainer = _begin(spec, task, folder, data, cache, device, until, mode)
        last = spec.training.steps if until is None else until
        name = f"{spec.track} seed {spec.seed} {folder.name[:6]}"
        stream = None if parallel.is_main() else io.StringIO()
        with (
            Progress(name, last, "steps", stream=stream) as progress,
            following(spec, folder.name) as trainer.follow,
        ):
            progress.advance(trainer.step)
            with in_a_sentence(METHODS.kind, spec.method, METHODS[spec.method].life):
                forks = {*keep, *([until] if until else [])}
                finite = trainer.train(last, forks, progress.advance)
        if finite and until is not None:
            return None
        return _finish(trainer, finite)


def _begin(
    spec: RunSpec,
    task: Task,
    folder: Path,
    data: Path,
    cache: Path,
    device: str,
    until: int | None,
    mode: str,
) -> Trainer:
    """A trainer at the run's last checkpoint up to step `until`, at the switch of a pre-trained run,
    or at step 0."""
    if parallel.is_main():
        write_json(folder / "spec.json", spec.model_dump(mode="json"))
    trainer = Trainer(spec, task, folder, mode)
    if (trunk := trainer.life.trunk()) is not None:
        other, step = trunk
        diverged = ensure_run(other, data, cache, device, until=step, mode=mode)
        if diverged is not None:
            trainer.start_diverged(diverged.result["diverged_at"])
            return trainer
        trainer.switch(checkpoint.fork_path(cache / other.identity(task.digest), step))
    trainer.resume(until)
    return trainer


def _finish(trainer: Trainer, finished: bool) -> FinishedRun:
    """Write the run's tables, weights and row, sealed by a manifest, and drop its checkpoints.

    Every process takes part, for weights are gathered from all; the first one writes.
    """
    spec, folder, record = trainer.spec, trainer.folder, trainer.record
    spectra = (
        [
            {"layer": name, "index": index, "singular_value": float(value)}
            for name in trainer.layer_names
            for index, value in enumerate(
                probe.singular_values(trainer.model.get_submodule(name)).flatten(), 1
            )
        ]
        if finished
        else []
    )
    checkpoint.save_weights(folder / "model.safetensors", trainer.model)
    if not parallel.is_main():
        return FinishedRun(folder, spec)
    for name, rows in (("history", record["history"]), ("layers", record["layers"])):
        write_table(folder / f"{name}.parquet", pd.DataFrame(rows))
    write_table(
        folder / "spectra.parquet",
        pd.DataFrame(spectra, columns=["layer", "index", "singular_value"]),
    )
    write_json(folder / "result.json", result_row(trainer, finished))
    names = ["result.json", "model.safetensors", *(f"{name}.parquet" for name in TABLES)]
    write_manifest(folder, names, **checkpoint.method_facts(trainer.life))
    checkpoint.prune(folder)
    return FinishedRun(folder, spec)
