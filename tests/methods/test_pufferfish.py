"""Pufferfish: what the switch does to weights, moments, blocks and costs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from lives import LLAMA, begun, run_of

from lowrank.errors import LowrankError
from lowrank.factor.convert import effective_weights, factors
from lowrank.train.run import ensure_run

TWO = LLAMA.model_copy(update={"depth": 2})


def test_layers_of_later_blocks_become_balanced_factors_of_their_best_approximation(
    invented_text, tmp_path
):
    subject = begun(run_of("pufferfish", model=TWO), invented_text, tmp_path / "run")
    assert not factors(subject.model) and list(subject.life.at()) == [3]
    subject.train(2, [], lambda _: None)
    before = {k: t.clone() for k, t in effective_weights(subject.model).items()}
    state = {k: t.clone() for k, t in subject.optimizer.state().items()}
    subject.life.event(subject)
    found = factors(subject.model)
    assert len(found) == 7 and all(name.startswith("model.layers.1.") for name in found)
    for key, tensor in effective_weights(subject.model).items():
        name = key.removesuffix(".weight")
        if name not in found:
            assert tensor.equal(before[key])
            continue
        rank = found[name].rank
        A, s, Bh = np.linalg.svd(before[key].numpy(), full_matrices=False)
        best = A[:, :rank] * s[:rank] @ Bh[:rank]
        assert tensor.numpy() == pytest.approx(best, abs=1e-5)
        U, V = found[name].U, found[name].V
        assert torch.allclose(U.T @ U, V.T @ V, atol=1e-5)
    after = subject.optimizer.state()
    assert not [key for key in after if key.endswith((".U/step", ".V/step"))]
    assert all(value.equal(state[key]) for key, value in after.items())
    assert "model.layers.0.mlp.up_proj.weight/exp_avg" in after


def test_at_full_rank_the_switch_changes_no_output(invented_text, tmp_path):
    factor = run_of("pufferfish").factors.model_copy(update={"rank_fraction": 1.0})
    spec = run_of("pufferfish", model=TWO, factors=factor)
    subject = begun(spec, invented_text, tmp_path / "run")
    tokens = torch.arange(32).reshape(2, 16)
    before = subject.model(tokens)
    subject.life.event(subject)
    assert torch.allclose(subject.model(tokens), before, atol=1e-5)


def test_both_phases_are_counted(invented_text, tmp_path):
    """Dense for 3 of 12 steps (80 of 300), then at half the rank in the second block."""
    runs = {
        name: ensure_run(run_of(name, model=TWO, factors=f), invented_text, tmp_path, "cpu")
        for name, f in (
            (None, None),
            ("pufferfish", run_of("pufferfish").factors),
        )
    }
    dense, low = runs[None].result, runs["pufferfish"].result
    positions = 12 * 4 * 16
    expected = (
        3 * positions * (0.25 * dense["flops_per_position"] + 0.75 * low["flops_per_position"])
    )
    assert low["training_flops"] == pytest.approx(expected)
    assert low["parameters"] < dense["parameters"]


def test_blocks_that_leave_nothing_to_factorise_are_refused_before_the_first_step(
    invented_text, tmp_path
):
    spec = run_of("pufferfish", options={"dense_blocks": 1})
    with pytest.raises(LowrankError, match=r"dense_blocks: 1 leave no layer .* a number below 1"):
        begun(spec, invented_text, tmp_path / "run")
