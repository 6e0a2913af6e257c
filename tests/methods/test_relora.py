"""ReLoRA by hand: gradients, merges, pruned moments, rates and a warm start."""

from __future__ import annotations

import pytest
import torch
from lives import begun, run_of
from torch import nn

from lowrank.experiment.sections import PretrainingSpec
from lowrank.factor.convert import effective_weights
from lowrank.factor.layers import from_dense
from lowrank.methods.relora import Update
from lowrank.train.run import ensure_run
from lowrank.train.schedule import learning_rate

SETTINGS = {"every": 4, "warmup": 3}


def updates(model: nn.Module) -> dict[str, Update]:
    return {name: m for name, m in model.named_modules() if isinstance(m, Update)}


def test_gradients_are_those_of_the_dense_weight_times_the_other_factor():
    torch.manual_seed(0)
    dense = nn.Linear(5, 4)
    layer = Update(dense, from_dense(dense, 2), 0.3)
    layer.low.set_factors(torch.randn(4, 2), torch.randn(5, 2))
    x = torch.randn(7, 5)
    W = (dense.weight + 0.3 * layer.low.U @ layer.low.V.T).detach().requires_grad_()
    (x @ W.T + dense.bias.detach()).square().sum().backward()
    layer(x).square().sum().backward()
    assert torch.allclose(layer.low.U.grad, 0.3 * W.grad @ layer.low.V, atol=1e-5)
    assert torch.allclose(layer.low.V.grad, 0.3 * W.grad.T @ layer.low.U, atol=1e-5)
    assert dense.weight.grad is None and dense.bias.grad is not None
    assert torch.allclose(layer.dense_weight(), W, atol=1e-6)


def test_a_run_begins_at_the_dense_draw_and_only_updates_move_until_the_merge(
    invented_text, tmp_path
):
    subject = begun(run_of("relora", options=SETTINGS), invented_text, tmp_path / "run")
    began = {n: layer.dense.weight.clone() for n, layer in updates(subject.model).items()}
    assert all(not layer.low.U.any() for layer in updates(subject.model).values())
    subject.train(3, [], lambda _: None)
    for name, layer in updates(subject.model).items():
        assert layer.dense.weight.equal(began[name])
        assert layer.low.U.any()
    weights = {k: t.clone() for k, t in effective_weights(subject.model).items()}
    subject.life.event(subject)
    for key, tensor in effective_weights(subject.model).items():
        assert torch.allclose(tensor, weights[key], atol=1e-7), key
    for name, layer in updates(subject.model).items():
        assert not layer.dense.weight.equal(began[name])
        assert not layer.low.U.any()
        bound = layer.low.V.shape[0] ** -0.5
        assert 0.8 * bound < float(layer.low.V.detach().abs().max()) <= bound


@pytest.mark.parametrize("by", ["random", "magnitude"])
def test_a_share_of_the_factors_moments_is_pruned_and_no_others(by, invented_text, tmp_path):
    options = {**SETTINGS, "prune": 0.75, "by": by}
    subject = begun(run_of("relora", options=options), invented_text, tmp_path / "run")
    subject.train(3, [], lambda _: None)
    before = {key: value.clone() for key, value in subject.optimizer.state().items()}
    subject.life.event(subject)
    kept = total = 0
    for key, value in subject.optimizer.state().items():
        if ".low." not in key or key.endswith("/step"):
            assert value.equal(before[key]), key
            continue
        chosen = value != 0
        assert value[chosen].equal(before[key][chosen])
        kept, total = kept + int(chosen.sum()), total + value.numel()
        if by == "magnitude":
            least = before[key][chosen].abs().min()
            assert int(chosen.sum()) == value.numel() - round(0.75 * value.numel())
            assert (before[key][~chosen].abs() <= least).all()
    assert kept / total == pytest.approx(0.25, abs=0.02)


