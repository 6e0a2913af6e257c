"""Spectron against a step by hand in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from lives import begun, run_of
from torch import nn

from lowrank.experiment.sections import TrainingSpec
from lowrank.factor.convert import factors
from lowrank.methods.spectron import SpectronOptimizer, operator_norm, orthogonalised
from lowrank.optimizers.base import Group


def newton_schulz(M):
    """Muon's polynomial, applied to singular values that are known."""
    A, s, Bh = np.linalg.svd(M, full_matrices=False)
    s = s / np.linalg.norm(s)
    for _ in range(5):
        s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
    return A @ np.diag(s) @ Bh


@pytest.mark.parametrize("shape", [(6, 3), (3, 6), (4, 4)])
def test_the_iteration_brings_singular_values_near_one_and_leaves_directions(shape):
    M = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = orthogonalised(M)
    assert found.numpy() == pytest.approx(newton_schulz(M.numpy()), abs=1e-9)
    assert torch.linalg.svdvals(found) == pytest.approx(np.ones(min(shape)), abs=0.35)


def test_a_gradient_of_zero_moves_nothing():
    assert not orthogonalised(torch.zeros(2, 4, 3)).any()


def test_the_norm_is_exact_at_first_and_follows_a_matrix_that_moves():
    W, state = torch.diag(torch.tensor([3.0, 2.0, 1.0])), {}
    assert float(operator_norm(W, state)) == pytest.approx(3.0)
    W[0, 1] = 0.1
    for _ in range(20):
        found = operator_norm(W, state)
    assert float(found) == pytest.approx(float(torch.linalg.matrix_norm(W, 2)), rel=1e-5)


def test_three_steps_are_those_taken_by_hand_and_the_product_moves_by_at_most_the_rate():
    draw = torch.Generator().manual_seed(0)
    U, V = (nn.Parameter(torch.randn(m, 2, generator=draw, dtype=torch.float64)) for m in (5, 4))
    group = Group("layer", {"U": U, "V": V}, options={"beta": 0.8})
    optimizer = SpectronOptimizer([group], TrainingSpec(steps=1, batch=1))
    by_hand = [p.detach().numpy().copy() for p in (U, V)]
    means = [np.zeros_like(p) for p in by_hand]
    for _ in range(3):
        before = by_hand[0] @ by_hand[1].T
        for p in (U, V):
            p.grad = torch.randn(p.shape, generator=draw, dtype=torch.float64)
        norms = [float(operator_norm(p.detach(), dict(optimizer.state[p]))) for p in (U, V)]
        means = [0.8 * m + 0.2 * p.grad.numpy() for m, p in zip(means, (U, V), strict=True)]
        rho = 0.1 / (sum(norms) + 1)
        by_hand = [p - rho * newton_schulz(m) for p, m in zip(by_hand, means, strict=True)]
        optimizer.param_groups[0]["lr"] = 0.1
        optimizer.step()
        moved = np.linalg.norm(by_hand[0] @ by_hand[1].T - before, 2)
        assert moved <= 0.1 * 1.35  # Newton-Schulz overshoots
    assert U.detach().numpy() == pytest.approx(by_hand[0], abs=1e-9)
    assert V.detach().numpy() == pytest.approx(by_hand[1], abs=1e-9)


def test_factors_are_spectrons_and_all_else_is_the_sections_optimisers(invented_text, tmp_path):
    subject = begun(run_of("spectron"), invented_text, tmp_path / "run")
    subject.train(1, [], lambda _: None)
    state = subject.optimizer.state()
    own = {key.rpartition("/")[0] for key in state if key.endswith("/u")}
    assert own == {f"{name}.{side}" for name in factors(subject.model) for side in "UV"}
    others = {key.rpartition("/")[0] for key in state if key.endswith("/exp_avg_sq")}
    assert "lm_head.weight" in others and not own & others
