"""Truncation and fine-tuning: on which batches, at which rates, at what cost."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch
from stand_ins import MODEL, Run, Task, cell, install

from lowrank.experiment.build import build_model
from lowrank.experiment.cell import RunSpec
from lowrank.experiment.sections import DecaySpec, FactorSpec, ModelSpec, TrainingSpec
from lowrank.experiment.study import Given, jobs
from lowrank.factor.convert import effective_weights, factors, parameter_count
from lowrank.factor.flops import forward_flops
from lowrank.jobs import posthoc as module
from lowrank.studies.posthoc import PostHocJob, PostHocStudy
from lowrank.train import loop
from lowrank.train.schedule import learning_rate

FACTORS = FactorSpec(
    rank_fraction=0.9, rank_multiple=1, layers=("mlp",), decay=DecaySpec(kind="frobenius")
)
pytestmark = pytest.mark.filterwarnings("ignore:At their rank")


def dense_run(seed: int = 0, diverged: bool = False) -> Run:
    spec = RunSpec(track="language", model=MODEL, training=cell().training, seed=seed)
    return Run(spec, lambda: build_model(spec, 20), diverged)


def truncated(monkeypatch, task=None, runs=None, factors=FACTORS, **study):
    """The table of a study on one dense run, and the task that was asked."""
    task = task or Task(lambda model: 1.0)
    install(monkeypatch, module, {"language/dense": runs or [dense_run()]}, task)
    values = {
        "methods": ("plain",),
        "ranks": (0.25,),
        "fine_tune_steps": (0,),
        "calibration_batches": 3,
    }
    settings = PostHocStudy(**{**values, **study})
    return module.posthoc(settings, factors, cell(), {}, None, None, "cpu"), task


def test_the_study_truncates_what_it_is_told_of_the_model_that_it_reads(monkeypatch):
    expected, _ = truncated(monkeypatch)
    study = PostHocStudy(methods=("plain",), ranks=(0.25,), calibration_batches=3)
    told, place = PostHocJob(study=study, factors=FACTORS), Path("nowhere")
    given = Given(told, [cell()], {}, place, place, "cpu", timed=[], quick=True)
    found = jobs()["posthoc"].run(given)
    assert list(found) == ["posthoc"]
    pd.testing.assert_frame_equal(found["posthoc"], expected)


def test_a_row_says_what_was_done_and_what_is_kept(monkeypatch):
    table, task = truncated(monkeypatch, ranks=(0.25, 0.5), fine_tune_steps=(0, 2))
    assert table[
        ["track", "method", "rank_fraction", "fine_tune_steps", "seed"]
    ].to_numpy().tolist() == [
        ["language", "plain", rank, steps, 0] for rank in (0.25, 0.5) for steps in (0, 2)
    ]
    dense = build_model(dense_run().spec, 20)
    size, flops = parameter_count(dense), forward_flops(dense, task.example())
    for rank, rows in table.groupby("rank_fraction"):
        factor = FACTORS.model_copy(update={"rank_fraction": rank})
        low = build_model(dense_run().spec.model_copy(update={"factors": factor}), 20)
        own = forward_flops(low, task.example())
        assert rows["kept_parameters"].to_numpy() == pytest.approx(parameter_count(low) / size)
        assert rows["kept_flops"].to_numpy() == pytest.approx(own / flops)
        # Ten dense steps of four examples, then as many low-rank ones as were fine-tuned; a backward
        # pass is two forward ones.
        expected = [3 * 4 * (10 * flops + steps * own) for steps in (0, 2)]
        assert rows["training_flops"].to_numpy() == pytest.approx(expected)
    assert task.evaluated == [("test", 13, 5)] * 4
    assert (table["test_loss"] == 1.0).all()


def test_calibration_takes_the_first_batches_whole_and_as_many_as_the_study_says(monkeypatch):
    for count in (1, 3):
        _, task = truncated(monkeypatch, methods=("whitened",), calibration_batches=count)
        assert task.asked == [(step, 0, 1) for step in range(count)]
        assert not any(task.trained)


def test_fine_tuning_goes_on_with_the_batches_after_the_dense_runs(monkeypatch):
    """Ten steps were trained, in two parts each: the eleventh comes next, not the first again."""
    _, task = truncated(monkeypatch, fine_tune_steps=(3,), calibration_batches=1)
    assert task.asked[1:] == [(10 + step, part, 2) for step in range(3) for part in range(2)]
    assert all(task.trained)


def test_each_length_of_fine_tuning_begins_at_the_truncated_model(monkeypatch):
    seen = []
    monkeypatch.setattr(
        module,
        "_fine_tune",
        lambda model, *_: (
            seen.append({n: p.detach().clone() for n, p in model.named_parameters()})
            or [p.data.add_(1) for p in model.parameters()]
        ),
    )
    truncated(monkeypatch, fine_tune_steps=(0, 1, 2))
    assert all(tensor.equal(seen[0][name]) for later in seen[1:] for name, tensor in later.items())


@pytest.mark.parametrize("spoilt", [None, 0, 1])
def test_fine_tuning_has_a_cosine_schedule_of_its_own_and_says_whether_it_stayed_finite(
    spoilt, monkeypatch
):
    """A tenth of the dense run's rate, over as many steps as there are. `spoilt`: loss, or norm."""
    steps = []

    def noted(model, task, parts, optimizer, rate, update):
        steps.append((rate, len(parts), optimizer.factor_decay.kind, model.training))
        found = [torch.tensor(1.0), torch.tensor(1.0)]
        if spoilt is not None and len(steps) == 2:
            found[spoilt] = torch.tensor(float("nan"))
        return tuple(found)

    monkeypatch.setattr(loop, "train_step", noted)
    own = {"schedule": "step", "milestones": (0.5,), "warmup": 0.25}
    training = cell().training.model_copy(update=own)
    spec = dense_run().spec.model_copy(update={"training": training})
    model = build_model(spec, 20).eval()
    assert module._fine_tune(model, Task(), spec, FACTORS, 0.1, 4) is (spoilt is None)
    short = TrainingSpec(steps=4, batch=4, learning_rate=0.002, schedule="cosine", warmup=0.25)
    rates = [pytest.approx(learning_rate(step, short)) for step in range(4)]
    assert steps == [(rate, 2, "frobenius", True) for rate in rates]
    assert module._fine_tune(model, Task(), spec, FACTORS, 0.1, 0) is True
    assert len(steps) == 4


