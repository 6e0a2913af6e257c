"""The loop of steps: which rate and which batch each has, and who is asked when."""

from __future__ import annotations

import pytest
from runs import language_run

from lowrank.train.build import choose_device
from lowrank.train.loop import Watch, run_steps
from lowrank.train.schedule import learning_rate
from lowrank.train.task import make_task
from lowrank.train.trainer import Trainer

STEPS = 3


class Noting(Watch):
    """Notes what it is told, and ends the run where it is told to."""

    def __init__(self, unsound: int = 0, last: int = 0) -> None:
        self.unsound, self.last = unsound, last
        self.calls: list[tuple[str, int]] = []
        self.rates: list[float] = []
        self.step = 0

    def before(self, step):
        self.step = step
        self.calls.append(("before", step))

    def sound(self, rate, loss, norm):
        self.calls.append(("sound", self.step))
        self.rates.append(rate)
        return self.step != self.unsound

    def after(self, rate, norm):
        self.calls.append(("after", self.step))
        return self.step != self.last


@pytest.fixture
def trainer(invented_text, tmp_path):
    spec = language_run(training={"steps": STEPS})
    return Trainer(spec, make_task(spec, invented_text, choose_device("cpu")), tmp_path)


def test_each_step_has_the_rate_of_its_place_and_beyond_the_last_the_schedule_begins_again(trainer):
    watch = Noting()
    assert run_steps(trainer, 2 * STEPS + 1, watch)
    rates = [learning_rate(step, trainer.training) for step in range(STEPS)]
    assert len(set(rates)) == STEPS
    assert watch.rates == [*rates, *rates, rates[0]]
    assert trainer.step == 2 * STEPS + 1


def test_batches_follow_from_the_first_one_and_are_cut_in_as_many_parts_as_are_accumulated(
    trainer, monkeypatch
):
    asked, batch = [], trainer.task.batch

    def noted(step, part, parts):
        asked.append((step, part, parts))
        return batch(step, part, parts)

    monkeypatch.setattr(trainer.task, "batch", noted)
    trainer.first_batch = 7
    trainer.training = trainer.training.model_copy(update={"accumulation": 2})
    run_steps(trainer, 2, Watch())
    assert asked == [(7, 0, 2), (7, 1, 2), (8, 0, 2), (8, 1, 2)]


@pytest.mark.parametrize(
    ("ends", "calls", "acted"),
    [({"unsound": 2}, ["before", "sound"], 1), ({"last": 2}, ["before", "sound", "after"], 2)],
)
def test_a_watch_ends_the_run_before_or_after_the_method_acts(ends, calls, acted, trainer):
    did = []
    trainer.life.after_step = lambda run: did.append(run.step)
    trainer.life.at = lambda: (2,)
    trainer.life.event = lambda run: did.append(-run.step)
    watch = Noting(**ends)
    assert not run_steps(trainer, STEPS, watch)
    assert watch.calls[3:] == [(name, 2) for name in calls]
    assert did == ([1] if acted == 1 else [1, 2, -2])
    assert trainer.step == 2
