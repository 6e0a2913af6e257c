"""What is measured inside a run equals the same measured on the product, in plain double precision."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from lowrank.factor.convert import factorize_model
from lowrank.factor.layers import from_dense
from lowrank.train import probe

COLUMNS = {
    *("layer", "product_norm", "update_norm", "effective_step_size", "effective_rank"),
    *("entropy_rank", "stable_rank", "largest_possible_rank"),
}


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def factorized(dense: nn.Module, rank: int, matricisation: str = "channel") -> nn.Module:
    layer = from_dense(dense, rank, matricisation)
    layer.set_factors(draw(*layer.U.shape, seed=1), draw(*layer.V.shape, seed=2))
    return layer


LAYERS = {
    "dense": lambda: nn.Linear(7, 5),
    "dense convolution": lambda: nn.Conv2d(3, 4, 3),
    "factors": lambda: factorized(nn.Linear(7, 5), 3),
    "channel": lambda: factorized(nn.Conv2d(3, 4, 3), 2),
    "spatial": lambda: factorized(nn.Conv2d(3, 4, 3), 4, "spatial"),
}


def matrix_of(layer: nn.Module) -> torch.Tensor:
    if hasattr(layer, "U"):
        return layer.U.detach().double() @ layer.V.detach().double().mT
    return layer.weight.detach().double().flatten(1)


def moved(layer: nn.Module, by: float = 0.1) -> None:
    with torch.no_grad():
        for seed, parameter in enumerate(layer.parameters()):
            parameter.add_(by * draw(*parameter.shape, seed=10 + seed))


@pytest.mark.parametrize("name", LAYERS)
def test_a_row_equals_what_the_whole_matrices_give(name):
    model = nn.Sequential(LAYERS[name](), nn.ReLU())
    before = probe.snapshot(model, ["0"])
    then = matrix_of(model[0])
    moved(model[0])
    now = matrix_of(model[0])
    (row,) = probe.measure(model, ["0"], 0.03, before)
    assert row.keys() == COLUMNS
    values = torch.linalg.svdvals(now)
    share = values / values.sum()
    share = share[share > 1e-12]
    assert row["layer"] == "0"
    assert row["product_norm"] == pytest.approx(float(now.norm()), rel=1e-5)
    assert row["update_norm"] == pytest.approx(float((now - then).norm()), rel=1e-5)
    assert row["effective_step_size"] == pytest.approx(0.03 / float(now.norm()) ** 2, rel=1e-5)
    assert row["effective_rank"] == pytest.approx(float(values.sum() / values[0]), rel=1e-4)
    assert row["entropy_rank"] == pytest.approx(
        math.exp(-float((share * share.log()).sum())), rel=1e-4
    )
    assert row["stable_rank"] == pytest.approx(float(now.norm() / values[0]) ** 2, rel=1e-4)
    assert row["largest_possible_rank"] == (
        model[0].rank if hasattr(model[0], "rank") else min(now.shape)
    )


def test_an_update_that_keeps_the_norm_still_has_a_size():
    """The norm of the difference, not the difference of the norms: a rotated weight has moved."""
    model = nn.Sequential(nn.Linear(2, 2, bias=False), factorized(nn.Linear(2, 2, bias=False), 1))
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[3.0, 0.0], [0.0, 0.0]]))
        model[1].set_factors(torch.tensor([[3.0], [0.0]]), torch.tensor([[1.0], [0.0]]))
    before = probe.snapshot(model, ["0", "1"])
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([[0.0, 0.0], [0.0, 3.0]]))
        model[1].set_factors(torch.tensor([[0.0], [3.0]]), torch.tensor([[0.0], [1.0]]))
    for row in probe.measure(model, ["0", "1"], 0.1, before):
        assert row["product_norm"] == pytest.approx(3)
        assert row["update_norm"] == pytest.approx(math.sqrt(18), rel=1e-6)
        assert row["effective_step_size"] == pytest.approx(0.1 / 9)


def test_groups_are_matrices_of_their_own_whose_ranks_are_averaged_and_whose_norms_add_up():
    model = nn.Sequential(factorized(nn.Conv2d(4, 6, 3, groups=2), 2))
    layer = model[0]
    before = probe.snapshot(model, ["0"])
    (row,) = probe.measure(model, ["0"], 1.0, before)
    products = layer.U.detach().double() @ layer.V.detach().double().mT
    values = torch.linalg.svdvals(products)[:, :2]
    assert row["product_norm"] == pytest.approx(float(products.norm()), rel=1e-5)
    assert row["effective_rank"] == pytest.approx(
        float((values.sum(1) / values[:, 0]).mean()), rel=1e-4
    )
    assert row["stable_rank"] == pytest.approx(
        float((values.square().sum(1) / values[:, 0].square()).mean()), rel=1e-4
    )
    assert row["update_norm"] == 0
    assert row["largest_possible_rank"] == 2
    with torch.no_grad():
        layer.U[1] += 1
    (row,) = probe.measure(model, ["0"], 1.0, before)
    change = layer.U.detach().double() @ layer.V.detach().double().mT - products
    assert row["update_norm"] == pytest.approx(float(change.norm()), rel=1e-5)


def test_a_zero_matrix_has_an_infinite_step_and_no_rank():
    model = nn.Sequential(nn.Linear(3, 3))
    nn.init.zeros_(model[0].weight)
    (row,) = probe.measure(model, ["0"], 0.1, probe.snapshot(model, ["0"]))
    assert row["effective_step_size"] == math.inf
    assert (
        row["product_norm"]
        == row["effective_rank"]
        == row["stable_rank"]
        == row["entropy_rank"]
        == 0
    )


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("name", LAYERS)
def test_a_matrix_that_is_not_finite_has_no_singular_values(name, value):
    layer = LAYERS[name]()
    with torch.no_grad():
        next(iter(layer.parameters()))[0, 0] = value
    found = probe.singular_values(layer)
    count = layer.rank if hasattr(layer, "rank") else min(matrix_of(layer).shape)
    assert found.shape == (count,)
    assert found.isnan().all()


@pytest.mark.filterwarnings("ignore:At their rank")
@pytest.mark.parametrize("factorized", [False, True])
@pytest.mark.parametrize("size", [3e37, 1e-36])
def test_measures_scale_with_weights_of_any_finite_size(size, factorized):
    torch.manual_seed(0)
    torch.set_flush_denormal(False)  # a run sets it for its process; here small weights are to stay
    model = nn.Sequential(nn.Linear(8, 6))
    if factorized:
        factorize_model(model, {"0": 1.0}, rank_fraction=0.5, rank_multiple=1)

    def rows(scale: float) -> dict[str, float]:
        weight = next(model.parameters()).data
        kept = weight.clone()
        before = probe.snapshot(model, ["0"])
        before["0"][0] *= scale
        weight.mul_(-scale)
        (row,) = probe.measure(model, ["0"], 0.1, before)
        weight.copy_(kept)
        return row

    plain, scaled = rows(1.0), rows(size)
    assert scaled["product_norm"] == pytest.approx(plain["product_norm"] * size, rel=1e-5)
    assert scaled["update_norm"] == pytest.approx(plain["update_norm"] * size, rel=1e-5)
    steps = plain["effective_step_size"], scaled["effective_step_size"]
    assert steps[1] == pytest.approx(steps[0] / size**2, rel=1e-5)
    for name in ("effective_rank", "entropy_rank", "stable_rank", "largest_possible_rank"):
        assert scaled[name] == pytest.approx(plain[name], rel=1e-5)


@pytest.mark.parametrize("name", LAYERS)
def test_singular_values_are_those_of_the_matrix_largest_first(name):
    layer = LAYERS[name]()
    found = probe.singular_values(layer)
    expected = torch.linalg.svdvals(matrix_of(layer))[: len(found)]
    assert found.double() == pytest.approx(expected, rel=1e-4)


def test_a_snapshot_does_not_follow_the_model():
    model = nn.Sequential(factorized(nn.Linear(4, 4), 2), nn.Linear(4, 4))
    kept = probe.snapshot(model, ["0", "1"])
    copies = {name: [t.clone() for t in tensors] for name, tensors in kept.items()}
    moved(model)
    assert [len(tensors) for tensors in kept.values()] == [2, 1]
    for name, tensors in kept.items():
        assert all(a.equal(b) for a, b in zip(tensors, copies[name], strict=True))
        assert not any(t.requires_grad for t in tensors)


def test_the_effective_step_size_is_infinite_at_a_zero_weight():
    model = nn.Sequential(nn.Linear(3, 2))
    nn.init.zeros_(model[0].weight)
    (row,) = probe.measure(model, ["0"], 0.5, probe.snapshot(model, ["0"]))
    assert row["effective_step_size"] == math.inf
