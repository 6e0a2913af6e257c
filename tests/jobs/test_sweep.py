"""Sweeps, cells and evaluations: which runs they ask for, what they keep of each, and when they stop."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pandas as pd
import pytest
from stand_ins import cell

from lowrank.errors import LowrankError
from lowrank.experiment.cell import SweepGroup
from lowrank.experiment.rates import read_sweep
from lowrank.experiment.sections import (
    DecaySpec,
    EvaluationSpec,
    FactorSpec,
)
from lowrank.files import write_sealed
from lowrank.jobs import train as jobs
from lowrank.versions import VERSIONS

ANYWHERE = (Path("data"), Path("cache"))


class Finished:
    """What jobs read of a finished run."""

    def __init__(self, spec, **result) -> None:
        self.spec, self.result = spec, result

    def table(self, name: str) -> pd.DataFrame:
        return pd.DataFrame({"step": [1, 2], name: [self.spec.seed, 10.0]})


def sweep_over(monkeypatch, tmp_path, losses, rates, extend=2, seeds=(3,)):
    """The sweep's file, and the rates and kept steps in the order in which they were trained."""
    asked = []

    def trained(spec, data, cache, device, keep=(), *_):
        rate = spec.training.learning_rate
        asked.append((rate, tuple(keep), spec.seed))
        loss = losses(rate)
        found = loss[spec.seed] if isinstance(loss, dict) else loss
        return Finished(spec, validation_loss=found, digest=f"run at {rate:g}")

    monkeypatch.setattr(jobs, "_finished", trained)
    group = SweepGroup(
        name="language/dense",
        choice="learning_rate",
        values=rates,
        extend=extend,
        cell=cell(rate_from="language/dense", seeds=seeds),
    )
    output = tmp_path / "language/dense.json"
    jobs.sweep(group, {}, *ANYWHERE, output, "cpu", [5])
    return json.loads(output.read_text(encoding="utf-8")), asked


def test_a_sweep_keeps_the_rate_with_the_lowest_validation_loss(monkeypatch, tmp_path):
    losses = {0.1: 3.0, 0.2: 2.0, 0.4: 2.5}
    found, asked = sweep_over(monkeypatch, tmp_path, losses.get, (0.2, 0.1, 0.4))
    assert asked == [(0.2, (5,), 3), (0.1, (5,), 3), (0.4, (5,), 3)]
    assert found["learning_rate"] == 0.2
    assert found["at_edge"] is False
    assert (found["group"], found["track"]) == ("language/dense", "language")
    assert found["rates"] == [
        {"learning_rate": r, "seed": 3, "validation_loss": losses[r], "digest": f"run at {r:g}"}
        for r in (0.1, 0.2, 0.4)
    ]


def test_of_several_seeds_the_mean_decides(monkeypatch, tmp_path):
    """Not the best run; and a value that diverged with one seed is the worst."""
    losses = {0.1: {3: 3.0, 4: 1.0}, 0.2: {3: 1.9, 4: 1.9}, 0.4: {3: 0.5, 4: None}}
    found, asked = sweep_over(monkeypatch, tmp_path, losses.get, (0.2, 0.1, 0.4), seeds=(3, 4))
    assert [(rate, seed) for rate, _, seed in asked] == [
        (rate, seed) for rate in (0.2, 0.1, 0.4) for seed in (3, 4)
    ]
    assert found["learning_rate"] == 0.2 and found["at_edge"] is False
    tried = [(row["learning_rate"], row["seed"], row["validation_loss"]) for row in found["rates"]]
    assert tried == [
        (rate, seed, losses[rate][seed]) for rate in (0.1, 0.2, 0.4) for seed in (3, 4)
    ]
    assert read_sweep(tmp_path / "language/dense.json").items() <= found.items()


def test_a_strength_is_swept_at_the_rate_that_was_found(monkeypatch, tmp_path):
    """And not beyond what is given."""

    def trained(spec, *_):
        return Finished(
            spec, validation_loss=abs(spec.factors.decay.strength - 0.3), digest="of the run"
        )

    monkeypatch.setattr(jobs, "_finished", trained)
    decay, name = DecaySpec(kind="frobenius", strength="swept"), "language/low.decay_strength"
    low = cell(
        rate_from="language/low",
        strength_from=name,
        factors=FactorSpec(rank_fraction=0.5, decay=decay),
    )
    group = SweepGroup(name=name, choice="decay_strength", values=(0.2, 0.3), cell=low)
    output = tmp_path / f"{name}.json"
    jobs.sweep(group, {"language/low": 0.02}, *ANYWHERE, output, "cpu")
    found = read_sweep(output)
    assert (found["choice"], found["decay_strength"], found["at_edge"]) == (
        *("decay_strength", 0.3, True),
    )
    assert found["rates"] == [
        {"learning_rate": 0.02, "decay_strength": s, "validation_loss": pytest.approx(0.3 - s)}
        | {"seed": 0, "digest": "of the run"}
        for s in (0.2, 0.3)
    ]
    write_sealed(tmp_path / "language/low.json", sweep())
    assert jobs.read_rates(tmp_path, [low]) == {"language/low": 0.2, name: 0.3}
    assert jobs.read_rates(tmp_path, [group]) == {"language/low": 0.2}


