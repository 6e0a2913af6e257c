"""GaLore, Fira and APOLLO against steps taken by hand in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from lives import begun, run_of
from torch import nn

from lowrank.experiment.sections import FactorSpec, MethodSpec, TrainingSpec
from lowrank.methods.apollo import ApolloOptimizer
from lowrank.methods.fira import FiraOptimizer
from lowrank.methods.galore import GaLoreOptimizer
from lowrank.optimizers.base import Group
from lowrank.train.run import ensure_run

RATE, BETAS, DECAY, RANK = 0.1, (0.9, 0.95), 0.2, 2
SPEC = TrainingSpec(steps=9, batch=1, betas=BETAS)
SHAPES = pytest.mark.parametrize("shape", [(6, 4), (3, 7), (5, 5), (4, 2, 3, 3)])


def moved(kind, shape, steps: int, spec: TrainingSpec = SPEC, **options):
    """A weight of ones after some steps, and the random gradients."""
    weight = nn.Parameter(torch.ones(shape, dtype=torch.float64))
    settings = {"rank": RANK, "every": 3, "scale": 0.5, "seed": 7, "moments": 2, **options}
    optimizer = kind([Group("w", {"w": weight}, DECAY, options=settings)], spec)
    gradients = torch.randn(steps, *shape, generator=torch.Generator().manual_seed(0)).double()
    projectors = []
    for gradient in gradients:
        weight.grad = gradient.clone()
        optimizer.param_groups[0]["lr"] = RATE
        optimizer.step()
        projectors.append(optimizer.state[weight]["projector"].numpy().copy())
    return weight.detach().flatten(1).numpy(), gradients.flatten(2).numpy(), projectors


class Adam:
    """Adam's direction, of the textbook."""

    def __init__(self) -> None:
        self.m = self.v = 0.0
        self.t = 0

    def __call__(self, g):
        self.t += 1
        self.m = BETAS[0] * self.m + (1 - BETAS[0]) * g
        self.v = BETAS[1] * self.v + (1 - BETAS[1]) * g**2
        m, v = self.m / (1 - BETAS[0] ** self.t), self.v / (1 - BETAS[1] ** self.t)
        return m / (np.sqrt(v) + 1e-8)


def by_hand(update, gradients, projectors):
    """The weight after steps of `update(G, P)`, where G has the larger side first; decay decoupled."""
    weight = np.ones(gradients[0].shape)
    for G, P in zip(gradients, projectors, strict=True):
        wide = G.shape[0] < G.shape[1]
        step = update(G.T if wide else G, P)
        weight = weight * (1 - RATE * DECAY) - RATE * (step.T if wide else step)
    return weight


def limited(updates):
    """Updates one after the other, none more than 1.01 times as long as the one before."""
    before = np.inf
    for update in updates:
        norm = min(np.linalg.norm(update), 1.01 * before)
        yield update * norm / np.linalg.norm(update)
        before = norm


