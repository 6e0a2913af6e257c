"""A run from its spec to its finished folder: built, trained, resumed, measured, kept.

`ensure_run` is the one entrance. A finished run is found by its digest and returned; an unfinished one
goes on from its last checkpoint; a pre-trained one forks from the dense run's checkpoint at the
switch, and trains that dense run so far if nobody has.
"""

from __future__ import annotations

import contextlib
import platform
import resource
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from filelock import FileLock
from torch import Tensor, nn

from lowrank import models
from lowrank.errors import LowrankError
from lowrank.factor.convert import factorize_model, parameter_count
from lowrank.factor.flops import forward_flops
from lowrank.files import (
    check_manifest,
    read_json,
    read_table,
    write_json,
    write_manifest,
    write_table,
)
from lowrank.progress import Progress
from lowrank.study.config import FactorSpec, ModelSpec
from lowrank.study.spec import METHOD_VERSION, RunSpec
from lowrank.train import checkpoint, probe
from lowrank.train.optimizer import Optimizer
from lowrank.train.schedule import learning_rate
from lowrank.train.step import train_step
from lowrank.train.switch import carry_moments
from lowrank.train.task import Task, make_task

TABLES = ("history", "layers", "spectra")


def build_model(spec: RunSpec, outputs: int, factorised: bool = True) -> nn.Module:
    """The model of a run, drawn from its seed; factorised from the first step if the spec says so.

    The dense draw is the same in every cell of a seed; factors are drawn from a generator of their
    own.
    """
    torch.manual_seed(spec.seed)
    model = models.family(spec.model.family).build(spec.model, outputs)
    if factorised and spec.factors is not None:
        factorise(model, spec.model, spec.factors, spec.seed)
    return model


def factorise(model: nn.Module, spec: ModelSpec, factor: FactorSpec, seed: int) -> list[str]:
    """Replace the layers that the factor section names; returns their names."""
    return factorize_model(
        model,
        {target.name: target.scale for target in select_targets(model, spec, factor)},
        rank_fraction=factor.rank_fraction,
        rank_multiple=factor.rank_multiple,
        init=factor.init,
        seed=seed,
        matricisation=factor.matricisation,
    )


def select_targets(model: nn.Module, spec: ModelSpec, factor: FactorSpec) -> list[models.Target]:
    """The layers to factorise: those a pattern of `layers` names, less those of `dense_layers`.

    Patterns match layer names, groups, or the words first_block and last_block.
    """
    targets = models.family(spec.family).targets(model)
    chosen = models.matching(targets, factor.layers, "layers")
    left_out = models.matching(targets, factor.dense_layers, "dense_layers")
    remaining = [target for target in chosen if target not in left_out]
    if not remaining:
        raise LowrankError(
            f"factors: dense_layers {list(factor.dense_layers)} leave no layer to factorise."
        )
    return remaining


def choose_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise LowrankError("device: cuda was asked for, but torch sees none; use cpu or auto.")
    torch.set_flush_denormal(True)
    if name == "cuda":
        torch.set_float32_matmul_precision("high")
    return torch.device(name)


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
        with warnings.catch_warnings(
            action="ignore"
        ):  # its ranks were warned of when it was trained
            model = build_model(self.spec, outputs)
        source = self.folder / "model.safetensors"
        checkpoint.load_model_tensors(model, checkpoint.load_weights(source), source)
        return model