@pytest.mark.parametrize(
    ("best", "extend", "trained", "at_edge"),
    [
        (0.4, 2, [0.1, 0.2, 0.4, 0.8], False),
        (0.8, 2, [0.1, 0.2, 0.4, 0.8], True),
        (0.8, 3, [0.1, 0.2, 0.4, 0.8, 1.6], False),
        (0.05, 2, [0.1, 0.2, 0.05, 0.025], False),
        (0.4, 0, [0.1, 0.2], True),
        (0.4, 1, [0.1, 0.2, 0.4], True),
    ],
)
def test_a_sweep_goes_on_beyond_the_edge_its_best_rate_stands_at(
    best, extend, trained, at_edge, monkeypatch, tmp_path
):
    """By the ratio of its outermost two rates, at most `extend` times."""
    found, asked = sweep_over(
        monkeypatch, tmp_path, lambda rate: abs(math.log(rate / best)), (0.1, 0.2), extend
    )
    rates = [rate for rate, _, _ in asked]
    assert rates == pytest.approx(trained)
    assert found["at_edge"] is at_edge


@pytest.mark.parametrize(
    ("losses", "further"),
    [
        ({0.1: 2.0, 0.2: 1.0}, 0.4),
        ({0.1: 1.0, 0.2: 2.0}, 0.05),
        ({0.1: 2.0, 0.2: 1.0, 0.3: 2.0}, None),
        ({0.1: 1.0}, None),
        ({0.003: 2.0, 0.01: 1.0}, 0.0333),
        ({0.1: 1.0, 0.3: 2.0, 0.5: 3.0}, 0.0333),
        ({0.1: 3.0, 0.3: 2.0, 0.5: 1.0}, 0.833),
    ],
)
def test_the_next_rate_beyond_an_edge_is_rounded_to_three_digits(losses, further):
    assert jobs._beyond(losses) == further


def test_a_rate_that_diverged_is_the_worst_and_all_of_them_are_an_error(monkeypatch, tmp_path):
    found, _ = sweep_over(
        monkeypatch, tmp_path, {0.1: 3.0, 0.2: None, 0.05: 3.5}.get, (0.1, 0.2, 0.05), 0
    )
    assert found["learning_rate"] == 0.1
    assert found["rates"][-1] == {
        "learning_rate": 0.2,
        "seed": 3,
        "validation_loss": None,
        "digest": "run at 0.2",
    }
    with pytest.raises(LowrankError, match="every learning rate of the sweep diverged"):
        sweep_over(monkeypatch, tmp_path, lambda rate: None, (0.1, 0.2), 0)


# Reading sweeps


def sweep(**changes) -> dict:
    rates = [
        {"learning_rate": r, "seed": 3, "validation_loss": loss}
        for r, loss in ((0.1, 3.0), (0.2, 2.0), (0.4, None))
    ]
    return {
        "group": "language/low",
        "choice": "learning_rate",
        "learning_rate": 0.2,
        "at_edge": False,
        "rates": rates,
        **changes,
    }


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, None),
        ({"learning_rate": 0.1}, "0.1 is not the best of what it tried"),
        ({"learning_rate": 0.4}, "0.4 is not the best of what it tried"),
        ({"learning_rate": 0.3}, "KeyError"),
        ({"rates": None}, "TypeError"),
        ({"rates": [{"learning_rate": 0.2, "validation_loss": 2.0}], "seed": 3}, None),
        ({"rates": [{"learning_rate": 0.2, "validation_loss": 2.0}]}, "it does not name the seed"),
        ({"group": "language/dense"}, "it is the sweep of language/dense"),
    ],
)
def test_a_sweep_that_contradicts_itself_is_damaged(changes, message, tmp_path):
    path = tmp_path / "language/low.json"
    write_sealed(path, sweep(**changes))
    if message is None:
        read = read_sweep(path)
        assert read["learning_rate"] == 0.2 and {row["seed"] for row in read["rates"]} == {3}
    else:
        with pytest.raises(LowrankError, match=message):
            read_sweep(path)


