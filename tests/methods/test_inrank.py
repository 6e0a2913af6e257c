"""InRank: the explained ratio, growth without a jump, and the cut to the modes that are left."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from lives import begun, run_of

from lowrank.experiment.build import build_model
from lowrank.factor.convert import effective_weights, factors
from lowrank.files import read_json
from lowrank.methods import begin
from lowrank.methods.inrank import explained
from lowrank.train.run import ensure_run

OPTIONS = {"every": 3, "warmup": 0, "until": 0.75, "first": 1, "explained": 0.99}


def test_the_explained_ratio_is_one_less_the_variance_of_the_rest():
    s = torch.tensor([4.0, 2.0, 1.0, 0.0])
    for k in range(4):
        rest = np.where(np.arange(4) < k, 0, s.numpy())
        expected = 1 - np.var(rest, ddof=1) / np.var(s.numpy(), ddof=1)
        assert float(explained(s, k)) == pytest.approx(expected)


def buffer(name: str) -> int:
    """A quarter of the largest rank: 8 of most layers, 4 of keys and values."""
    return 1 if "k_proj" in name or "v_proj" in name else 2


def test_growth_leaves_weights_and_old_moments_and_gives_new_columns_none(invented_text, tmp_path):
    subject = begun(run_of("inrank", options=OPTIONS), invented_text, tmp_path / "run")
    first = {name: layer.rank for name, layer in factors(subject.model).items()}
    assert first == {name: 1 + buffer(name) for name in first}
    subject.train(2, [], lambda _: None)
    weights = {k: t.clone() for k, t in effective_weights(subject.model).items()}
    state = {k: t.clone() for k, t in subject.optimizer.state().items()}
    subject.life.event(subject)
    grown = {n: layer for n, layer in factors(subject.model).items() if layer.rank > first[n]}
    assert grown and all(layer.rank < first[n] + buffer(n) for n, layer in grown.items())
    for key, tensor in effective_weights(subject.model).items():
        assert torch.allclose(tensor, weights[key], atol=1e-7), key
    after = subject.optimizer.state()
    assert after.keys() == state.keys()
    for key, value in after.items():
        if value.shape == state[key].shape:
            assert value.equal(state[key])
        else:
            old = state[key].shape[-1]
            assert value[..., :old].equal(state[key]) and not value[..., old:].any()
    for name, layer in grown.items():
        assert not layer.U[:, first[name] :].any() and layer.V[:, first[name] :].all()


def test_the_spectrum_is_looked_at_after_the_warm_up_and_the_buffer_goes_last(
    invented_text, tmp_path
):
    options = {**OPTIONS, "warmup": 3}
    subject = begun(run_of("inrank", options=options), invented_text, tmp_path / "run")
    assert list(subject.life.at()) == [6, 9]


def test_modes_are_the_fewest_that_explain_enough(invented_text, tmp_path):
    subject = begun(run_of("inrank", options=OPTIONS), invented_text, tmp_path / "run")
    layer = next(iter(factors(subject.model).values()))  # 16 x 16, modes 1, buffer 2
    for values, wanted in (((5.0, 0.1, 0.1), 1), ((5.0, 4.0, 0.1), 2), ((5.0, 5.0, 5.0), 2)):
        Q = torch.linalg.qr(torch.randn(16, 3, generator=torch.Generator().manual_seed(0))).Q
        layer.set_factors(Q * torch.tensor(values), Q)
        assert subject.life._modes(layer, 1, 6) == wanted
        assert subject.life._modes(layer, 1, 1) == 1  # where there is no room for more


def test_in_the_end_the_buffer_goes_and_what_ran_is_counted(invented_text, tmp_path):
    spec = run_of("inrank", options=OPTIONS)
    run = ensure_run(spec, invented_text, tmp_path, "cpu")
    changes = read_json(run.folder / "manifest.json")["method"]["ranks"]
    steps = [step for step, _ in changes]
    assert steps[0] == 0 and steps[-1] == 9 and set(steps) <= {0, 3, 6, 9}
    before, after = changes[-2][1], changes[-1][1]
    assert after == {name: rank - buffer(name) for name, rank in before.items()}
    assert {n: layer.rank for n, layer in factors(run.model(300)).items()} == after
    assert run.result["training_flops"] > 3 * 12 * 4 * 16 * run.result["flops_per_position"]


def test_a_plan_takes_the_largest_ranks_throughout(invented_text, tmp_path):
    spec = run_of("inrank", options=OPTIONS)
    life = begin(spec)
    ((first, convert),) = life.expected()
    model = build_model(spec, 300, converted=False)
    convert(model)
    assert first == 0
    for layer in factors(model).values():
        m, n = layer.product().shape
        assert layer.rank == life.largest(m, n) > 1


def test_the_cut_keeps_the_top_modes(invented_text, tmp_path):
    subject = begun(run_of("inrank", options=OPTIONS), invented_text, tmp_path / "run")
    subject.train(8, [], lambda _: None)
    before = {n: layer.product().detach().numpy() for n, layer in factors(subject.model).items()}
    subject.step = 9
    subject.life.event(subject)
    for name, layer in factors(subject.model).items():
        A, s, Bh = np.linalg.svd(before[name], full_matrices=False)
        best = A[:, : layer.rank] * s[: layer.rank] @ Bh[: layer.rank]
        assert layer.product().detach().numpy() == pytest.approx(best, abs=1e-5)
    held = {key.rpartition("/")[0] for key in subject.optimizer.state()}
    assert "lm_head.weight" in held and not [n for n in held if n.endswith((".U", ".V"))]
