"""One run in progress: its model, method and optimiser, its history, checkpoints and what ends it."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lowrank import models
from lowrank.errors import LowrankError
from lowrank.experiment.build import build_model
from lowrank.experiment.cell import RunSpec
from lowrank.experiment.shares import spread
from lowrank.factor.convert import place
from lowrank.files import check_manifest
from lowrank.methods import begin, check_fit
from lowrank.methods.base import moved, names_of
from lowrank.optimizers import OPTIMIZERS
from lowrank.train import checkpoint, parallel, probe
from lowrank.train.loop import Watch, run_steps
from lowrank.train.optimizer import Optimizer
from lowrank.train.task import Task


class Trainer:
    """One run in progress: model, method, optimiser, step and the history so far."""

    def __init__(self, spec: RunSpec, task: Task, folder: Path, mode: str = "ddp") -> None:
        self.spec, self.training, self.task, self.folder = spec, spec.training, task, folder
        self.sharded = parallel.sharded(mode)
        check_fit(spec.method, spec.training, spec.model, sharded=self.sharded)
        self.mode, self.step, self.first_batch = mode, 0, 0
        self.follow: Callable[[Mapping[str, Any]], None] = lambda row: None
        self.record: dict[str, Any] = {"history": [], "layers": [], "losses": [], "seconds": 0.0}
        self.life = begin(spec)
        trunk = self.life.trunk()
        self.model = self._placed(build_model(spec, task.outputs, trunk is None, self.life))
        if trunk is None:
            self._prepare()

    def _placed(self, model: nn.Module) -> nn.Module:
        parallel.share_(model)
        # A whole model may not fit: its slices are moved by themselves.
        return model if self.sharded else model.to(self.task.device)

    def _prepare(self) -> None:
        """Spread the model over the devices and build its optimiser."""
        if self.training.channels_last and not self.sharded:
            self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.model.train()
        targets = models.family(self.spec.model.family).targets(self.model)
        self.layer_names = [target.name for target in targets]
        blocks, compiled = models.blocks(targets), self.training.compile
        self.forward = parallel.wrap(self.model, blocks, self.task.device, compiled, self.mode)
        factors = self.spec.factors if self.life.decays_factors else None
        decay = factors.decay if factors else None
        groups = self.life.groups(self.model)
        self.optimizer = Optimizer(self.model, self.training, decay, groups, self.sharded)

    def resume(self, until: int | None = None) -> None:
        """Take up the newest usable checkpoint up to step `until`; a damaged one is named and an older
        one is used."""
        for step, path in reversed(checkpoint.saved(self.folder)):
            if step <= self.step:
                return
            if until is not None and step > until:
                continue
            try:
                life = checkpoint.recorded(begin(self.spec), check_manifest(path))
                # Layers that the method has changed since the first step are built as they were then.
                changed = life.record() != self.life.record()
                model = self.model
                if changed:
                    model = self._placed(build_model(self.spec, self.task.outputs, life=life))
                self.step, state, self.record = checkpoint.load(path, model)
            except LowrankError as error:
                if parallel.is_main():
                    print(f"Not resuming from {path.name}: {error}", flush=True)
                continue
            if changed:
                self.model, self.life = model, life
                self._prepare()
            self.optimizer.load_state(state)
            self.life.load_state(checkpoint.method_state(state))
            return

    def save(self, path: Path) -> None:
        """Write a checkpoint of this step."""
        parallel.average_buffers_(self.model)
        state = self.optimizer.state()
        checkpoint.save(path, self.step, self.model, state, self.record, self.life)

    def switch(self, trunk: Path) -> None:
        """Begin at another run's checkpoint, whose model and moments the method converts."""
        self.step, state, self.record = checkpoint.load(trunk, self.model)
        state = self.life.switch(self.model, state, OPTIMIZERS[self.training.optimizer].states)
        parallel.share_(self.model)
        self._prepare()
        self.optimizer.load_state(state)

    def start_diverged(self, step: int) -> None:
        """Stand where a trunk diverged before the switch: there is nothing left to train."""
        self.life.convert(self.model)
        self._prepare()
        self.record["diverged_at"] = step

    def replace(
        self, layers: Mapping[str, nn.Module], state: Mapping[str, Tensor] | None = None
    ) -> None:
        """Put layers, by name, in the place of others during the run; see `lowrank.methods.base`."""
        names, kept = names_of(self.model), self.optimizer.state()
        self.record["state_bytes"] = self.state_bytes()
        for name, layer in layers.items():
            place(self.model, name, layer.to(self.task.device))
        parallel.share_(self.model)
        self._prepare()
        self.optimizer.load_state({**moved(kept, names, self.model), **(state or {})})

    def state_bytes(self) -> int:
        """The most bytes of parameters, gradients and optimiser state that the run has needed."""
        return max(self.record.get("state_bytes", 0), self.optimizer.state_bytes())

    def train(self, until: int, forks: Iterable[int], advance: Callable[[int], None]) -> bool:
        """Train up to step `until`; False if a loss or a gradient stopped being finite. On a CPU the
        model is then as it was before the step that showed it.

        Checkpoints are left at the steps in `forks`, and one at every `checkpoint_every` steps.
        """
        if "diverged_at" in self.record:
            return False
        parallel.vary_random_state(self.spec.seed, self.step)
        with _Clock(self.record) as clock:
            if self.step == 0:
                self.life.start(self)
            finite = run_steps(self, until, _Observer(self, until, set(forks), advance, clock))
        if not finite:
            self.record["diverged_at"] = self.step
        return finite

    def finite_weights(self) -> bool:
        """Whether all weights are finite, in every process."""
        held = (parallel.local(weight) for weight in self.model.parameters())
        return parallel.everywhere(all(bool(torch.isfinite(weight).all()) for weight in held))

    def validate(self) -> dict[str, float]:
        """Held-out metrics now, by name."""
        parallel.average_buffers_(self.model)
        evaluation = self.spec.evaluation
        metrics = self.task.evaluate(
            self.model, "validation", evaluation.validation_examples, evaluation.batch
        )
        return {f"validation_{name}": value for name, value in metrics.items()}


