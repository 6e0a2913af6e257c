"""What tests can settle: against simulations, statsmodels and the definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import t as student
from statsmodels.stats.power import TTestPower

from lowrank.analysis import power
from lowrank.analysis.stats import smallest_detectable


@pytest.mark.parametrize("kind", power.MARGINS)
@pytest.mark.parametrize(
    ("pairs", "margin", "alpha"), [(3, 2.5, 0.05), (5, 1.2, 0.05), (7, 1.4, 0.01)]
)
def test_the_power_within_a_margin_is_that_of_simulated_tests(kind, pairs, margin, alpha):
    rng = np.random.default_rng(3)
    d = rng.standard_normal((40_000, pairs))
    half = student.ppf(1 - alpha, pairs - 1) * d.std(axis=1, ddof=1) / math.sqrt(pairs)
    above = d.mean(axis=1) - half > -margin
    below = d.mean(axis=1) + half < margin
    found = above & below if kind == "equivalence" else above
    assert power.power_within(kind, margin, 1.0, pairs, alpha) == pytest.approx(
        found.mean(), abs=4 * math.sqrt(0.25 / len(d))
    )


def test_the_power_of_one_side_is_that_of_statsmodels():
    ours = power.power_within("not_worse", 0.6, 0.5, 6)
    assert ours == pytest.approx(
        TTestPower().power(0.6 / 0.5, nobs=6, alpha=0.05, alternative="larger"), rel=1e-6
    )


@pytest.mark.parametrize("kind", power.MARGINS)
@pytest.mark.parametrize("alpha", [0.05, 0.05 / 3])
def test_the_smallest_margin_settled_has_the_power_asked_for(kind, alpha):
    margin = power.smallest_settled(kind, 0.02, 5, alpha)
    assert power.power_within(kind, margin, 0.02, 5, alpha) == pytest.approx(0.8)
    assert power.smallest_settled(kind, 0.04, 5, alpha) == pytest.approx(2 * margin)


def test_of_differences_it_is_the_smallest_that_is_detected():
    assert power.smallest_settled("better", 0.3, 4, 0.02) == smallest_detectable(0.3, 4, 0.02)


def test_one_pair_settles_nothing_and_no_variance_says_nothing():
    assert power.smallest_settled("equivalence", 0.1, 1) == math.inf
    assert power.power_within("equivalence", 1.0, 0.1, 1) == 0
    assert math.isnan(power.smallest_settled("not_worse", math.nan, 3))
    assert math.isnan(power.power_within("not_worse", 1.0, 0.0, 3))


@pytest.mark.parametrize("kind", ["better", "not_worse", "equivalence"])
def test_the_pairs_needed_are_the_fewest_that_settle_an_effect(kind):
    pairs = power.pairs_needed(kind, 0.025, 0.024, 0.05 / 3)
    assert power.smallest_settled(kind, 0.024, pairs, 0.05 / 3) <= 0.025
    assert power.smallest_settled(kind, 0.024, pairs - 1, 0.05 / 3) > 0.025
    assert power.pairs_needed(kind, 1e-6, 0.024) is None
    assert power.pairs_needed(kind, 0.025, math.nan) is None
