"""The power law of widening."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import linregress
from scipy.stats import t as student

from lowrank.analysis.power_law import power_law
from lowrank.errors import LowrankError

X = np.array([1e6, 4e6, 9e6, 2e7, 6e7])


def test_exact_law_is_recovered():
    law = power_law(X, 7.0 * X**-0.25)
    assert law.exponent == pytest.approx(-0.25)
    assert math.exp(law.level) == pytest.approx(7.0)
    assert law.high - law.low == pytest.approx(0.0, abs=1e-9)
    assert law(1e7) == pytest.approx(7.0 * 1e7**-0.25)


def test_interval_is_that_of_ordinary_least_squares_in_logs():
    y = 7.0 * X**-0.25 * np.array([1.01, 0.98, 1.0, 1.03, 0.99])
    law = power_law(X, y, confidence=0.9)
    fit = linregress(np.log(X), np.log(y))
    half = student.ppf(0.95, len(X) - 2) * fit.stderr
    assert law.exponent == pytest.approx(fit.slope)
    assert (law.low, law.high) == pytest.approx((fit.slope - half, fit.slope + half))


def test_interval_covers_the_exponent_as_often_as_it_says():
    rng = np.random.default_rng(0)
    laws = [power_law(X, X**-0.1 * np.exp(0.02 * rng.standard_normal(5))) for _ in range(1000)]
    covered = np.mean([law.low < -0.1 < law.high for law in laws])
    assert covered == pytest.approx(0.95, abs=0.02)


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        ([1, 2], [1, 2], "three distinct x, not 2"),
        ([1, 1, 1], [1, 2, 3], "three distinct x, not 1"),
        ([1, 2, 3], [1, 2, -3], "positive finite"),
        ([1, 2, -3], [1, 2, 3], "positive finite"),
        ([0, 1, 2], [1, 2, 3], "positive finite"),
        ([1, 2, 3], [0, 2, 3], "positive finite"),
        ([1, 2, np.inf], [1, 2, 3], "positive finite"),
        ([1, 2, 3], [1, 2, np.inf], "positive finite"),
        ([1, 2, np.nan], [1, 2, 3], "positive finite"),
        ([1, 2, 3], [1, 2], "equally long"),
    ],
)
def test_what_cannot_be_fitted_is_said(x, y, words):
    with pytest.raises(LowrankError, match=words):
        power_law(x, y)


def test_a_law_whose_coefficient_no_float_holds_is_still_evaluated():
    x = np.array([1e9, 1.01e9, 1.02e9, 1.03e9])
    y = (x / 1e9) ** -60.0
    law = power_law(x, y)
    assert law.level > 1000
    assert law(x) == pytest.approx(y)
