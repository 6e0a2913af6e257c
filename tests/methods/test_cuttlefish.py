"""Cuttlefish: when ranks have settled, what they become, and what is kept across a resume."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from lives import begun, run_of

from lowrank.factor.convert import choose_rank, factors
from lowrank.files import read_json
from lowrank.methods.cuttlefish import settled, smoothed
from lowrank.train.run import ensure_run

OPTIONS = {"measures": 12, "window": 2, "dense_blocks": 0}


def test_ranks_are_smoothed_by_an_exponential_mean():
    values = torch.tensor([[4.0], [1.0], [1.0]])  # a window of 3 weighs the new one by a half
    assert smoothed(values, 3).flatten().tolist() == [4.0, 2.5, 1.75]


def test_a_layer_settles_once_its_last_changes_are_small_and_stays_settled():
    still, moving = torch.full((6,), 3.0), torch.arange(6.0) * 4
    again = torch.tensor([3.0, 3.0, 3.0, 9.0, 20.0, 40.0])
    table = torch.stack([still, moving, again], dim=1)
    assert settled(table, 2, 0.1).tolist() == [True, False, True]
    assert settled(table[:2], 2, 0.1).tolist() == [False, False, False]  # one change is too few
    assert settled(table, 2, 100.0).tolist() == [True, True, True]


def test_ranks_are_scaled_stable_ranks_of_the_trained_weights(invented_text, tmp_path):
    spec = run_of("cuttlefish", options={**OPTIONS, "threshold": 100.0, "least": 0.01})
    subject = begun(spec, invented_text, tmp_path / "run")

    def stable():
        return {
            name: float((s**2).sum() / s[0] ** 2)
            for name, weight in subject.model.state_dict().items()
            if weight.ndim == 2 and "_proj." in name
            for s in [np.linalg.svd(weight.double().numpy(), compute_uv=False)]
        }

    first = stable()
    event, seen = subject.life.event, {}

    def noted(run):
        with torch.no_grad():  # as training for long would: a few directions grow
            for name, weight in run.model.state_dict().items():
                if "mlp" in name and weight.ndim == 2:
                    A, s, Bh = torch.linalg.svd(weight, full_matrices=False)
                    weight.copy_(A * (3 * s[0] * 0.6 ** torch.arange(len(s))) @ Bh)
        seen[run.step] = stable()
        event(run)

    subject.life.event = noted
    subject.train(12, [], lambda _: None)
    found = {f"{name}.weight": layer for name, layer in factors(subject.model).items()}
    switch = subject.life.changes[-1][0]
    assert switch == 2  # two small changes after the first measurement
    for name, value in seen[switch].items():
        m, n = subject.model.get_submodule(name.removesuffix(".weight")).dense_weight().shape \
            if name in found else subject.model.state_dict()[name].shape  # fmt: skip
        rank = choose_rank(m, n, min(1.0, value / first[name]), 4)
        if rank * (m + n) < m * n:
            assert found[name].rank == rank, name
        else:
            assert name not in found
    assert {name.split(".")[3] for name in found} == {"mlp"}


def test_ranks_follow_the_fall_of_stable_ranks_within_bounds_and_where_they_make_layers_smaller(
    invented_text, tmp_path
):
    """0.375 is the least: rank 4 of 8 x 16, and 8 of 24 x 16, which would be 4; 16 x 16 gains nothing."""
    spec = run_of("cuttlefish", options={**OPTIONS, "least": 0.375})
    subject = begun(spec, invented_text, tmp_path / "run")
    shapes = subject.life.matrix_shapes(subject.model)
    q, k, v, o, gate, up, down = shapes
    assert list(shapes.values()) == [
        (16, 16),
        (8, 16),
        (8, 16),
        (16, 16),
        *[(24, 16)] * 2,
        (16, 24),
    ]
    ratios = {q: 0.1, k: 0.1, v: 4.0, o: 0.5, gate: 0.1, up: 0.6, down: 0.8}
    first = torch.full((7,), 2.0)
    subject.life.measured = torch.stack(
        [first, torch.ones(7), 2 * torch.tensor(list(ratios.values()))]
    )
    assert subject.life.ranks(subject) == {k: 4, gate: 8, up: 8}


def test_a_run_that_does_not_settle_is_factorised_at_the_latest_step(invented_text, tmp_path):
    spec = run_of("cuttlefish", options={**OPTIONS, "threshold": 0.0, "latest": 0.75})
    run = ensure_run(spec, invented_text, tmp_path, "cpu")
    changes = read_json(run.folder / "manifest.json")["method"]["ranks"]
    assert [step for step, _ in changes] == [0, 9]
    dense = run.result["flops_per_position"] / run.result["kept_flops"]
    expected = 3 * 12 * 4 * 16 * (0.75 * dense + 0.25 * run.result["flops_per_position"])
    assert run.result["training_flops"] == pytest.approx(expected)


def test_measurements_go_on_after_a_resume(invented_text, tmp_path):
    spec = run_of("cuttlefish", options={**OPTIONS, "threshold": 0.0, "latest": 0.75})
    ensure_run(spec, invented_text, tmp_path / "runs", "cpu", until=5)
    subject = begun(spec, invented_text, tmp_path / "fresh")
    (folder,) = (tmp_path / "runs").iterdir()
    subject.folder = folder
    subject.resume()
    assert subject.life.measured.shape == (6, 7)  # before the first step and after each
