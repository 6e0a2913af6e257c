"""Self-guided training by hand: the mixed weight, its share, what goes and what stays."""

from __future__ import annotations

import math

import pytest
import torch
from lives import begun, run_of
from torch import nn

from lowrank.factor.convert import effective_weights, factors
from lowrank.factor.layers import from_dense
from lowrank.methods.self_guided import Guided
from lowrank.train.run import ensure_run


def guided(model: nn.Module) -> dict[str, Guided]:
    return {name: m for name, m in model.named_modules() if isinstance(m, Guided)}


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_output_and_gradients_are_those_of_the_mixed_weight(share):
    """With a share of 1 the layer is the dense one, with 0 the factorised one."""
    torch.manual_seed(0)
    low = from_dense(dense := nn.Linear(5, 4), 2)
    low.set_factors(torch.randn(4, 2), torch.randn(5, 2))
    layer = Guided(dense, low)
    layer.share.fill_(share)
    x = torch.randn(7, 5)
    W = (share * dense.weight + (1 - share) * low.product()).detach().requires_grad_()
    y = x @ W.T + low.bias
    assert torch.allclose(layer(x), y, atol=1e-6)
    assert torch.allclose(layer.dense_weight(), W)
    y.square().sum().backward()
    layer.zero_grad()
    layer(x).square().sum().backward()
    assert torch.allclose(dense.weight.grad, share * W.grad, atol=1e-5)
    assert torch.allclose(low.U.grad, (1 - share) * W.grad @ low.V, atol=1e-5)
    assert torch.allclose(low.V.grad, (1 - share) * W.grad.T @ low.U, atol=1e-5)


def test_the_guide_begins_as_the_product_and_its_share_falls_along_a_cosine(
    invented_text, tmp_path
):
    subject = begun(run_of("self_guided"), invented_text, tmp_path / "run")
    for layer in guided(subject.model).values():
        assert torch.allclose(layer.dense.weight, layer.low.dense_weight(), atol=1e-7)
    shares, before = [], subject.life.before_step

    def noted(run):
        before(run)
        shares.append({float(layer.share) for layer in guided(run.model).values()})

    subject.life.before_step = noted
    subject.train(12, [], lambda _: None)
    found = [share for one in shares[:6] for share in one]
    assert found == pytest.approx([(1 + math.cos(math.pi * t / 6)) / 2 for t in range(6)])
    assert shares[6:] == [set()] * 6


def test_what_is_left_is_the_factors_with_their_moments(invented_text, tmp_path):
    subject = begun(run_of("self_guided"), invented_text, tmp_path / "run")
    subject.train(5, [], lambda _: None)
    before = {key: value.clone() for key, value in subject.optimizer.state().items()}
    layers = guided(subject.model)
    subject.life.event(subject)
    assert factors(subject.model) == {name: layer.low for name, layer in layers.items()}
    after = subject.optimizer.state()
    for key, value in after.items():
        parameter, _, kind = key.rpartition("/")
        layer, _, leaf = parameter.rpartition(".")
        old = f"{layer}.low.{leaf}/{kind}" if layer in layers else key
        assert value.equal(before[old]), key
    assert len(after) == len(before) - 3 * len(layers)  # two moments and a counter of each W


def test_its_flops_and_its_state_are_counted_while_the_guide_is_there(invented_text, tmp_path):
    run = ensure_run(run_of("self_guided"), invented_text, tmp_path, "cpu")
    plain = ensure_run(run_of(None, factors=run.spec.factors.model_copy(
        update={"method": None})), invented_text, tmp_path, "cpu")  # fmt: skip
    for name in ("parameters", "flops_per_position"):
        assert run.result[name] == plain.result[name]
    entries, layers = 2 * 16 * 16 + 2 * 8 * 16 + 3 * 16 * 24, 7
    held = 4 * (4 * entries + layers)  # W, its gradient, two moments; and a counter a layer
    assert run.result["state_bytes"] - plain.result["state_bytes"] == held
    extra = run.result["training_flops"] - plain.result["training_flops"]
    positions = 12 * 4 * 16
    assert extra == pytest.approx(3 * positions / 2 * 2 * entries)
    assert effective_weights(run.model(300)) is not None