class Trainer:
    """One run in progress: model, optimiser, step and the history so far."""

    def __init__(self, spec: RunSpec, task: Task, folder: Path) -> None:
        self.spec, self.task, self.folder = spec, task, folder
        self.step = 0
        self.record: dict[str, Any] = {"history": [], "layers": [], "losses": [], "seconds": 0.0}
        self.model = build_model(spec, task.outputs, factorised=spec.switch_step == 0)
        self._prepare()

    def _prepare(self) -> None:
        """Put the model on its device and build its optimiser."""
        self.model.to(self.task.device)
        if self.spec.training.channels_last:
            self.model.to(memory_format=torch.channels_last)
        self.model.train()
        decay = self.spec.factors.decay if self.spec.factors else None
        self.optimizer = Optimizer(self.model, self.spec.training, decay)
        targets = models.family(self.spec.model.family).targets(self.model)
        self.layer_names = [target.name for target in targets]
        compiles = self.spec.training.compile
        self.forward: nn.Module = torch.compile(self.model) if compiles else self.model  # type: ignore[assignment]

    def resume(self) -> None:
        """Take up the newest usable checkpoint; a damaged one is named and an older one is used."""
        for step, path in reversed(checkpoint.saved(self.folder)):
            if step <= self.step:
                return
            try:
                self.step, state, self.record = checkpoint.load(path, self.model)
            except LowrankError as error:
                print(f"Not resuming from {path.name}: {error}", flush=True)
                continue
            self.optimizer.load_state(state)
            return

    def save(self, path: Path) -> None:
        """Write a checkpoint of this step."""
        checkpoint.save(path, self.step, self.model, self.optimizer.state(), self.record)

    def switch(self, trunk: Path) -> None:
        """Begin at a dense run's checkpoint: its weights become factors, its moments move along."""
        assert self.spec.factors is not None and self.spec.pretraining is not None
        self.step, state, self.record = checkpoint.load(trunk, self.model)
        names = factorise(self.model, self.spec.model, self.spec.factors, self.spec.seed)
        self._prepare()
        carry = self.spec.pretraining.moments == "carry"
        self.optimizer.load_state(carry_moments(state, self.model, names, carry))

    def train(self, until: int, forks: Iterable[int], advance: Callable[[int], None]) -> bool:
        """Train up to step `until`; False if the loss or a gradient stopped being finite.

        Checkpoints are left at the steps in `forks`, and one at every `checkpoint_every` steps.
        """
        training, forks = self.spec.training, set(forks)
        log_at = _points(training.steps, training.log_points)
        probe_at = _points(training.steps, training.probe_points) | {1}
        validate_at = _points(training.steps, training.validation_points)
        losses = [torch.tensor(loss, device=self.task.device) for loss in self.record["losses"]]
        parts = range(training.accumulation)
        with _Clock(self.record) as clock:
            while self.step < until:
                rate = learning_rate(self.step, training)
                batches = [self.task.batch(self.step, part, len(parts)) for part in parts]
                probing = self.step + 1 in probe_at
                if probing:
                    before = probe.snapshot(self.model, self.layer_names)
                loss, norm = train_step(self.forward, self.task, batches, self.optimizer, rate)
                self.step += 1
                losses.append(loss)
                advance(1)
                if (self.step in log_at or not loss.is_cuda) and not _finite(losses, norm):
                    self.record["diverged_at"] = self.step
                    return False
                with clock.paused():
                    if self.step in log_at:
                        row = {"step": self.step, "learning_rate": rate}
                        row |= {"gradient_norm": float(norm), "seconds": self.record["seconds"]}
                        row |= {"train_loss": float(torch.stack(losses).mean())}
                        row |= self._validate() if self.step in validate_at else {}
                        self.record["history"].append(row)
                        losses.clear()
                    if probing:
                        rows = probe.measure(self.model, self.layer_names, rate, before)
                        self.record["layers"] += [{"step": self.step, **row} for row in rows]
                    self._checkpoint(forks, until, losses)
        return True

    def _checkpoint(self, forks: set[int], until: int, losses: list[Tensor]) -> None:
        fork, regular = self.step in forks, self.step % self.spec.training.checkpoint_every == 0
        if not fork and not (regular and self.step < until):
            return
        self.record["losses"] = [float(loss) for loss in losses]
        if fork:
            self.save(checkpoint.fork_path(self.folder, self.step))
        else:
            self.save(checkpoint.checkpoint_path(self.folder, self.step))
            checkpoint.prune(self.folder, keep=self.step)

    def _validate(self) -> dict[str, float]:
        evaluation = self.spec.evaluation
        metrics = self.task.evaluate(
            self.model, "validation", evaluation.validation_examples, evaluation.batch
        )
        return {f"validation_{name}": value for name, value in metrics.items()}


class _Clock:
    """Adds the seconds spent inside, less pauses, to `record["seconds"]`."""

    def __init__(self, record: dict[str, Any]) -> None:
        self.record = record

    def __enter__(self) -> _Clock:
        self.started = time.perf_counter()
        return self

    def __exit__(self, *error: object) -> None:
        self.record["seconds"] += time.perf_counter() - self.started

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Stop the clock for evaluation, probes and checkpoints."""
        self.__exit__()
        yield
        self.started = time.perf_counter()


def _finite(losses: list[Tensor], norm: Tensor) -> bool:
    return bool(torch.isfinite(torch.stack([*losses, norm.to(losses[0].dtype)])).all())


def _points(steps: int, count: int) -> set[int]:
    """`count` steps spread evenly, the last step among them."""
    return {max(1, round(steps * (index + 1) / count)) for index in range(count)}


def ensure_run(
    spec: RunSpec,
    data: Path,
    cache: Path,
    device: str = "auto",
    *,
    until: int | None = None,
    keep: Iterable[int] = (),
) -> FinishedRun | None:
    """The finished run of a spec, trained as far as it is not; with `until`, train to that step only
    and leave a checkpoint there (returns None).

    `data` is the prepared data folder, `cache` the folder of all runs, `keep` the steps whose
    checkpoints outlive the run because pre-trained runs fork there.
    """
    task = make_task(spec, data, choose_device(device))
    folder = cache / spec.identity(task.digest)
    folder.mkdir(parents=True, exist_ok=True)
    # Cells that share a run may be in progress side by side: the second waits and finds it finished.
    with FileLock(folder / "lock"):
        if until is not None and checkpoint.fork_path(folder, until).is_dir():
            return None
        finished = (folder / "manifest.json").is_file()
        if finished and until is None:
            check_manifest(folder)
            return FinishedRun(folder, spec)
        trainer = _begin(spec, task, folder, data, cache, device)
        last = spec.training.steps if until is None else until
        name = f"{spec.track} seed {spec.seed} {folder.name[:6]}"
        with Progress(name, last, "steps") as progress:
            progress.advance(trainer.step)
            finite = trainer.train(last, {*keep, *([until] if until else [])}, progress.advance)
        if finite and until is not None:
            return None
        return _finish(trainer, finite)


def _begin(
    spec: RunSpec, task: Task, folder: Path, data: Path, cache: Path, device: str
) -> Trainer:
    """A trainer at the run's last checkpoint, at the switch of a pre-trained run, or at step 0."""
    write_json(folder / "spec.json", spec.model_dump(mode="json"))
    trainer = Trainer(spec, task, folder)
    if spec.switch_step:
        trunk = spec.trunk()
        ensure_run(trunk, data, cache, device, until=spec.switch_step)
        folder = cache / trunk.identity(task.digest)
        trainer.switch(checkpoint.fork_path(folder, spec.switch_step))
    trainer.resume()
    return trainer


