"""DLRT against the integrator by hand, on a quadratic loss whose gradient is known everywhere."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from lives import begun, run_of
from torch import nn

from lowrank.experiment.sections import TrainingSpec
from lowrank.factor.convert import parameter_count
from lowrank.factor.layers import from_dense
from lowrank.methods.dlrt import BASES, DLRT, Core
from lowrank.optimizers.base import Group
from lowrank.train.optimizer import Optimizer
from lowrank.train.run import ensure_run
from lowrank.train.step import train_step

RATE = 0.1
SPEC = TrainingSpec(
    steps=1, batch=1, optimizer="sgd", momentum=0.0, weight_decay=0.0, clip=None, learning_rate=RATE
)


class Run:
    """A model of one layer whose loss is |W - target|_F^2 / 2."""

    def __init__(self, target: torch.Tensor, rank: int) -> None:
        m, n = target.shape
        self.target, self.device = target, torch.device("cpu")
        dense = nn.Linear(n, m, bias=False, dtype=target.dtype)
        low = from_dense(dense, rank)
        draw = torch.Generator().manual_seed(1)
        core = Core(low)
        U, V, S = (torch.randn(k, rank, generator=draw, dtype=target.dtype) for k in (m, n, rank))
        core.stand(torch.linalg.qr(U).Q, S, torch.linalg.qr(V).Q)
        self.model = nn.Sequential(core)
        pair = {"0.low.U": low.U, "0.low.V": low.V}
        groups = [Group("factors", pair, optimizer=BASES, options={"moments": 1})]
        groups.append(Group("matrices", {"0.S": core.S}))
        self.optimizer = Optimizer(self.model, SPEC, None, groups)

    def loss(self, model: nn.Module, batch: object) -> torch.Tensor:
        eye = torch.eye(self.target.shape[1], dtype=self.target.dtype)
        return (model(eye).T - self.target).square().sum() / 2

    def step(self) -> None:
        life = DLRT.__new__(DLRT)
        life.before_step(self)
        update = lambda *arguments: life.update(self, *arguments)  # noqa: E731
        train_step(self.model, self, [None], self.optimizer, RATE, update)


def by_hand(U, S, V, target):
    """One step of the integrator for the gradient W - target."""
    gradient = lambda W: W - target  # noqa: E731
    K = U @ S - RATE * gradient(U @ S @ V.T) @ V
    L = V @ S.T - RATE * gradient(U @ S @ V.T).T @ U
    new_U, new_V = np.linalg.qr(K)[0], np.linalg.qr(L)[0]
    S = (new_U.T @ U) @ S @ (V.T @ new_V)
    S = S - RATE * new_U.T @ gradient(new_U @ S @ new_V.T) @ new_V
    return new_U @ S @ new_V.T


@pytest.mark.parametrize(("m", "n", "rank"), [(6, 5, 2), (4, 7, 3)])
def test_a_step_is_that_of_the_integrator(m, n, rank):
    target = torch.randn(m, n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    run = Run(target, rank)
    (core,) = run.model
    for _ in range(3):
        U, S, V = (t.detach().numpy().copy() for t in (core.low.U, core.S, core.low.V))
        run.step()
        expected = by_hand(U, S, V, target.numpy())
        assert core.dense_weight().detach().numpy() == pytest.approx(expected, abs=1e-10)
        for basis in (core.low.U, core.low.V):
            assert (basis.T @ basis).detach().numpy() == pytest.approx(np.eye(rank), abs=1e-10)


def test_at_full_rank_of_a_square_matrix_a_step_is_that_of_dense_sgd():
    target = torch.randn(5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    run = Run(target, 5)
    (core,) = run.model
    W = core.dense_weight().detach()
    run.step()
    assert torch.allclose(core.dense_weight(), W - RATE * (W - target))


def test_a_gradient_that_is_not_finite_leaves_the_layer_as_it_was():
    run = Run(torch.full((4, 4), float("nan"), dtype=torch.float64), 2)
    (core,) = run.model
    before = [t.detach().clone() for t in (core.low.U, core.S, core.low.V)]
    run.step()
    after = core.low.U, core.S, core.low.V
    assert all(a.equal(b) for a, b in zip(after, before, strict=True))


def test_a_run_begins_at_the_factors_product_and_keeps_a_core_beside_them(invented_text, tmp_path):
    subject = begun(run_of("dlrt"), invented_text, tmp_path / "run")
    plain = begun(run_of(None), invented_text, tmp_path / "plain")
    cores = {n: m for n, m in subject.model.named_modules() if isinstance(m, Core)}
    assert len(cores) == 7
    for name, core in cores.items():
        product = plain.model.get_submodule(name).product()
        assert torch.allclose(core.dense_weight(), product, atol=1e-6)
    subject.train(3, [], lambda _: None)
    for core in cores.values():  # the section's decay of factors would shorten them
        for basis in (core.low.U, core.low.V):
            assert torch.allclose(basis.T @ basis, torch.eye(core.low.rank), atol=1e-5)
    extra = sum(core.low.rank**2 for core in cores.values())
    assert parameter_count(subject.model) == parameter_count(plain.model) + extra


def test_three_passes_are_counted(invented_text, tmp_path):
    result = ensure_run(run_of("dlrt"), invented_text, tmp_path, "cpu").result
    positions = 12 * 4 * 16
    assert result["training_flops"] == pytest.approx(
        3 * 3 * positions * result["flops_per_position"]
    )
