"""The loss of a head over parts of the rows is the cross entropy of its logits."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lowrank.models.networks import head
from lowrank.models.networks.head import head_loss


def tensors(rows: int, dtype: torch.dtype = torch.double) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(rows)
    x, weight = (torch.randn(n, 6, generator=draw, dtype=dtype) for n in (rows, 11))
    return x.requires_grad_(), weight.requires_grad_(), torch.randint(11, (rows,), generator=draw)


def plain(x: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy((x @ weight.T).flatten(0, -2), targets.flatten())


@pytest.mark.parametrize("rows", [1, 3, 4, 13])
def test_loss_and_gradients_are_those_of_the_logits(rows, monkeypatch):
    monkeypatch.setattr(head, "PART", 1)
    monkeypatch.setattr(head, "FEWEST", 4)
    x, weight, targets = tensors(rows)
    loss, expected = head_loss(x, weight, targets), plain(x, weight, targets)
    torch.testing.assert_close(loss, expected)
    for ours, theirs in zip(
        torch.autograd.grad(3 * loss, (x, weight)),
        torch.autograd.grad(3 * expected, (x, weight)),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


def test_examples_by_tokens_are_rows():
    x, weight, targets = tensors(12)
    loss = head_loss(x.unflatten(0, (3, 4)), weight, targets.unflatten(0, (3, 4)))
    torch.testing.assert_close(loss, plain(x, weight, targets))


def test_a_second_backward_pass_gives_the_same_gradients():
    x, weight, targets = tensors(5)
    loss = head_loss(x, weight, targets)
    first, second = (torch.autograd.grad(loss, (x, weight), retain_graph=True) for _ in range(2))
    assert all(a.equal(b) for a, b in zip(first, second, strict=True))


def test_extreme_logits_have_a_finite_loss():
    x, weight, targets = torch.eye(3) * 1e4, torch.eye(3), torch.tensor([1, 1, 2])
    assert float(head_loss(x, weight, targets)) == pytest.approx(1e4 / 3)


def test_only_what_is_trained_gets_a_gradient():
    x, weight, targets = tensors(5)
    head_loss(x, weight.detach(), targets).backward()
    assert x.grad is not None and weight.grad is None
    with torch.no_grad():
        assert not head_loss(x, weight, targets).requires_grad


def test_autocast_computes_the_logits_in_bfloat16():
    x, weight, targets = tensors(5, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        loss = head_loss(x, weight, targets)
    logits = (x.bfloat16() @ weight.bfloat16().T).float()
    torch.testing.assert_close(loss, F.cross_entropy(logits, targets))
    loss.backward()
    assert x.grad.dtype is torch.float32
