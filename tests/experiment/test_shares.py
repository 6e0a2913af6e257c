"""Shares of steps: the decimal that was written, halves up."""

from __future__ import annotations

import pytest

from lowrank.experiment import shares


@pytest.mark.parametrize("total", [1, 7, 20, 25, 50, 90, 100, 250, 800, 12345])
def test_every_share_of_three_decimals_is_the_integer_arithmetic_of_its_thousandths(total):
    for thousandths in range(1, 1000):
        share = thousandths / 1000
        assert shares.reached(share, total) == -(-thousandths * total // 1000)
        assert shares.nearest(share, total) == (2 * thousandths * total + 1000) // 2000


@pytest.mark.parametrize(
    ("share", "total", "reached", "nearest"),
    [
        (0.55, 100, 55, 55),  # 55.000000000000007 in floating point
        (0.07, 100, 7, 7),
        (0.29, 100, 29, 29),  # 28.999999999999996
        (1 / 3, 3, 1, 1),
        (2 / 3, 3, 2, 2),
        (0.1 + 0.2, 10, 3, 3),
        (0.29, 50, 15, 15),  # 14.499999999999998
        (0.5, 5, 3, 3),
        (0.05, 50, 3, 3),
        (0.05, 70, 4, 4),
        (0.303, 100, 31, 30),
        (1.5, 25, 38, 38),
    ],
)
def test_shares_by_hand(share, total, reached, nearest):
    assert (shares.reached(share, total), shares.nearest(share, total)) == (reached, nearest)


@pytest.mark.parametrize(
    ("total", "count", "expected"),
    [
        (12, 8, {2, 3, 5, 6, 8, 9, 11, 12}),  # 1.5, 3, 4.5, 6, 7.5, 9, 10.5, 12
        (10, 4, {3, 5, 8, 10}),
        (6, 1, {6}),
        (2, 5, {1, 2}),
    ],
)
def test_points_are_spread_evenly_and_end_with_the_last_step(total, count, expected):
    assert shares.spread(total, count) == expected


@pytest.mark.parametrize(
    ("share", "total", "expected"),
    [(0.0, 10, 0), (0.5, 5, 3), (0.25, 10, 3), (0.01, 10, 1), (0.99, 10, 9), (0.5, 2, 1)],
)
def test_the_switch_leaves_a_step_on_either_side(share, total, expected):
    assert shares.switch_step(share, total) == expected
