"""An exponential never raises: what no float can hold is infinite."""

import math
import warnings

import numpy as np
import pytest

from lowrank.exponential import exp


@pytest.mark.parametrize("x", [-1e4, -1.5, 0.0, 709.0])
def test_within_range_it_is_the_exponential(x):
    assert exp(x) == pytest.approx(math.exp(x))


def test_beyond_range_it_is_infinite_without_a_warning():
    with warnings.catch_warnings(action="error"):
        assert exp(710.0) == exp(math.inf) == math.inf
        assert math.isnan(exp(math.nan))
        np.testing.assert_array_equal(exp([0.0, 1e6]), [1.0, math.inf])
