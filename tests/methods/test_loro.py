"""LORO against the tangent projection and truncation that its factors never form."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from lives import begun, run_of
from torch import nn

from lowrank.experiment.sections import TrainingSpec
from lowrank.factor.convert import factors
from lowrank.methods.loro import LoroOptimizer, tangent_step
from lowrank.optimizers.base import Group
from lowrank.train.run import ensure_run
from lowrank.train.schedule import learning_rate

SGD = TrainingSpec(steps=1, batch=1, optimizer="sgd", momentum=0.0)


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize(("m", "n", "r"), [(7, 6, 2), (6, 7, 3), (5, 4, 4), (4, 4, 3)])
def test_an_exact_step_is_the_truncated_step_along_the_tangent_space(m, n, r):
    U, V, G = drawn(m, r), drawn(n, r, seed=1), drawn(m, n, seed=2)
    W = (U @ V.T).numpy()
    A, s, Bh = np.linalg.svd(W)
    P, Q = A[:, :r] @ A[:, :r].T, Bh[:r].T @ Bh[:r]
    T = P @ G.numpy() + (np.eye(m) - P) @ G.numpy() @ Q
    A, s, Bh = np.linalg.svd(W - 0.1 * T)
    expected = A[:, :r] * s[:r] @ Bh[:r]
    left, right = tangent_step(U, V, G @ V, G.T @ U, 0.1)
    assert (left @ right.T).numpy() == pytest.approx(expected, abs=1e-9)
    for factor in (left, right):
        assert (factor.T @ factor).numpy() == pytest.approx(np.diag(s[:r]), abs=1e-9)


def test_at_full_rank_an_exact_step_is_that_of_the_dense_weight():
    U, V, G = drawn(5, 4), drawn(4, 4, seed=1), drawn(5, 4, seed=2)
    left, right = tangent_step(U, V, G @ V, G.T @ U, 0.1)
    assert torch.allclose(left @ right.T, U @ V.T - 0.1 * G)


def test_factors_without_full_rank_do_no_harm():
    U, V, G = torch.zeros(5, 2), drawn(4, 2).float(), drawn(5, 4).float()
    left, right = tangent_step(U, V, G @ V, G.T @ U, 0.1)
    assert left.isfinite().all() and right.isfinite().all()


def test_every_third_step_is_exact_and_others_are_shorter_by_the_rank_fraction():
    U, V = nn.Parameter(drawn(6, 2)), nn.Parameter(drawn(4, 2, seed=1))
    group = Group("layer", {"U": U, "V": V}, options={"every": 3, "moments": 1})
    optimizer = LoroOptimizer([group], SGD)
    for step in range(1, 7):
        before = U.detach().clone(), V.detach().clone()
        G = drawn(6, 4, seed=step + 5)
        U.grad, V.grad = G @ before[1], G.T @ before[0]
        expected = (
            tangent_step(*before, U.grad, V.grad, 0.1)
            if step % 3 == 0
            else (before[0] - 0.1 * 2 / 4 * U.grad, before[1] - 0.1 * 2 / 4 * V.grad)
        )
        optimizer.param_groups[0]["lr"] = 0.1
        optimizer.step()
        assert torch.allclose(U.detach(), expected[0]) and torch.allclose(V.detach(), expected[1])


def test_after_an_exact_step_factors_are_balanced_and_all_moments_begin_anew(
    invented_text, tmp_path
):
    spec = run_of("loro", options={"every": 5, "warmup": 2})
    subject = begun(spec, invented_text, tmp_path / "run")
    subject.train(5, [], lambda _: None)
    assert subject.optimizer.state() == {}
    for layer in factors(subject.model).values():
        assert torch.allclose(layer.U.T @ layer.U, layer.V.T @ layer.V, atol=1e-5)
    history = ensure_run(spec, invented_text, tmp_path, "cpu").table("history")
    plain = [learning_rate(step, spec.training) for step in range(12)]
    shares = [1, 1, 1, 1, 1, 0.5, 1, 1, 1, 1, 0.5, 1]
    assert list(history["learning_rate"]) == [a * b for a, b in zip(plain, shares, strict=True)]