def test_rates_are_a_jagged_cosine(invented_text, tmp_path):
    spec = run_of("relora", options=SETTINGS)
    history = ensure_run(spec, invented_text, tmp_path, "cpu").table("history")
    plain = [learning_rate(step, spec.training) for step in range(12)]
    shares = [1, 1, 1, 1, 1 / 3, 2 / 3, 1, 1, 1 / 3, 2 / 3, 1, 1]
    assert list(history["learning_rate"]) == pytest.approx(
        [a * b for a, b in zip(plain, shares, strict=True)], rel=1e-12
    )


def test_after_a_warm_start_the_dense_weights_are_those_that_were_trained(invented_text, tmp_path):
    """Restarts and rates are counted from there, and the dense part is the dense arm's own run."""
    start = PretrainingSpec(fraction=0.25, dense_learning_rate=0.01)
    spec = run_of("relora", options=SETTINGS, pretraining=start)
    run = ensure_run(spec, invented_text, tmp_path / "runs", "cpu")
    dense = ensure_run(spec.trunk(), invented_text, tmp_path / "runs", "cpu")
    subject = begun(spec, invented_text, tmp_path / "by-hand")
    fork = tmp_path / "runs" / dense.folder.name / "fork-000000003"
    subject.switch(fork)
    assert list(subject.life.at()) == [7, 11]
    trained = begun(spec.trunk(), invented_text, tmp_path / "dense")
    trained.train(3, [], lambda _: None)
    weights = effective_weights(subject.model)
    for name, tensor in trained.model.state_dict().items():
        assert torch.allclose(weights[name], tensor, atol=1e-7)
    state = subject.optimizer.state()
    norm = "model.norm.weight/exp_avg"
    assert state[norm].equal(trained.optimizer.state()[norm])
    assert not [key for key in state if ".low." in key or ".dense.weight" in key]
    plain = [learning_rate(step, spec.training) for step in range(12)]
    shares = [1, 1, 1, 1 / 3, 2 / 3, 1, 1, 1 / 3, 2 / 3, 1, 1, 1 / 3]
    assert list(run.table("history")["learning_rate"]) == pytest.approx(
        [a * b for a, b in zip(plain, shares, strict=True)], rel=1e-12
    )


def test_no_flops_are_counted_for_gradients_of_frozen_weights(invented_text, tmp_path):
    """A step costs three forward passes of all but the frozen weights, whose gradients nobody takes."""
    spec = run_of("relora", options=SETTINGS)
    result = ensure_run(spec, invented_text, tmp_path, "cpu").result
    plain = ensure_run(run_of(None, factors=spec.factors.model_copy(
        update={"method": None})), invented_text, tmp_path, "cpu").result  # fmt: skip
    positions = 12 * 4 * 16
    frozen = 2 * (
        2 * 16 * 16 + 2 * 8 * 16 + 3 * 16 * 24
    )  # queries and output, keys and values, MLP
    extra = result["training_flops"] - plain["training_flops"]
    assert extra == pytest.approx(2 * positions * frozen)


def test_lora_never_merges_and_after_a_warm_start_its_rate_rises_once(invented_text, tmp_path):
    start = PretrainingSpec(fraction=0.25, dense_learning_rate=0.01)
    spec = run_of("lora", options={"warmup": 3}, pretraining=start)
    run = ensure_run(spec, invented_text, tmp_path / "runs", "cpu")
    plain = [learning_rate(step, spec.training) for step in range(12)]
    shares = [1, 1, 1, 1 / 3, 2 / 3, *[1] * 7]
    assert list(run.table("history")["learning_rate"]) == pytest.approx(
        [a * b for a, b in zip(plain, shares, strict=True)], rel=1e-12
    )
    cold = run_of("lora", options={"warmup": 3})
    subject = begun(cold, invented_text, tmp_path / "cold")
    began = {n: layer.dense.weight.clone() for n, layer in updates(subject.model).items()}
    subject.train(12, [], lambda _: None)
    assert all(m.dense.weight.equal(began[n]) for n, m in updates(subject.model).items())
    rates = [row["learning_rate"] for row in subject.record["history"]]
    assert rates == [learning_rate(step, cold.training) for step in range(12)]
