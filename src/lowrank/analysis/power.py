"""What a test of paired differences can settle, before it runs or after: effects, powers and pairs.

All follows from the standard deviation of the paired differences, their number and alpha. A difference
(kinds `better`, `lower`, ...) is settled where its two-sided t test finds it with the power asked for; a
margin (`not_worse`, `equivalence`) where the test would find a true difference of 0 within it. Distributions
are scipy's noncentral t; TOST's power is exact too: its normal part in closed form, averaged over the
distribution of the estimated variance.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import chdtri, nctdtr, ndtr, stdtrit

from lowrank.analysis.stats import smallest_detectable

POWER = 0.8
MARGINS = ("not_worse", "equivalence")
"""The kinds of tests in which the margin is what counts as a difference."""
MOST_PAIRS = 1000

# Upper tails at the middles of many slices of equal probability: an average over them is an integral.
_TAILS = (np.arange(4000) + 0.5) / 4000


def power_within(
    kind: str, margin: float, standard_deviation: float, pairs: int, alpha: float = 0.05
) -> float:
    """The probability that a true difference of 0 is found within the margin, by a test of a kind of
    `MARGINS`; NaN without a standard deviation, 0 for fewer than two pairs."""
    if pairs < 2:
        return 0.0
    if not standard_deviation > 0:
        return math.nan
    return _power(kind, margin * math.sqrt(pairs) / standard_deviation, pairs - 1, alpha)


def smallest_settled(
    kind: str, standard_deviation: float, pairs: int, alpha: float = 0.05, power: float = POWER
) -> float:
    """The smallest difference, or for the kinds of `MARGINS` the smallest margin, that is settled with
    this power, in the unit of the standard deviation; infinite for fewer than two pairs."""
    if kind not in MARGINS:
        return smallest_detectable(standard_deviation, pairs, alpha, power)
    if pairs < 2:
        return math.inf
    if not standard_deviation > 0:
        return math.nan
    return _reach(kind, pairs - 1, alpha, power) * standard_deviation / math.sqrt(pairs)


def pairs_needed(
    kind: str, effect: float, standard_deviation: float, alpha: float = 0.05, power: float = POWER
) -> int | None:
    """The fewest pairs that settle an effect; None where `MOST_PAIRS` are too few or nothing is known."""

    def settled(pairs: int) -> bool:
        return smallest_settled(kind, standard_deviation, pairs, alpha, power) <= effect

    if not settled(MOST_PAIRS):
        return None
    low, high = 1, MOST_PAIRS  # more pairs settle more: halve the range
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if settled(middle) else (middle, high)
    return high


def _power(kind: str, shift: float, df: int, alpha: float) -> float:
    """Of a test within a margin that lies `shift` standard errors from a true difference of 0."""
    critical = float(stdtrit(df, 1 - alpha))
    if kind == "not_worse":
        return float(1 - nctdtr(df, shift, critical))
    return float(np.maximum(0.0, 2 * ndtr(shift - critical * _errors(df)) - 1).mean())


@lru_cache(maxsize=64)
def _errors(df: int) -> NDArray[np.float64]:
    """Estimated over true standard errors, each as likely as the others."""
    return np.sqrt(chdtri(df, _TAILS) / df)


@lru_cache(maxsize=4096)
def _reach(kind: str, df: int, alpha: float, power: float) -> float:
    """The margin in standard errors at which a test has this power where nothing differs."""
    from scipy.optimize import brentq

    high = 1.0
    while _power(kind, high, df, alpha) < power:
        high *= 2
    return float(brentq(lambda shift: _power(kind, shift, df, alpha) - power, 0.0, high))
