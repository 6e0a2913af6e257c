"""One run in progress: the loop around the training step, its history, checkpoints and the switch."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lowrank import models
from lowrank.errors import LowrankError
from lowrank.experiment.cell import RunSpec
from lowrank.experiment.shares import spread
from lowrank.factor.moments import carry_moments
from lowrank.optimizers import OPTIMIZERS
from lowrank.optimizers.base import standard_groups
from lowrank.train import checkpoint, parallel, probe
from lowrank.train.build import build_model, factorise
from lowrank.train.optimizer import Optimizer
from lowrank.train.schedule import learning_rate
from lowrank.train.step import train_step
from lowrank.train.task import Task


class Trainer:
    """One run in progress: model, optimiser, step and the history so far."""

    def __init__(self, spec: RunSpec, task: Task, folder: Path) -> None:
        self.spec, self.task, self.folder = spec, task, folder
        self.step = 0
        self.record: dict[str, Any] = {"history": [], "layers": [], "losses": [], "seconds": 0.0}
        self.model = build_model(spec, task.outputs, factorised=spec.switch_step == 0)
        parallel.share_(self.model)
        if not parallel.sharded():  # a whole model may not fit: its slices are moved by themselves
            self.model.to(task.device)
        if spec.switch_step == 0:
            self._prepare()

    def _prepare(self) -> None:
        """Spread the model over the devices and build its optimiser."""
        if self.spec.training.channels_last and not parallel.sharded():
            self.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.model.train()
        family = models.family(self.spec.model.family)
        targets = family.targets(self.model)
        self.layer_names = [target.name for target in targets]
        blocks, compiled = models.blocks(targets), self.spec.training.compile
        self.forward = parallel.wrap(self.model, blocks, self.task.device, compiled)
        training = self.spec.training
        decay = self.spec.factors.decay if self.spec.factors else None
        groups = standard_groups(self.model, training, self.layer_names, family.embeddings)
        self.optimizer = Optimizer(self.model, training, decay, groups)

    def resume(self, until: int | None = None) -> None:
        """Take up the newest usable checkpoint up to step `until`; a damaged one is named and an older
        one is used."""
        for step, path in reversed(checkpoint.saved(self.folder)):
            if step <= self.step:
                return
            if until is not None and step > until:
                continue
            try:
                self.step, state, self.record = checkpoint.load(path, self.model)
            except LowrankError as error:
                if parallel.is_main():
                    print(f"Not resuming from {path.name}: {error}", flush=True)
                continue
            self.optimizer.load_state(state)
            return

    def save(self, path: Path) -> None:
        """Write a checkpoint of this step."""
        parallel.average_buffers_(self.model)
        checkpoint.save(path, self.step, self.model, self.optimizer.state(), self.record)

    def switch(self, trunk: Path) -> None:
        """Begin at a dense run's checkpoint: its weights become factors, its moments move along."""
        assert self.spec.factors is not None and self.spec.pretraining is not None
        self.step, state, self.record = checkpoint.load(trunk, self.model)
        names = factorise(self.model, self.spec.model, self.spec.factors, self.spec.seed)
        parallel.share_(self.model)
        carry = self.spec.pretraining.moments == "carry"
        roles = OPTIMIZERS[self.spec.training.optimizer].states if carry else None
        state = carry_moments(state, self.model, names, roles)
        self._prepare()
        self.optimizer.load_state(state)

    def start_diverged(self, step: int) -> None:
        """Stand where a dense trunk diverged before the switch: there is nothing left to train."""
        assert self.spec.factors is not None
        factorise(self.model, self.spec.model, self.spec.factors, self.spec.seed)
        self._prepare()
        self.record["diverged_at"] = step

    def train(self, until: int, forks: Iterable[int], advance: Callable[[int], None]) -> bool:
        """Train up to step `until`; False if a loss or a gradient stopped being finite. On a CPU the
        model is then as it was before the step that showed it.

        Checkpoints are left at the steps in `forks`, and one at every `checkpoint_every` steps.
        """
        training, forks = self.spec.training, set(forks)
        log_at = spread(training.steps, training.log_points)
        probe_at = spread(training.steps, training.probe_points) | {1}
        validate_at = spread(training.steps, training.validation_points)
        losses = [torch.tensor(loss, device=self.task.device) for loss in self.record["losses"]]
        if "diverged_at" in self.record:
            return False
        # This process's parts of every batch; all parts are the same whichever process computes them.
        count = parallel.world() * training.accumulation
        parts = range(count)[parallel.rank() * training.accumulation :][: training.accumulation]
        parallel.vary_random_state(self.spec.seed, self.step)
        with _Clock(self.record) as clock:
            while self.step < until:
                rate = learning_rate(self.step, training)
                batches = [self.task.batch(self.step, part, count) for part in parts]
                probing = self.step + 1 in probe_at
                if probing:
                    before = probe.snapshot(self.model, self.layer_names)
                statistics = _statistics(self.model)
                loss, norm = train_step(self.forward, self.task, batches, self.optimizer, rate)
                self.step += 1
                losses.append(loss)
                advance(1)
                if (self.step in log_at or not loss.is_cuda) and not _finite(losses, norm):
                    self.record["diverged_at"] = self.step
                    for buffer, value in statistics:
                        buffer.copy_(value)
                    return False
                # An update of a finite gradient can still be too large for the weights.
                kept = self.step in forks or self.step == training.steps
                if (probing or kept) and not self.finite_weights():
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
                        if not math.isfinite(row.get("validation_loss", 0.0)):
                            self.record["diverged_at"] = self.step
                            return False
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
            if parallel.is_main():
                checkpoint.prune(self.folder, keep=self.step)

    def finite_weights(self) -> bool:
        """Whether all weights are finite, in every process."""
        held = (parallel.local(weight) for weight in self.model.parameters())
        return parallel.everywhere(all(bool(torch.isfinite(weight).all()) for weight in held))

    def _validate(self) -> dict[str, float]:
        parallel.average_buffers_(self.model)
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


def _statistics(model: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """The batch-norm buffers on a CPU, each with a copy: a forward pass that diverges spoils them."""
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    return [(b, b.clone()) for norm in norms for b in norm.buffers() if not b.is_cuda]


def _finite(losses: list[Tensor], norm: Tensor) -> bool:
    return bool(torch.isfinite(torch.stack([*losses, norm.to(losses[0].dtype)])).all())
