"""Moments at the switch: what they would be had the gradient been taken in the factors all along."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lowrank.factor.convert import factorize_model
from lowrank.factor.layers import matricise
from lowrank.factor.moments import carry_moments
from lowrank.optimizers import OPTIMIZERS

ROLES = {**OPTIMIZERS["adamw"].states, **OPTIMIZERS["sgd"].states}


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def switched(dense: nn.Module, matricisation: str):
    """A model of one factorised layer and one dense one, the dense layer as it was, and its shape."""
    model = nn.Sequential(dense, nn.Linear(3, 3))
    shape = dense.weight.shape
    factorize_model(
        model,
        {"0": 1.0},
        rank_fraction=0.5,
        rank_multiple=1,
        init="he",
        matricisation=matricisation,
    )
    return model, shape


CASES = {
    "linear": (lambda: nn.Linear(7, 5), "channel"),
    "channel": (lambda: nn.Conv2d(3, 4, (3, 2)), "channel"),
    "spatial": (lambda: nn.Conv2d(3, 4, (3, 2)), "spatial"),
    "groups": (lambda: nn.Conv2d(4, 6, 3, groups=2), "channel"),
}


@pytest.mark.parametrize("key", ["exp_avg", "momentum_buffer"])
@pytest.mark.parametrize("case", CASES)
def test_a_first_moment_becomes_that_of_the_factors_gradients(case, key):
    """The gradient of <M, W> with W = U V^T, by automatic differentiation."""
    build, matricisation = CASES[case]
    model, shape = switched(build(), matricisation)
    moment = draw(*shape, seed=3)
    carried = carry_moments({f"0.weight/{key}": moment}, model, ["0"], ROLES)
    layer = model[0]
    U, V = (factor.detach().clone().requires_grad_() for factor in (layer.U, layer.V))
    matrix = matricise(build(), matricisation, moment)
    expected = torch.autograd.grad((matrix * (U @ V.mT)).sum(), (U, V))
    assert set(carried) == {f"0.U/{key}", f"0.V/{key}"}
    for side, gradient in zip("UV", expected, strict=True):
        assert carried[f"0.{side}/{key}"] == pytest.approx(gradient, rel=1e-5, abs=1e-6)
        assert carried[f"0.{side}/{key}"].shape == getattr(layer, side).shape


@pytest.mark.parametrize("case", CASES)
def test_a_second_moment_is_that_of_uncorrelated_gradients(case):
    """E[(sum_j G_ij V_jk)^2] = sum_j E[G_ij^2] V_jk^2: entry by entry, and alike for V."""
    build, matricisation = CASES[case]
    model, shape = switched(build(), matricisation)
    moment = draw(*shape, seed=4).square()
    carried = carry_moments({"0.weight/exp_avg_sq": moment}, model, ["0"], ROLES)
    matrix = matricise(build(), matricisation, moment)
    U, V = model[0].U.detach(), model[0].V.detach()
    at_U = torch.einsum("...ij,...jk->...ik", matrix, V * V)
    at_V = torch.einsum("...ij,...ik->...jk", matrix, U * U)
    assert carried["0.U/exp_avg_sq"] == pytest.approx(at_U, rel=1e-5)
    assert carried["0.V/exp_avg_sq"] == pytest.approx(at_V, rel=1e-5)
    assert (carried["0.U/exp_avg_sq"] >= 0).all()


def test_both_factors_go_on_counting_steps_each_for_itself():
    model, _ = switched(nn.Linear(7, 5), "channel")
    carried = carry_moments({"0.weight/step": torch.tensor(17.0)}, model, ["0"], ROLES)
    assert {name: float(step) for name, step in carried.items()} == {
        "0.U/step": 17.0,
        "0.V/step": 17.0,
    }
    carried["0.U/step"] += 1
    assert float(carried["0.V/step"]) == 17.0


@pytest.mark.parametrize("carry", [True, False])
def test_other_parameters_keep_their_state_and_reset_factors_have_none(carry):
    model, shape = switched(nn.Linear(7, 5), "channel")
    others = {
        **{f"1.weight/{key}": draw(3, 3) for key in ("exp_avg", "exp_avg_sq")},
        **{f"0.bias/{key}": draw(5) for key in ("exp_avg", "step")},
    }
    moments = {f"0.weight/{key}": draw(*shape) for key in ("exp_avg", "exp_avg_sq")}
    found = carry_moments({**moments, **others}, model, ["0"], ROLES if carry else None)
    assert all(found[name].equal(tensor) for name, tensor in others.items())
    factors = {f"0.{side}/{key}" for side in "UV" for key in ("exp_avg", "exp_avg_sq")}
    assert set(found) - set(others) == (factors if carry else set())


def test_a_state_with_no_rule_is_an_error_and_not_a_guess():
    model, shape = switched(nn.Linear(7, 5), "channel")
    with pytest.raises(AssertionError, match="no rule to carry the optimiser's 'max_exp_avg_sq'"):
        carry_moments({"0.weight/max_exp_avg_sq": draw(*shape)}, model, ["0"], ROLES)
