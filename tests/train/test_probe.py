"""What is measured inside a run is finite and right wherever the weights are finite."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lowrank.factor.convert import factorize_model
from lowrank.train import probe


@pytest.mark.filterwarnings("ignore:At their rank")
@pytest.mark.parametrize("factorised", [False, True])
@pytest.mark.parametrize("size", [3e37, 1e-36])
def test_measures_scale_with_weights_of_any_finite_size(size, factorised):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 6))
    if factorised:
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


@pytest.mark.filterwarnings("ignore:At their rank")
@pytest.mark.parametrize("factorised", [False, True])
def test_a_weight_that_is_not_finite_measures_as_not_a_number(factorised):
    model = nn.Sequential(nn.Linear(8, 6))
    if factorised:
        factorize_model(model, {"0": 1.0}, rank_fraction=0.5, rank_multiple=1)
    next(model.parameters()).data[0, 0] = float("nan")
    values = probe.singular_values(model[0])
    assert values.shape == ((3,) if factorised else (6,))
    assert values.isnan().all()
