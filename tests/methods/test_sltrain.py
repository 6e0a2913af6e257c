"""SLTrain by hand: the sum of both weights, its gradients, its support."""

from __future__ import annotations

import math

import pytest
import torch
from lives import begun, run_of
from torch import nn

from lowrank.factor.convert import parameter_count
from lowrank.factor.layers import from_dense, matricise
from lowrank.methods.sltrain import SparseLowRank


def layer_of(dense: nn.Module, share: float = 0.3) -> SparseLowRank:
    torch.manual_seed(1)
    layer = SparseLowRank(from_dense(dense, 2), 0.5, share)
    with torch.no_grad():
        count, size = len(layer.values), math.prod(layer.shape)
        layer.places.copy_(torch.randperm(size)[:count].sort().values)
        for parameter in (layer.values, layer.low.U, layer.low.V):
            parameter.copy_(torch.randn(parameter.shape))
    return layer


@pytest.mark.parametrize(
    ("dense", "shape"),
    [
        (nn.Linear(5, 4), (7, 5)),
        (nn.Conv2d(3, 4, 3, 2, 1), (2, 3, 6, 6)),
        (nn.Conv2d(4, 6, (1, 3), groups=2, bias=False), (2, 4, 5, 5)),
    ],
)
def test_outputs_and_gradients_are_those_of_the_sum_of_both_weights(dense, shape):
    layer, x = layer_of(dense), torch.randn(shape)
    weight = layer.dense_weight().detach()
    whole = (
        nn.functional.linear(x, weight.requires_grad_(), dense.bias)
        if isinstance(dense, nn.Linear)
        else nn.functional.conv2d(
            x, weight.requires_grad_(), dense.bias, dense.stride, dense.padding, 1, dense.groups
        )
    )
    assert torch.allclose(layer(x), whole, atol=1e-5)
    whole.square().sum().backward()
    layer(x).square().sum().backward()
    gradient = matricise(dense, tensor=weight.grad).flatten()[layer.places]
    assert torch.allclose(layer.values.grad, gradient, rtol=1e-4, atol=1e-4)


def test_a_conv1d_of_transformers_is_transposed():
    from transformers.pytorch_utils import Conv1D

    dense = Conv1D(4, 4)  # square, so that shapes do not tell
    layer, x = layer_of(dense), torch.randn(7, 4)
    assert torch.allclose(layer(x), x @ layer.dense_weight() + dense.bias, atol=1e-5)


def test_the_support_is_a_share_of_the_entries_drawn_once(invented_text, tmp_path):
    spec = run_of("sltrain", options={"support": 0.1})
    subject = begun(spec, invented_text, tmp_path / "run")
    again = begun(spec, invented_text, tmp_path / "again")
    for (name, layer), other in zip(
        ((n, m) for n, m in subject.model.named_modules() if isinstance(m, SparseLowRank)),
        (m for m in again.model.modules() if isinstance(m, SparseLowRank)),
        strict=True,
    ):
        m, n = layer.shape
        assert len(layer.places.unique()) == len(layer.places) == int(0.1 * m * n), name
        assert layer.places.equal(other.places) and layer.values.equal(other.values)
        assert not layer.low.U.any() and 0 < float(layer.values.abs().max()) <= n**-0.5
    places = {n: b.clone() for n, b in subject.model.named_buffers() if n.endswith("places")}
    subject.train(2, [], lambda _: None)
    assert all(b.equal(places[n]) for n, b in subject.model.named_buffers() if n in places)


def test_only_the_entries_of_the_support_are_parameters(invented_text, tmp_path):
    plain = begun(run_of(None), invented_text, tmp_path / "plain")
    subject = begun(run_of("sltrain", options={"support": 0.1}), invented_text, tmp_path / "run")
    sizes = [m.shape for m in subject.model.modules() if isinstance(m, SparseLowRank)]
    extra = sum(int(0.1 * m * n) for m, n in sizes)
    assert parameter_count(subject.model) == parameter_count(plain.model) + extra