@SHAPES
def test_the_projector_is_of_the_top_singular_vectors_and_renewed_in_time(shape):
    _, gradients, projectors = moved(GaLoreOptimizer, shape, 5)
    for step, P in enumerate(projectors):
        G = gradients[step // 3 * 3]
        _, _, Bh = np.linalg.svd(G if G.shape[0] >= G.shape[1] else G.T, full_matrices=False)
        assert pytest.approx(np.eye(RANK), abs=1e-9) == P.T @ P
        assert pytest.approx(Bh[:RANK].T @ Bh[:RANK], abs=1e-9) == P @ P.T


@SHAPES
def test_galore_is_adam_in_the_projected_space(shape):
    found, gradients, projectors = moved(GaLoreOptimizer, shape, 5)
    adam = Adam()
    expected = by_hand(lambda G, P: 0.5 * adam(G @ P) @ P.T, gradients, projectors)
    assert found == pytest.approx(expected, abs=1e-7)


@SHAPES
def test_fira_adds_the_rest_of_the_gradient_at_adams_size_with_a_limited_growth(shape):
    found, gradients, projectors = moved(FiraOptimizer, shape, 5)
    adam, back, rests = Adam(), [], []

    def split(G, P):
        R = G @ P
        N = adam(R)
        phi = np.linalg.norm(N, axis=1) / (np.linalg.norm(R, axis=1) + 1e-8)
        back.append(0.5 * N @ P.T)
        rests.append(phi[:, None] * (G - R @ P.T))
        return back[-1]

    by_hand(split, gradients, projectors)
    steps = (a + b for a, b in zip(back, limited(rests), strict=True))
    expected = by_hand(lambda G, P: next(steps), gradients, projectors)
    assert found == pytest.approx(expected, abs=1e-7)


@pytest.mark.parametrize("per", ["channel", "tensor"])
@SHAPES
def test_apollo_scales_the_gradient_itself(shape, per):
    found, gradients, projectors = moved(ApolloOptimizer, shape, 5, scale=4.0, per=per)
    adam, updates = Adam(), []

    def scaled(G, P):
        R = G @ P
        N = adam(R)
        axis = {"axis": 1, "keepdims": True} if per == "channel" else {}
        phi = np.linalg.norm(N, **axis) / (np.linalg.norm(R, **axis) + 1e-8)
        updates.append(phi * G)
        return G

    by_hand(scaled, gradients, projectors)
    steps = limited(updates)
    expected = by_hand(lambda G, P: 2 * next(steps), gradients, projectors)
    assert found == pytest.approx(expected, abs=1e-7)


def test_apollos_projections_are_normal_drawn_anew_in_time_and_repeatable():
    *_, first = moved(ApolloOptimizer, (500, 400), 4, rank=50, per="channel")
    *_, again = moved(ApolloOptimizer, (500, 400), 4, rank=50, per="channel")
    assert all((a == b).all() for a, b in zip(first, again, strict=True))
    assert (first[0] == first[2]).all() and not (first[0] == first[3]).any()
    assert first[3].shape == (400, 50)
    assert first[3].std() == pytest.approx(50**-0.5, rel=0.02)


@pytest.mark.parametrize(("momentum", "every"), [(0.0, 5), (0.9, 100)])
def test_at_full_rank_and_scale_one_steps_of_sgd_are_those_of_dense_training(
    momentum, every, invented_text, tmp_path
):
    """With momentum as long as the projection stays: it is kept in the projected space."""
    training = run_of(None).training.model_copy(
        update={
            "optimizer": "sgd",
            "learning_rate": 0.1,
            "momentum": momentum,
            "nesterov": momentum > 0,
        }
    )
    method = MethodSpec(name="galore", options={"every": every, "scale": 1.0})
    factors = FactorSpec(rank_fraction=1.0, rank_multiple=1, method=method)
    dense, full = (
        ensure_run(run_of(None, training=training, factors=f), invented_text, tmp_path, "cpu")
        for f in (None, factors)
    )
    assert full.result["parameters"] == dense.result["parameters"]
    assert full.result["training_flops"] == dense.result["training_flops"]
    assert full.table("history")["train_loss"].to_numpy() == pytest.approx(
        dense.table("history")["train_loss"].to_numpy(), rel=1e-5
    )


def test_only_the_chosen_layers_are_projected_and_moments_shrink(invented_text, tmp_path):
    factors = run_of("galore").factors.model_copy(update={"layers": ("mlp",)})
    subject = begun(run_of("galore", factors=factors), invented_text, tmp_path / "run")
    subject.train(1, [], lambda _: None)
    state = subject.optimizer.state()
    projected = {key.rpartition("/")[0] for key in state if key.endswith("/projector")}
    assert projected == {f"model.layers.0.mlp.{n}_proj.weight" for n in ("gate", "up", "down")}
    for name in projected:  # 24 x 16 or 16 x 24, at rank 8
        assert state[f"{name}/projector"].shape == (16, 8)
        assert state[f"{name}/exp_avg"].shape == (24, 8)
    assert state["model.layers.0.self_attn.q_proj.weight/exp_avg"].shape == (16, 16)
