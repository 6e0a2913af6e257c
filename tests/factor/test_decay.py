"""Decay's gradients are those of the penalty, coupled or decoupled, and leave no product behind."""

from __future__ import annotations

import pytest
import torch

from lowrank.errors import LowrankError
from lowrank.factor.decay import DECAYS, add_decay_, decay, frobenius_gradients, shrink_


def pair(*lead: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    U = torch.randn(*lead, 7, 3, generator=generator, dtype=torch.float64)
    V = torch.randn(*lead, 5, 3, generator=generator, dtype=torch.float64)
    return U.requires_grad_(), V.requires_grad_()


@pytest.mark.parametrize("lead", [(), (2,)])
def test_frobenius_gradient_equals_autograd_of_the_product(lead):
    U, V = pair(*lead)
    expected = torch.autograd.grad((U @ V.mT).square().sum() / 2, (U, V))
    for got, want in zip(frobenius_gradients(U, V), expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


def test_l2_gradient_equals_autograd_of_the_factors_squares():
    U, V = pair()
    expected = torch.autograd.grad((U.square().sum() + V.square().sum()) / 2, (U, V))
    for got, want in zip(DECAYS["l2"](U, V), expected, strict=True):
        torch.testing.assert_close(got, want)


def test_one_sgd_step_moves_the_product_exactly_as_the_paper_says():
    U, V = pair()
    lr, W = 0.1, (U @ V.T).detach()
    x = torch.randn(9, 5, dtype=torch.float64)

    def loss(product: torch.Tensor) -> torch.Tensor:
        return (x @ product.T).tanh().sum()

    free = W.clone().requires_grad_()
    (G,) = torch.autograd.grad(loss(free), free)
    expected = -lr * (G @ V @ V.T + U @ U.T @ G) + lr**2 * G @ W.T @ G
    optimizer = torch.optim.SGD([U, V], lr=lr)
    loss(U @ V.T).backward()
    expected = expected.detach()
    optimizer.step()
    torch.testing.assert_close((U @ V.T).detach() - W, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", sorted(DECAYS))
def test_coupled_decay_adds_strength_times_the_gradient_to_the_gradients(kind):
    factors = [pair(seed=1), pair(2, seed=2)]
    factors[0][0].grad = torch.ones_like(factors[0][0])
    add_decay_(factors, kind, 0.3)
    for number, (U, V) in enumerate(factors):
        at_U, at_V = (g.detach() for g in DECAYS[kind](U, V))
        torch.testing.assert_close(U.grad, 0.3 * at_U + (number == 0))
        torch.testing.assert_close(V.grad, 0.3 * at_V)


@pytest.mark.parametrize("kind", sorted(DECAYS))
def test_decoupled_decay_moves_both_factors_from_the_same_point(kind):
    U, V = pair()
    before = U.detach().clone(), V.detach().clone()
    gradients = [g.clone() for g in DECAYS[kind](*before)]
    shrink_([(U, V)], kind, 0.05)
    torch.testing.assert_close(U.detach(), before[0] - 0.05 * gradients[0])
    torch.testing.assert_close(V.detach(), before[1] - 0.05 * gradients[1])
    assert U.grad is None
    assert V.grad is None


def test_coupled_and_decoupled_frobenius_decay_agree_under_plain_sgd():
    coupled, decoupled = pair(), pair()
    add_decay_([coupled], "frobenius", 0.2)
    torch.optim.SGD(coupled, lr=0.1).step()
    shrink_([decoupled], "frobenius", 0.1 * 0.2)
    for one, other in zip(coupled, decoupled, strict=True):
        torch.testing.assert_close(one, other)


def test_decay_never_forms_the_product():
    from torch.utils._python_dispatch import TorchDispatchMode

    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            nonlocal largest
            out = func(*args, **(kwargs or {}))
            largest = max(largest, out.numel())
            return out

    U, V = torch.randn(50, 2), torch.randn(40, 2)
    with Watch():
        shrink_([(U, V)], "frobenius", 0.1)
        add_decay_([(U, V)], "frobenius", 0.1)
    assert largest == U.numel()


def test_a_decay_entered_twice_or_unknown_is_an_error():
    with pytest.raises(LowrankError, match="decay 'l2' is defined twice"):
        decay("l2")(lambda U, V: (U, V))
    with pytest.raises(
        LowrankError, match=r"did you mean 'frobenius'.*known are frobenius, l2, none"
    ):
        add_decay_([], "frobenious", 0.1)
    with pytest.raises(LowrankError, match="known are"):
        shrink_([], "weight", 0.1)
