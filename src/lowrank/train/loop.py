"""The loop of steps: one for training, fine-tuning and timing."""

from __future__ import annotations

from functools import partial
from typing import Protocol

from torch import Tensor, nn

from lowrank.experiment.sections import TrainingSpec
from lowrank.methods.base import Life, Run
from lowrank.train import parallel
from lowrank.train.optimizer import Optimizer
from lowrank.train.schedule import learning_rate
from lowrank.train.step import train_step
from lowrank.train.task import Task


class Stepping(Run, Protocol):
    """What the loop needs of a run."""

    forward: nn.Module
    """The module to train through: the model, or what spreads it over devices."""
    training: TrainingSpec
    life: Life
    task: Task
    optimizer: Optimizer
    first_batch: int
    """The position in the data of the batch of step 0."""


class Watch:
    """What is done around the steps and is no part of them; by itself nothing."""

    def before(self, step: int) -> None:
        """Before the step of this number, from 1."""

    def sound(self, rate: float, loss: Tensor, norm: Tensor) -> bool:
        """After a step: whether to go on, as far as its loss and gradient norm tell."""
        return True

    def after(self, rate: float, norm: Tensor) -> bool:
        """After a step and what the method does after it: whether to go on."""
        return True


def run_steps(run: Stepping, until: int, watch: Watch) -> bool:
    """Train up to step `until`; False if the watch ended it before.

    Beyond the schedule's last step, which only timing reaches, the schedule begins again.
    """
    training, life, events = run.training, run.life, frozenset(run.life.at())
    # This process's parts of every batch; all parts are the same whichever process computes them.
    count = parallel.world() * training.accumulation
    parts = range(count)[parallel.rank() * training.accumulation :][: training.accumulation]
    while run.step < until:
        rate = life.rate(run.step, learning_rate(run.step % training.steps, training))
        batches = [run.task.batch(run.first_batch + run.step, part, count) for part in parts]
        life.before_step(run)
        watch.before(run.step + 1)
        update = partial(life.update, run)
        loss, norm = train_step(run.forward, run.task, batches, run.optimizer, rate, update)
        run.step += 1
        if not watch.sound(rate, loss, norm):
            return False
        life.after_step(run)
        if run.step in events:
            life.event(run)
            parallel.share_(run.model)
        if not watch.after(rate, norm):
            return False
    return True