@pytest.mark.parametrize("loss", [1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("finite", [True, False])
def test_fine_tuning_that_diverged_is_marked_and_has_no_metrics(finite, loss, monkeypatch):
    monkeypatch.setattr(module, "_fine_tune", lambda *_: finite)
    table, _ = truncated(monkeypatch, Task(lambda model: loss), fine_tune_steps=(1,))
    good = finite and loss == 1.0
    assert table["diverged"].tolist() == [not good]
    assert table["test_loss"].notna().tolist() == [good]


def test_the_model_evaluated_is_truncated_in_the_layers_of_the_factor_section(monkeypatch):
    models = []
    truncated(monkeypatch, Task(lambda model: models.append(model) or 0.0), ranks=(0.25,))
    dense, low = build_model(dense_run().spec, 20), models[0]
    layers = [f"transformer.h.0.mlp.{name}" for name in ("c_fc", "c_proj")]
    assert list(factors(low)) == layers
    weights, found = effective_weights(dense), effective_weights(low)
    for name, weight in weights.items():
        if name.removesuffix(".weight") in layers:
            A, s, B = torch.linalg.svd(weight.double(), full_matrices=False)
            best = (A[:, :2] * s[:2]) @ B[:2]
            assert found[name].double() == pytest.approx(best, abs=1e-6)
        else:
            assert found[name].equal(weight)


class Images(Task):
    """Batches of random images, and losses that are told one after another; it notes statistics."""

    def __init__(self, *losses: float) -> None:
        told = iter(losses)
        super().__init__(lambda model: next(told))
        self.statistics = []

    def example(self) -> torch.Tensor:
        return torch.zeros(1, 1, 8, 8)

    def batch(self, step: int, part: int, parts: int) -> torch.Tensor:
        self.asked.append((step, part, parts))
        draw = torch.Generator().manual_seed(1000 * step + part)
        return step + torch.randn(4 // parts, 1, 8, 8, generator=draw)

    def loss(self, model: torch.nn.Module, batch: torch.Tensor) -> torch.Tensor:
        self.trained.append(model.training)
        return model(batch).square().mean()

    def evaluate(self, model, split, limit, batch):
        self.statistics.append(model.blocks[0].bn1.running_mean.clone())
        return super().evaluate(model, split, limit, batch)


@pytest.mark.parametrize("length", [0, 2])
def test_batch_norm_is_recomputed_before_the_test_and_the_score_without_is_kept(
    length, monkeypatch
):
    """The first norm sees the first convolution's outputs, which stay dense: their means by hand."""
    shape = ModelSpec(family="wide_resnet", depth=10, width=1, channels=1)
    spec = RunSpec(track="language", model=shape, training=cell().training, seed=0)
    run = Run(spec, lambda: build_model(spec, 20))
    task = Images(3.0, 2.0)
    whole = FACTORS.model_copy(update={"layers": ("conv",)})
    table, _ = truncated(
        monkeypatch, task, [run], whole, fine_tune_steps=(length,), batch_norm_batches=2
    )
    assert table[["stale_test_loss", "test_loss"]].to_numpy().tolist() == [[3.0, 2.0]]
    assert task.evaluated == [("test", 13, 5)] * 2
    assert task.asked[-2:] == [(step, 0, 1) for step in range(2)]
    if length == 0:
        first = run.build().stem
        means = [first(task.batch(step, 0, 1)).mean((0, 2, 3)) for step in range(2)]
        assert not task.statistics[0].any()
        assert task.statistics[1] == pytest.approx(torch.stack(means).mean(0).detach(), abs=1e-5)


def test_runs_that_diverged_are_left_out(monkeypatch):
    runs = [dense_run(0, diverged=True), dense_run(1)]
    table, _ = truncated(monkeypatch, runs=runs)
    assert list(table["seed"]) == [1]
    table, _ = truncated(monkeypatch, runs=runs[:1])
    assert len(table) == 0
    assert list(table.columns) == ["track", "method", "rank_fraction", "fine_tune_steps", "seed"]
