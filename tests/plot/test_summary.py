"""Summaries of runs."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from lowrank.plot.summary import interval, summarise, trajectory


def test_interval_is_the_t_interval_and_absent_for_one_seed():
    mean, low, high = interval([1.0, 2.0, 3.0])
    assert mean == 2.0
    assert high - mean == pytest.approx(4.302653 / np.sqrt(3), rel=1e-5)
    assert mean - low == pytest.approx(high - mean)
    assert interval([1.0])[0] == 1.0 and np.isnan(interval([1.0])[1])
    assert np.isnan(interval([np.nan])).all()


def test_diverged_runs_count_apart_from_seeds():
    runs = pd.DataFrame(
        {
            "cell": ["t/a"] * 3,
            "seed": [0, 1, 2],
            "loss": [1.0, 100.0, 2.0],
            "diverged": [False, True, False],
            "diverged_at": [np.nan, 5, np.nan],
        }
    )
    row = summarise(runs, ["loss"]).iloc[0]
    assert (row["loss"], row["seeds"], row["diverged"], row["diverged_at"]) == (1.5, 2, 1, 5)


def test_trajectory_averages_layers_within_a_seed_before_seeds():
    rows = pd.DataFrame(
        {"step": 1, "seed": [0, 0, 0, 1], "layer": list("abca"), "x": [1.0, 1.0, 4.0, 6.0]}
    )
    steps, mean, _, _ = trajectory(rows, "x")
    assert list(steps) == [1]
    assert mean[0] == pytest.approx((2.0 + 6.0) / 2)
    _, mean, _, _ = trajectory(rows, "x", geometric=True)
    assert mean[0] == pytest.approx(np.sqrt(4.0 ** (1 / 3) * 6.0))
