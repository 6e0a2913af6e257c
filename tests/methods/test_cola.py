"""CoLA by hand."""

from __future__ import annotations

import torch
from lives import begun, run_of

from lowrank.methods.cola import Activated
from lowrank.train.run import ensure_run


def test_the_activation_stands_between_the_factors(invented_text, tmp_path):
    subject = begun(run_of("cola"), invented_text, tmp_path / "run")
    layers = [m for m in subject.model.modules() if isinstance(m, Activated)]
    assert len(layers) == 7
    x = torch.randn(3, 16)
    z = x @ layers[0].low.V
    expected = (z / (1 + torch.exp(-z))) @ layers[0].low.U.T
    assert torch.allclose(layers[0](x), expected, atol=1e-6)
    assert layers[0].dense_weight() is None


def test_it_costs_what_plain_factors_cost_and_has_no_spectrum(invented_text, tmp_path):
    run = ensure_run(run_of("cola"), invented_text, tmp_path, "cpu")
    plain = ensure_run(run_of(None, factors=run.spec.factors.model_copy(
        update={"method": None})), invented_text, tmp_path, "cpu")  # fmt: skip
    for name in ("parameters", "training_flops", "state_bytes"):
        assert run.result[name] == plain.result[name]
    assert run.table("spectra").empty and run.result["effective_rank"] is None
