"""Shares of a number of steps as whole steps, free of the error of binary fractions.

0.55 * 100 is 55.000000000000007 in floating point, and Python rounds halves to even; here a share is
the decimal number that was written, and halves are rounded up.
"""

from __future__ import annotations

from fractions import Fraction
from math import ceil, floor

TOLERANCE = Fraction(1, 10**12)
"""How exactly a share is known: one that was computed, such as 2/3, is off by its last bit."""


def nearest(share: float, total: int) -> int:
    """The whole number nearest to `share * total`, a half rounded up."""
    return floor(_product(share, total) + Fraction(1, 2))


def reached(share: float, total: int) -> int:
    """The first whole number that is at least `share * total`."""
    return ceil(_product(share, total))


def spread(total: int, count: int) -> set[int]:
    """`count` of the steps 1 to `total`, spread evenly, the last among them."""
    return {max(1, (2 * total * (i + 1) + count) // (2 * count)) for i in range(count)}


def switch_step(share: float, total: int) -> int:
    """Dense steps before the switch: the share rounded, at least one step on either side; 0 for none."""
    return max(1, min(total - 1, nearest(share, total))) if share else 0


def _product(share: float, total: int) -> Fraction:
    exact = Fraction(repr(float(share))) * total
    halves = Fraction(floor(2 * exact + Fraction(1, 2)), 2)
    return halves if abs(halves - exact) <= TOLERANCE * total else exact