def _result(trainer: Trainer, finished: bool) -> dict[str, Any]:
    """The run's row: what it cost, where it ended, and where it came from."""
    spec, task, record = trainer.spec, trainer.task, trainer.record
    final = record["history"][-1] if record["history"] and finished else {}
    last = [row for row in record["layers"] if row["step"] == trainer.step]
    dense = build_model(spec.model_copy(update={"factors": None}), task.outputs)
    dense_parameters, dense_flops = parameter_count(dense), forward_flops(dense, task.example())
    flops = forward_flops(trainer.model.cpu(), task.example())
    positions = spec.model.context or 1
    examples = spec.training.steps * spec.training.batch
    # A backward pass costs twice the forward pass: both operands' gradients are matmuls.
    share = spec.switch_step / spec.training.steps
    training_flops = 3 * examples * (share * dense_flops + (1 - share) * flops)
    cuda = task.device.type == "cuda"
    peak = torch.cuda.max_memory_allocated() if cuda else _peak_resident()
    return {
        "digest": trainer.folder.name,
        "seed": spec.seed,
        "learning_rate": spec.training.learning_rate,
        "diverged": not finished,
        "diverged_at": record.get("diverged_at"),
        "train_loss": final.get("train_loss"),
        "validation_loss": final.get("validation_loss"),
        "validation_accuracy": final.get("validation_accuracy"),
        "effective_rank": _mean(last, "effective_rank"),
        "entropy_rank": _mean(last, "entropy_rank"),
        "stable_rank": _mean(last, "stable_rank"),
        "parameters": parameter_count(trainer.model),
        "dense_parameters": dense_parameters,
        "kept_parameters": parameter_count(trainer.model) / dense_parameters,
        "flops_per_position": flops / positions,
        "kept_flops": flops / dense_flops,
        "training_flops": training_flops,
        "train_seconds": record["seconds"],
        "positions_per_second": examples * positions / record["seconds"] if finished else None,
        "state_bytes": trainer.optimizer.state_bytes(),
        "peak_memory_bytes": peak,
        "data_digest": task.digest,
        **provenance(task.device),
    }


def _mean(rows: list[dict[str, Any]], column: str) -> float | None:
    return sum(row[column] for row in rows) / len(rows) if rows else None


def _peak_resident() -> int:
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def provenance(device: torch.device) -> dict[str, Any]:
    """Versions and machine a result was made with."""
    cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name() if cuda else _processor(),
        "torch": torch.__version__,
        "transformers": version("transformers"),
        "lowrank": version("lowrank"),
        "method_version": METHOD_VERSION,
        "threads": torch.get_num_threads(),
        "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _processor() -> str:
    """The processor's model name, as far as the system tells."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _finish(trainer: Trainer, finished: bool) -> FinishedRun:
    """Write the run's tables, weights and row, sealed by a manifest, and drop its checkpoints."""
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
    for name, rows in (("history", record["history"]), ("layers", record["layers"])):
        write_table(folder / f"{name}.parquet", pd.DataFrame(rows))
    write_table(
        folder / "spectra.parquet",
        pd.DataFrame(spectra, columns=["layer", "index", "singular_value"]),
    )
    checkpoint.save_weights(folder / "model.safetensors", trainer.model)
    write_json(folder / "result.json", _result(trainer, finished))
    names = ["result.json", "model.safetensors", *(f"{name}.parquet" for name in TABLES)]
    write_manifest(folder, names)
    checkpoint.prune(folder)
    return FinishedRun(folder, spec)