def test_rates_are_read_for_every_group_the_cells_name(tmp_path):
    write_sealed(tmp_path / "language/low.json", sweep())
    cells = [cell(rate_from="language/low"), cell("low", rate_from="language/low"), cell("given")]
    assert jobs.read_rates(tmp_path, cells) == {"language/low": 0.2}


# Cells


def test_a_cells_tables_hold_all_its_seeds_with_the_cells_facts(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(
        jobs,
        "_finished",
        lambda spec, data, cache, device, keep=(), *_: (
            asked.append((spec.seed, tuple(keep)))
            or Finished(spec, seed=spec.seed, validation_loss=2.0)
        ),
    )
    jobs.train(cell(seeds=(4, 7)), {}, *ANYWHERE, tmp_path, "cpu", [5])
    assert asked == [(4, (5,)), (7, (5,))]
    runs = pd.read_parquet(tmp_path / "runs.parquet")
    assert runs["seed"].tolist() == [4, 7]
    assert set(runs["cell"]) == {"language/dense"}
    assert runs["steps"].tolist() == [10, 10]
    for name in ("history", "layers", "spectra"):
        table = pd.read_parquet(tmp_path / f"{name}.parquet")
        assert table["seed"].tolist() == [4, 4, 7, 7]
        assert table[name].tolist() == [4, 10.0, 7, 10.0]
        assert set(table["cell"]) == {"language/dense"}


# The test set


class Evaluated:
    """A task that gives one metric after another, and counts."""

    outputs, device = 3, None

    def __init__(self, *metrics) -> None:
        self.metrics, self.asked = list(metrics), []

    def evaluate(self, model, split, limit, batch):
        self.asked.append((model.given, split, limit, batch))
        return self.metrics.pop(0)

    def possible(self, metrics, split, limit):
        return metrics["loss"] == 2.0


class Kept(Finished):
    """A finished run with a folder and a model."""

    def __init__(self, folder: Path, **result) -> None:
        super().__init__(cell().runs({})[0], **{"diverged": False, **result})
        self.folder = folder
        folder.mkdir()
        (folder / "manifest.json").write_text("sealed", encoding="utf-8")

    def model(self, outputs):
        return type("Model", (), {"given": outputs, "to": lambda self, where: self})()


@pytest.fixture
def evaluated(monkeypatch):
    task = Evaluated({"loss": 2.0, "perplexity": math.inf}, {"loss": 3.0}, {"loss": 4.0})
    monkeypatch.setattr(jobs, "make_task", lambda *_: task)
    return task


def test_the_test_set_is_read_once_and_the_metrics_kept(evaluated, tmp_path):
    run, spec = Kept(tmp_path / "run"), EvaluationSpec(test_examples=13, batch=5)
    for _ in range(2):
        assert jobs.test_metrics(run, spec, Path(), "cpu") == {
            "test_loss": 2.0,
            "test_perplexity": None,
        }
    assert evaluated.asked == [(3, "test", 13, 5)]


def test_other_examples_or_another_run_are_read_anew(evaluated, tmp_path):
    run = Kept(tmp_path / "run")
    assert (
        jobs.test_metrics(run, EvaluationSpec(test_examples=13), Path(), "cpu")["test_loss"] == 2.0
    )
    assert (
        jobs.test_metrics(run, EvaluationSpec(test_examples=14), Path(), "cpu")["test_loss"] == 3.0
    )
    (run.folder / "manifest.json").write_text("sealed again", encoding="utf-8")
    assert (
        jobs.test_metrics(run, EvaluationSpec(test_examples=14), Path(), "cpu")["test_loss"] == 4.0
    )


def test_a_diverged_run_has_no_test_metrics(evaluated, tmp_path):
    run = Kept(tmp_path / "run", diverged=True)
    assert jobs.test_metrics(run, EvaluationSpec(), Path(), "cpu") == {}
    assert not evaluated.asked


def test_an_evaluation_has_a_row_a_run(monkeypatch, tmp_path):
    cells = [cell(seeds=(4, 7)), cell("low")]
    monkeypatch.setattr(jobs, "finished_runs", lambda specs, *_: [Finished(one) for one in specs])
    monkeypatch.setattr(jobs, "test_metrics", lambda run, *_: {"test_loss": run.spec.seed + 0.5})
    jobs.evaluate(cells, {}, *ANYWHERE, tmp_path / "language.parquet", "cpu")
    table = pd.read_parquet(tmp_path / "language.parquet")
    assert table.to_dict("list") == {
        "cell": ["language/dense"] * 2 + ["language/low"],
        "seed": [4, 7, 0],
        "test_loss": [4.5, 7.5, 0.5],
        "evaluation_version": [VERSIONS["evaluation"]] * 3,
        "test_examples": [13] * 3,
    }