class _Observer(Watch):
    """What a run keeps of its steps: the history, probes of the layers and checkpoints; and whether
    all is finite."""

    def __init__(
        self,
        trainer: Trainer,
        until: int,
        forks: set[int],
        advance: Callable[[int], None],
        clock: _Clock,
    ) -> None:
        self.trainer, self.until, self.forks = trainer, until, forks
        self.advance, self.clock = advance, clock
        training, device = trainer.training, trainer.task.device
        self.log_at = spread(training.steps, training.log_points)
        self.probe_at = spread(training.steps, training.probe_points) | {1}
        self.validate_at = spread(training.steps, training.validation_points)
        self.losses = [torch.tensor(loss, device=device) for loss in trainer.record["losses"]]

    def before(self, step: int) -> None:
        """Keep what the step is compared with, and what a forward pass that diverges spoils."""
        model = self.trainer.model
        self.snapshot = None
        if step in self.probe_at:
            self.snapshot = probe.snapshot(model, self.trainer.layer_names)
        self.statistics = _statistics(model)

    def sound(self, rate: float, loss: Tensor, norm: Tensor) -> bool:
        """Whether the losses since the last look, and the weights where they are kept, are finite."""
        trainer, step = self.trainer, self.trainer.step
        self.losses.append(loss)
        self.advance(1)
        if (step in self.log_at or not loss.is_cuda) and not _finite(self.losses, norm):
            for buffer, value in self.statistics:
                buffer.copy_(value)
            return False
        # An update of a finite gradient can still be too large for the weights.
        kept = step in self.forks or step in self.probe_at  # the last step among them
        if kept and not trainer.finite_weights():
            return False
        with self.clock.paused():
            self.probed = self._probe(rate)
        return True

    def _probe(self, rate: float) -> list[dict[str, Any]]:
        """The layers after the step itself, before the method changes them."""
        if self.snapshot is None:
            return []
        trainer = self.trainer
        return probe.measure(trainer.model, trainer.layer_names, rate, self.snapshot)

    def after(self, rate: float, norm: Tensor) -> bool:
        """Log, and keep a checkpoint, where they are due; whether the validation loss is finite."""
        trainer, step, record = self.trainer, self.trainer.step, self.trainer.record
        with self.clock.paused():
            if step in self.log_at:
                row = {"step": step, "learning_rate": rate}
                row |= {"gradient_norm": float(norm), "seconds": record["seconds"]}
                row |= {"train_loss": float(torch.stack(self.losses).mean())}
                row |= trainer.validate() if step in self.validate_at else {}
                record["history"].append(row)
                trainer.follow(row)
                self.losses.clear()
                if not math.isfinite(row.get("validation_loss", 0.0)):
                    return False
            record["layers"] += [{"step": step, **row} for row in self.probed]
            self._checkpoint()
        return True

    def _checkpoint(self) -> None:
        trainer, step = self.trainer, self.trainer.step
        fork, regular = step in self.forks, step % trainer.training.checkpoint_every == 0
        if not fork and not (regular and step < self.until):
            return
        trainer.record["losses"] = [float(loss) for loss in self.losses]
        if fork:
            trainer.save(checkpoint.fork_path(trainer.folder, step))
        else:
            trainer.save(checkpoint.checkpoint_path(trainer.folder, step))
            if parallel.is_main():
                checkpoint.prune(trainer.folder, keep=step)


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


def _statistics(model: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """The batch-norm buffers on a CPU, each with a copy: a forward pass that diverges spoils them."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    return [(b, b.clone()) for norm in norms for b in norm.buffers() if not b.is_cuda]


def _finite(losses: list[Tensor], norm: Tensor) -> bool:
    return bool(torch.isfinite(torch.stack([*losses, norm.to(losses[0].dtype)])).all())
