"""The loop: what is logged, probed, validated and kept at which step, and where it stops."""

from __future__ import annotations

import math

import pytest
import torch
from runs import FACTORS, PRETRAINING, image_run, language_run
from torch import nn

from lowrank.experiment.build import build_model
from lowrank.factor.convert import effective_weights, factors
from lowrank.train import checkpoint, loop, trainer
from lowrank.train.run import ensure_run
from lowrank.train.schedule import learning_rate
from lowrank.train.step import train_step
from lowrank.train.task import make_task
from lowrank.train.trainer import Trainer

CPU = torch.device("cpu")


def begun(spec, folder, cache) -> Trainer:
    cache.mkdir(exist_ok=True)
    return Trainer(spec, make_task(spec, folder, CPU), cache)


def colour(run, **model):
    """The run with a model for images of three channels."""
    changes = {"channels": 3, **model}
    return run.model_copy(update={"model": run.model.model_copy(update=changes)})


@pytest.fixture
def trained(invented_text, tmp_path):
    """A trainer of twelve steps, and for each step its rate, loss and gradient norm by the step itself."""
    spec = language_run(
        factors=FACTORS, training={"log_points": 4, "probe_points": 2, "validation_points": 2}
    )
    told, steps = [], []

    def noted(model, task, parts, optimizer, rate, update):
        found = train_step(model, task, parts, optimizer, rate, update)
        steps.append((rate, float(found[0]), float(found[1])))
        return found

    subject = begun(spec, invented_text, tmp_path / "run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "train_step", noted)
        assert subject.train(12, [], told.append) is True
    assert told == [1] * 12
    return subject, steps


def test_a_row_of_history_is_the_mean_loss_since_the_last_and_the_steps_own_rate_and_norm(trained):
    subject, steps = trained
    history = subject.record["history"]
    assert [row["step"] for row in history] == [3, 6, 9, 12]
    for row in history:
        last = row["step"]
        losses = [loss for _, loss, _ in steps[last - 3 : last]]
        assert row["train_loss"] == pytest.approx(sum(losses) / 3, rel=1e-6)
        assert row["learning_rate"] == learning_rate(last - 1, subject.spec.training)
        assert row["gradient_norm"] == pytest.approx(steps[last - 1][2])
    assert [rate for rate, _, _ in steps] == [
        learning_rate(step, subject.spec.training) for step in range(12)
    ]


def test_validation_is_measured_where_it_is_due_on_the_weights_of_that_step(trained):
    subject, _ = trained
    history = subject.record["history"]
    assert [row["step"] for row in history if "validation_loss" in row] == [6, 12]
    metrics = subject.task.evaluate(subject.model, "validation", 16, 8)
    assert {name: history[-1][f"validation_{name}"] for name in metrics} == metrics


def test_probes_stand_at_the_first_step_and_where_they_are_due_with_each_steps_rate(trained):
    subject, _ = trained
    layers = subject.record["layers"]
    names = [t.format(b) for b in range(1) for t in (
        "transformer.h.{}.attn.c_attn", "transformer.h.{}.attn.c_proj",
        "transformer.h.{}.mlp.c_fc", "transformer.h.{}.mlp.c_proj")]  # fmt: skip
    assert [(row["step"], row["layer"]) for row in layers] == [
        (step, name) for step in (1, 6, 12) for name in names
    ]
    for row in layers:
        rate = learning_rate(row["step"] - 1, subject.spec.training)
        assert row["effective_step_size"] == pytest.approx(rate / row["product_norm"] ** 2)
        assert 0 < row["update_norm"] < row["product_norm"]


def test_the_size_of_an_update_is_that_of_the_probed_step_alone(invented_text, tmp_path):
    spec = language_run(training={"steps": 2, "probe_points": 2, "log_points": 1})
    subject = begun(spec, invented_text, tmp_path / "run")
    weights = [effective_weights(subject.model)]
    weights = [{name: tensor.clone() for name, tensor in weights[0].items()}]
    for until in (1, 2):
        subject.train(until, [], lambda _: None)
        weights.append({n: t.clone() for n, t in effective_weights(subject.model).items()})
    for row in subject.record["layers"]:
        name, step = f"{row['layer']}.weight", row["step"]
        change = weights[step][name] - weights[step - 1][name]
        assert row["update_norm"] == pytest.approx(float(change.norm()), rel=1e-4)


def test_accumulation_takes_every_part_of_every_batch_once(invented_text, tmp_path):
    spec = language_run(training={"accumulation": 2, "steps": 3})
    subject = begun(spec, invented_text, tmp_path / "run")
    asked, batch = [], subject.task.batch
    subject.task.batch = lambda *where: (asked.append(where), batch(*where))[1]
    subject.train(3, [], lambda _: None)
    assert asked == [(step, part, 2) for step in range(3) for part in range(2)]


def test_a_probed_run_trains_like_one_that_is_not(invented_text, tmp_path):
    runs = [
        ensure_run(language_run(training=points), invented_text, tmp_path, "cpu")
        for points in (
            {"probe_points": 12, "log_points": 12},
            {"probe_points": 1, "log_points": 12},
        )
    ]
    assert runs[0].table("history")["train_loss"].equals(runs[1].table("history")["train_loss"])


def test_a_model_is_factorised_from_the_first_step_or_from_its_switch(invented_text, tmp_path):
    """Its optimiser is built with it: one that waits for the switch would decay what is gone."""
    low = begun(language_run(factors=FACTORS), invented_text, tmp_path / "low")
    dense = begun(language_run(), invented_text, tmp_path / "dense")
    later = begun(
        language_run(factors=FACTORS, pretraining=PRETRAINING), invented_text, tmp_path / "later"
    )
    assert list(factors(low.model)) == low.layer_names
    assert len(low.optimizer.factors) == 4
    assert not factors(dense.model) and not factors(later.model)
    assert dense.layer_names == low.layer_names
    assert not hasattr(later, "optimizer")


@pytest.mark.parametrize("layout", [False, True])
def test_kernels_lie_in_the_memory_layout_of_the_spec(layout, invented_images, tmp_path):
    training = {"batch": 12, "channels_last": layout}
    model = begun(colour(image_run(training=training)), invented_images, tmp_path / "run").model
    kernels = [p for p in model.parameters() if p.ndim == 4 and p.shape[1] > 1 and p.shape[2] > 1]
    assert kernels
    assert all(k.is_contiguous(memory_format=torch.channels_last) is layout for k in kernels)


# Resuming


@pytest.mark.parametrize("stop", [1, 5, 11])
def test_a_resumed_run_with_dropout_equals_an_unbroken_one(stop, invented_text, tmp_path):
    """Dropout draws from the random state, which a checkpoint holds; whatever was drawn meanwhile."""
    run = language_run(training={"log_points": 12})
    spec = run.model_copy(update={"model": run.model.model_copy(update={"dropout": 0.3})})
    unbroken = ensure_run(spec, invented_text, tmp_path / "unbroken", "cpu")
    ensure_run(spec, invented_text, tmp_path / "broken", "cpu", until=stop)
    torch.manual_seed(99)
    torch.rand(7)
    resumed = ensure_run(spec, invented_text, tmp_path / "broken", "cpu")
    for column in ("train_loss", "gradient_norm", "learning_rate"):
        assert unbroken.table("history")[column].equals(resumed.table("history")[column])
    assert unbroken.table("spectra").equals(resumed.table("spectra"))


def test_dropout_draws_anew_at_every_step_and_seed(invented_text, tmp_path):
    run = language_run(training={"log_points": 12})
    with_dropout = run.model_copy(update={"model": run.model.model_copy(update={"dropout": 0.3})})
    losses = [
        tuple(ensure_run(spec, invented_text, tmp_path, "cpu").table("history")["train_loss"])
        for spec in (run, with_dropout)
    ]
    assert len({round(a - b, 6) for a, b in zip(*losses, strict=True)}) == 12


def test_checkpoints_are_left_at_every_interval_and_at_forks_and_the_last_one_goes(
    invented_text, tmp_path
):
    spec = language_run(training={"checkpoint_every": 4})
    subject = begun(spec, invented_text, tmp_path / "run")
    left = []

    def note(_):
        left.append(sorted(path.name for _, path in checkpoint.saved(subject.folder)))

    subject.train(12, [6], note)
    names = {4: "checkpoint-000000004", 6: "fork-000000006", 8: "checkpoint-000000008"}
    assert left[4] == [names[4]]  # told of step 5
    assert left[6] == [names[4], names[6]]
    assert left[8] == left[11] == [names[8], names[6]]
    assert [p.name for _, p in checkpoint.saved(subject.folder)] == [names[6], names[8]]


def test_the_losses_since_the_last_row_are_kept_across_a_break(invented_text, tmp_path):
    spec = language_run(training={"log_points": 2})
    whole = begun(spec, invented_text, tmp_path / "whole")
    whole.train(12, [], lambda _: None)
    first = begun(spec, invented_text, tmp_path / "broken")
    first.train(4, [4], lambda _: None)
    again = begun(spec, invented_text, tmp_path / "broken")
    again.resume()
    assert again.step == 4
    assert len(again.record["losses"]) == 4
    again.train(12, [], lambda _: None)
    found, expected = (
        [(row["step"], row["train_loss"], row["gradient_norm"]) for row in t.record["history"]]
        for t in (again, whole)
    )
    assert found == expected


def test_resuming_takes_the_newest_checkpoint_that_is_not_beyond_where_it_shall_stand(
    invented_text, tmp_path
):
    spec = language_run()
    begun(spec, invented_text, tmp_path / "run").train(9, [3, 6, 9], lambda _: None)
    for until, step in ((None, 9), (9, 9), (8, 6), (6, 6), (5, 3), (2, 0)):
        subject = begun(spec, invented_text, tmp_path / "run")
        subject.resume(until)
        assert subject.step == step
    subject = begun(spec, invented_text, tmp_path / "run")
    subject.step = 6
    subject.resume(7)
    assert subject.step == 6
    assert not subject.record["history"]


# The switch


@pytest.mark.parametrize("moments", ["carry", "reset"])
def test_a_switched_run_goes_on_from_the_dense_weights_and_moments(
    moments, invented_text, tmp_path
):
    """The state of what stays dense is the dense run's; factors carry moments, or have none."""
    pretraining = PRETRAINING.model_copy(update={"moments": moments})
    whole = FACTORS.model_copy(update={"rank_fraction": 1.0})
    spec = language_run(factors=whole, pretraining=pretraining)
    trunk = spec.trunk()
    dense = begun(trunk, invented_text, tmp_path / "dense")
    dense.train(6, [6], lambda _: None)
    subject = begun(spec, invented_text, tmp_path / "low")
    subject.switch(checkpoint.fork_path(dense.folder, 6))
    assert subject.step == 6
    assert [row["step"] for row in subject.record["history"]] == [2, 4, 6]
    expected = effective_weights(dense.model)
    for name, weight in effective_weights(subject.model).items():
        assert weight == pytest.approx(expected[name], abs=2e-6)
    before, after = dense.optimizer.state(), subject.optimizer.state()
    factor = "transformer.h.0.mlp.c_fc"
    assert after["transformer.wte.weight/exp_avg"].equal(before["transformer.wte.weight/exp_avg"])
    assert after[f"{factor}.bias/exp_avg"].equal(before[f"{factor}.bias/exp_avg"])
    keys = {key for key in after if key.startswith(f"{factor}.U")}
    if moments == "reset":
        assert not keys
    else:
        assert {key.split("/")[1] for key in keys} == {"exp_avg", "exp_avg_sq", "step"}
        assert float(after[f"{factor}.U/step"]) == float(after[f"{factor}.V/step"]) == 6.0


# Divergence


def test_a_batch_that_diverges_leaves_the_statistics_of_before(invented_images, tmp_path):
    """The forward pass has spoilt them by then; a kept model must not hold what is not finite."""
    points = {"log_points": 1, "probe_points": 1}  # step 3 is none of them
    spec = colour(image_run(training={"batch": 12, "steps": 4, **points}))
    subject = begun(spec, invented_images, tmp_path / "run")
    subject.train(2, [], lambda _: None)
    before = {name: buffer.clone() for name, buffer in subject.model.named_buffers()}
    weights = {name: p.detach().clone() for name, p in subject.model.named_parameters()}
    batch = subject.task.batch

    def spoilt(*where):
        images, labels = batch(*where)
        return images * math.nan, labels

    subject.task.batch = spoilt
    assert subject.train(4, [], lambda _: None) is False
    assert subject.record["diverged_at"] == 3
    assert all(b.equal(before[name]) for name, b in subject.model.named_buffers())
    assert all(p.equal(weights[name]) for name, p in subject.model.named_parameters())
    assert subject.train(4, [], lambda _: None) is False
    assert subject.step == 3


@pytest.mark.parametrize(("spoilt", "probes"), [(1, 1), (4, 3), (6, 1), (12, 1)])
def test_weights_that_stopped_being_finite_are_seen_before_they_are_measured_or_kept(
    spoilt, probes, invented_text, tmp_path, monkeypatch
):
    """At probes, forks and the end, though loss and gradient of that step were finite."""
    spec = language_run(training={"log_points": 1, "probe_points": probes})
    subject = begun(spec, invented_text, tmp_path / "run")

    def step(model, task, parts, optimizer, rate, update):
        found = train_step(model, task, parts, optimizer, rate, update)
        if subject.step + 1 == spoilt:
            with torch.no_grad():
                subject.model.transformer.wpe.weight[0, 0] = math.inf
        return found

    monkeypatch.setattr(loop, "train_step", step)
    assert subject.train(12, [6], lambda _: None) is False
    assert subject.record["diverged_at"] == spoilt
    assert all(row["step"] < spoilt for row in subject.record["layers"])
    assert all(number < spoilt for number, _ in checkpoint.saved(subject.folder))


def test_weights_are_finite_or_not():
    spec = language_run(factors=FACTORS)
    subject = Trainer.__new__(Trainer)
    subject.model = build_model(spec, 20)
    assert subject.finite_weights()
    for value in (math.nan, math.inf):
        subject.model = build_model(spec, 20)
        with torch.no_grad():
            subject.model.transformer.h[0].mlp.c_proj.V[1, 1] = value
        assert not subject.finite_weights()


@pytest.mark.parametrize(
    ("losses", "norm", "finite"),
    [([1.0, 2.0], 1.0, True), ([1.0, math.nan], 1.0, False), ([math.inf, 1.0], 1.0, False),
     ([1.0], math.nan, False), ([1.0], math.inf, False)],
)  # fmt: skip
def test_losses_and_norm_must_all_be_finite(losses, norm, finite):
    assert trainer._finite([torch.tensor(x) for x in losses], torch.tensor(norm)) is finite


def test_statistics_are_those_of_batch_norm_alone():
    model = nn.Sequential(nn.BatchNorm2d(2), nn.Linear(2, 2), nn.BatchNorm1d(3))
    kept = trainer._statistics(model)
    assert len(kept) == 6
    assert all(copy.equal(buffer) and copy is not buffer for buffer, copy in kept)


# The clock


def test_the_clock_counts_what_is_not_paused(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(trainer.time, "perf_counter", lambda: now[0])
    record = {"seconds": 5.0}
    with trainer._Clock(record) as clock:
        now[0] += 2
        with clock.paused():
            assert record["seconds"] == 7.0
            now[0] += 10
        now[0] += 1
    assert record["seconds"] == 8.0


def test_seconds_of_a_row_are_those_of_training_alone(trained):
    subject, _ = trained
    seconds = [row["seconds"] for row in subject.record["history"]]
    assert seconds == sorted(seconds)
    assert seconds[0] > 0
    assert subject.record["seconds"] >= seconds[-1] - 1e-9
