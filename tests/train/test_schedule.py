"""Learning rates, against ones worked out by hand."""

from __future__ import annotations

import pytest

from lowrank.experiment.sections import TrainingSpec
from lowrank.train.schedule import learning_rate


def rates(**training) -> list[float]:
    spec = TrainingSpec(**{"batch": 4, "learning_rate": 1.0, "warmup": 0.0, **training})
    return [learning_rate(step, spec) for step in range(spec.steps)]


@pytest.mark.parametrize(
    ("steps", "milestones", "drops"),
    [
        (100, [0.55], [55]),
        (100, [0.07, 0.14, 0.28, 0.56], [7, 14, 28, 56]),
        (100, [0.29, 0.57, 0.58], [29, 57, 58]),
        (50, [0.58], [29]),
        (25, [0.28], [7]),
        (3, [1 / 3, 2 / 3], [1, 2]),
        (7, [0.5], [4]),
    ],
)
def test_the_rate_drops_at_the_first_step_that_reaches_a_milestone(steps, milestones, drops):
    found = rates(steps=steps, schedule="step", milestones=milestones, drop=0.5)
    assert found == [0.5 ** sum(step >= drop for drop in drops) for step in range(steps)]


@pytest.mark.parametrize("final", [0.0, 0.1, 0.3, 1.0])
@pytest.mark.parametrize("warmup", [0.0, 0.05, 0.5, 0.95])
@pytest.mark.parametrize("steps", [2, 3, 20, 97])
def test_the_cosine_ends_at_its_final_value_exactly(steps, warmup, final):
    found = rates(steps=steps, warmup=warmup, final=final, learning_rate=0.3)
    warming = (2 * round(100 * warmup) * steps + 100) // 200
    assert found[-1] == (0.3 if warming == steps else 0.3 * final)
    assert max(found) <= 0.3
    falling = found[warming:]
    assert falling == sorted(falling, reverse=True)


def test_a_cosine_by_hand():
    """cos(0), cos(60°), cos(120°), cos(180°), between 1 and 0.2."""
    assert rates(steps=4, final=0.2) == pytest.approx([1.0, 0.8, 0.4, 0.2])


@pytest.mark.parametrize(
    ("steps", "warmup", "length"), [(50, 0.05, 3), (50, 0.29, 15), (10, 0.25, 3), (10, 0.04, 0)]
)
def test_warm_up_is_linear_over_its_share_of_the_steps(steps, warmup, length):
    found = rates(steps=steps, warmup=warmup, schedule="step", milestones=[0.9])
    assert found[:length] == pytest.approx([(step + 1) / length for step in range(length)])
    assert found[length] == 1.0
