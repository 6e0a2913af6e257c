"""What is measured, and what it can be."""

from __future__ import annotations

import math

import pytest

from lowrank.experiment.metrics import metric


@pytest.mark.parametrize(
    ("name", "ends"),
    [
        ("test_accuracy", (0.0, 1.0)),
        ("test_loss", (0.0, math.inf)),
        ("effective_rank", (0.0, math.inf)),
        ("gap", (-math.inf, math.inf)),
    ],
)
def test_what_a_metric_can_be(name, ends):
    assert (metric(name).least, metric(name).most) == ends
