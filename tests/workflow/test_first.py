"""Jobs with the longest chain of work behind them go first."""

from __future__ import annotations

from pathlib import Path

import pytest

from lowrank.experiment.config import read_config
from lowrank.experiment.experiment import Experiment
from lowrank.workflow.first import behind

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def laptop() -> Experiment:
    return Experiment(read_config(ROOT / "config/laptop.yaml"))


def test_every_job_has_more_behind_it_than_what_waits_for_it(laptop):
    found = behind(laptop)
    grid = laptop.grid
    assert found.keys() == {
        *(f"train {name}" for name in grid.cells),
        *(f"sweep {name}" for name in grid.sweeps),
        *laptop.config.tracks,
    }
    for name, cell in grid.cells.items():
        assert found[f"train {name}"] >= found[cell.track] + cell.training.steps / 2
        if cell.trunk in grid.cells:
            assert found[f"train {cell.trunk}"] > found[f"train {name}"]
        for group in cell.groups:
            assert found[f"sweep {group}"] > found[f"train {name}"]
    for name, sweep in grid.sweeps.items():
        for group in sweep.groups:
            assert found[f"sweep {group}"] > found[f"sweep {name}"]


def test_the_track_that_takes_longest_is_evaluated_while_others_still_train(laptop):
    found = behind(laptop)
    language = [value for name, value in found.items() if "language/" in name]
    others = [value for name, value in found.items() if "train small-images/" in name]
    assert min(language) > max(others)
    assert found["language"] > min(others)


def test_seeds_steps_and_test_examples_count(laptop):
    grid, found = laptop.grid, behind(laptop)
    cell = grid.cells["small-images/he-r0.1"]
    runs = sum(len(c.seeds) for c in grid.of_track("small-images"))
    evaluated = runs * cell.evaluation.test_examples / cell.training.batch / 3
    assert found["small-images"] == pytest.approx(evaluated)
    own = len(cell.seeds) * cell.training.steps
    assert found[f"train {cell.name}"] == pytest.approx(own + evaluated)
