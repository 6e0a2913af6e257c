"""Tanh-GELU in parts is torch's own, value and derivative."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from lowrank.models.networks import gelu
from lowrank.models.networks.gelu import gelu_tanh


def pair(x: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Value and gradient of ours, and of torch's in double precision."""
    found = []
    for function, dtype in (
        (gelu_tanh, x.dtype),
        (lambda t: F.gelu(t, approximate="tanh"), torch.double),
    ):
        leaf = x.clone().to(dtype).requires_grad_()
        y = function(leaf)
        y.sum().backward()
        found.append((y.detach(), leaf.grad))
    return found


@pytest.mark.parametrize("size", [1, gelu.PART - 1, gelu.PART, 2 * gelu.PART + 7])
def test_values_and_gradients_are_torchs_whatever_the_parts(size):
    x = torch.linspace(-12, 12, size)
    (y, gradient), (expected, slope) = pair(x)
    torch.testing.assert_close(y.double(), expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(gradient.double(), slope, rtol=3e-6, atol=3e-6)


def test_the_derivative_is_exact_in_double_precision():
    x = torch.randn(5, 7, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(gelu_tanh, x)


def test_large_numbers_and_zero_have_their_limits():
    x = torch.tensor([-1e4, -50.0, -0.0, 0.0, 50.0, 1e4])
    (y, gradient), _ = pair(x)
    assert y.tolist() == [0, 0, 0, 0, 50, 1e4]
    assert gradient.tolist() == pytest.approx([0, 0, 0.5, 0.5, 1, 1], abs=1e-6)


def test_not_a_number_stays_one():
    assert gelu_tanh(torch.tensor([float("nan"), 1.0])).isnan().tolist() == [True, False]


def test_layouts_other_than_contiguous_are_taken():
    x = torch.randn(6, 4, dtype=torch.double).T.requires_grad_()
    torch.testing.assert_close(gelu_tanh(x), F.gelu(x, approximate="tanh"))
    assert torch.autograd.gradcheck(gelu_tanh, x)


def test_bfloat16_is_left_to_torch():
    x = torch.randn(9, dtype=torch.bfloat16)
    assert gelu_tanh(x).equal(F.gelu(x, approximate="tanh"))


def test_it_is_the_same_without_gradients():
    x = torch.randn(3, 5)
    with torch.no_grad():
        without = gelu_tanh(x)
    assert without.equal(gelu_tanh(x.clone().requires_grad_()).detach())
