"""Refactorisation, against numpy's SVD of the product."""

from __future__ import annotations

import numpy as np
import torch
from lives import begun, run_of

from lowrank.factor.convert import factors
from lowrank.train.schedule import learning_rate


def test_factors_become_balanced_their_product_stays_and_their_moments_go(invented_text, tmp_path):
    subject = begun(run_of("refactorize", options={"every": 5}), invented_text, tmp_path / "run")
    subject.train(4, [], lambda _: None)
    with torch.no_grad():  # as training for long would, far from balance
        for layer in factors(subject.model).values():
            layer.U *= 3
            layer.V += 0.1 * torch.randn(layer.V.shape, generator=torch.Generator().manual_seed(0))
    products = {n: layer.product().detach() for n, layer in factors(subject.model).items()}
    subject.life.event(subject)
    for name, layer in factors(subject.model).items():
        assert torch.allclose(layer.product(), products[name], atol=1e-6), name
        s = np.linalg.svd(products[name].numpy(), compute_uv=False)[: layer.rank]
        for factor in (layer.U, layer.V):
            assert torch.allclose(factor.T @ factor, torch.diag(torch.tensor(s)), atol=1e-5)
    held = {key.rpartition("/")[0] for key in subject.optimizer.state()}
    assert "lm_head.weight" in held
    assert not [name for name in held if name.endswith((".U", ".V"))]


def test_the_rate_rises_again_after_every_refactorisation(invented_text, tmp_path):
    spec = run_of("refactorize", options={"every": 5, "recovery": 4})
    subject = begun(spec, invented_text, tmp_path / "run")
    subject.train(12, [], lambda _: None)
    found = [row["learning_rate"] for row in subject.record["history"]]
    shares = [1, 1, 1, 1, 1, 0.25, 0.5, 0.75, 1, 1, 0.25, 0.5]
    plain = [learning_rate(step, spec.training) for step in range(12)]
    assert found == [share * rate for share, rate in zip(shares, plain, strict=True)]


def test_the_last_step_is_not_followed_by_one(invented_text, tmp_path):
    subject = begun(run_of("refactorize", options={"every": 6}), invented_text, tmp_path / "run")
    assert list(subject.life.at()) == [6]
