"""What a training loop of one's own takes from here: decay, groups, measures, truncation."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import lowrank
from lowrank.errors import LowrankError
from lowrank.factor.convert import factors


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(6, 20), nn.LayerNorm(20), nn.Linear(20, 16), nn.Embedding(5, 16), nn.Linear(16, 3)
    )
    return lowrank.factorize(net, rank=4, layers="2")


def test_frobenius_decay_is_half_the_squared_norm_of_the_product(model):
    layer = model[2]
    penalty = lowrank.frobenius_decay(model)
    product = (layer.U @ layer.V.T).detach()
    torch.testing.assert_close(penalty, product.square().sum() / 2)
    penalty.backward()
    torch.testing.assert_close(layer.U.grad, product @ layer.V.detach())
    torch.testing.assert_close(layer.V.grad, product.T @ layer.U.detach())


@pytest.mark.parametrize("kind", ["frobenius", "l2"])
def test_attached_decay_moves_factors_by_rate_times_strength(model, kind):
    groups = [{"params": [p], "lr": 0.1 * (i + 1)} for i, p in enumerate(model.parameters())]
    optimizer = torch.optim.SGD(groups, lr=1.0)
    layer = model[2]
    U, V = layer.U.detach().clone(), layer.V.detach().clone()
    rates = {id(g["params"][0]): g["lr"] for g in optimizer.param_groups}
    at_U, at_V = (U @ (V.T @ V), V @ (U.T @ U)) if kind == "frobenius" else (U, V)
    others = [p.detach().clone() for p in model[0].parameters()]
    handle = lowrank.attach_decay(optimizer, model, strength=0.5, kind=kind)
    optimizer.step()
    torch.testing.assert_close(layer.U.detach(), U - rates[id(layer.U)] * 0.5 * at_U)
    torch.testing.assert_close(layer.V.detach(), V - rates[id(layer.U)] * 0.5 * at_V)
    assert all(torch.equal(a, b) for a, b in zip(others, model[0].parameters(), strict=True))
    handle.remove()
    moved = layer.U.detach().clone()
    optimizer.step()
    assert torch.equal(layer.U, moved)


@pytest.mark.parametrize("strength", [-1.0, float("nan"), float("inf")])
def test_a_strength_that_is_none_is_refused(model, strength):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(LowrankError, match="not a number of 0 or more"):
        lowrank.attach_decay(optimizer, model, strength)


def test_an_optimiser_built_before_factorising_is_found_out():
    net = nn.Sequential(nn.Linear(6, 20), nn.Linear(20, 16), nn.Linear(16, 3))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    lowrank.factorize(net, rank=4)
    with pytest.raises(LowrankError, match="build it after factorize"):
        lowrank.attach_decay(optimizer, net, 0.1)


def test_a_dense_model_has_no_factors_to_decay():
    with pytest.raises(LowrankError, match="no factorised layer"):
        lowrank.frobenius_decay(nn.Linear(3, 3))


def test_groups_hold_every_parameter_once(model):
    groups = {group["name"]: group for group in lowrank.parameter_groups(model, 0.3)}
    ids = [id(p) for group in groups.values() for p in group["params"]]
    assert sorted(ids) == sorted(id(p) for p in model.parameters())
    assert {name: group["weight_decay"] for name, group in groups.items()} == {
        "matrices": 0.3,
        "factors": 0.0,
        "vectors": 0.0,
    }
    assert {id(p) for p in groups["factors"]["params"]} == {id(model[2].U), id(model[2].V)}
    assert id(model[3].weight) in {id(p) for p in groups["vectors"]["params"]}
    torch.optim.AdamW(lowrank.parameter_groups(model)).step()


def test_singular_values_and_effective_ranks_are_those_of_the_weights(model):
    layer = model[2]
    values = lowrank.singular_values(model)
    assert list(values) == ["0", "2", "4"]
    dense = torch.linalg.svdvals((layer.U @ layer.V.T).detach())[:4]
    torch.testing.assert_close(values["2"], dense)
    torch.testing.assert_close(values["0"], torch.linalg.svdvals(model[0].weight.detach()))
    assert lowrank.effective_rank(model)["2"] == pytest.approx(float(dense.sum() / dense[0]))


def test_the_report_counts_what_is_there(model):
    report = lowrank.report(model)
    layer = {layer.name: layer for layer in report.layers}["2"]
    assert (layer.kind, layer.shape, layer.rank) == ("Linear", (16, 20), 4)
    assert (layer.dense, layer.kept) == (320, 4 * 36)
    assert layer.break_even == pytest.approx(320 / 36)
    assert report.parameters == sum(p.numel() for p in model.parameters())
    assert report.dense_parameters == report.parameters + 320 - 144
    assert "16 x 20" in str(report) and "1 of 3 layers" in str(report)
    assert "<td>16 x 20</td>" in report._repr_html_()


def data(count: int = 6) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    scale = torch.linspace(0.01, 3, 12)
    return [torch.randn(32, 12, generator=generator) * scale for _ in range(count)]


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 24), nn.Linear(24, 24), nn.BatchNorm1d(24), nn.Linear(24, 5))


@pytest.mark.parametrize("method", ["plain", "whitened"])
def test_truncation_keeps_more_of_the_outputs_when_it_is_told_the_inputs(method):
    model, batches = net(), data()
    inputs = torch.cat(batches)
    with torch.no_grad():
        hidden = model[0](inputs)
        wanted = model[1](hidden)
        lowrank.truncate(model, batches, rank=3, method=method, layers="1")
        error = (model[1](hidden) - wanted).square().sum()
        other = lowrank.truncate(net(), rank=3, method="plain", layers="1")
        plain = (other[1](hidden) - wanted).square().sum()
    assert error < plain * 0.9 if method == "whitened" else torch.isclose(error, plain)


def test_batch_norm_is_estimated_again_on_what_the_truncated_layers_give():
    model, batches = net(), data()
    lowrank.truncate(model, batches, rank=3, layers="1")
    with torch.no_grad():
        hidden = [model[1](model[0](batch)) for batch in batches]
    mean = torch.stack([h.mean(0) for h in hidden]).mean(0)
    torch.testing.assert_close(model[2].running_mean, mean, atol=1e-5, rtol=1e-4)


def test_fisher_takes_the_loss_it_is_given_and_says_when_there_is_none():
    with pytest.raises(LowrankError, match="has no loss"):
        lowrank.truncate(net(), data(), rank=3, method="fisher", layers="1")
    model = lowrank.truncate(
        net(), data(), rank=3, method="fisher", layers="1", loss=lambda m, x: m(x).square().mean()
    )
    assert list(factors(model)) == ["1"]


def test_whitening_without_data_is_refused_and_changes_nothing():
    model = net()
    with pytest.raises(LowrankError, match="No calibration batch reached"):
        lowrank.truncate(model, rank=3, layers="1")
    assert not factors(model)
