"""What paired seeds can and cannot show: differences, equivalence, and the smallest visible effect.

Seed k sees the same data order and the same dense initialisation in every cell, so two cells are
compared by the differences of their seeds. All tests are Student's t on those differences.

Two cases have no t interval, and none is invented for them: a single pair (no variance to judge
by) and pairs whose differences are all the same (t would be 0/0 or infinite; with a few seeds and
a coarse metric, such as accuracy on a few hundred images, equal differences happen by luck). Then
the interval is the whole line and p is NaN, which no rule can read as significant.

Distributions are scipy's. statsmodels has Holm's correction, TOST and power too, and is what the tests compare these
with; it is no dependency: its `multipletests` collects garbage, and its power is solved to six digits only.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.special import nctdtr, stdtr, stdtrit

from lowrank.errors import LowrankError, unknown

ROUNDING = 1e-13
"""A spread below this part of the values is the rounding of equal differences, not a variance."""
CONTRAST_COLUMNS = [
    *("arm", "reference", "metric", "estimate", "low", "high", "standard_deviation"),
    *("pairs", "dropped", "p", "p_corrected", "smallest_detectable"),
]


@dataclass(frozen=True)
class Interval:
    """A mean of `count` values with its t interval (the whole line where there is none)."""

    estimate: float
    low: float
    high: float
    standard_deviation: float  # with n - 1; NaN for fewer than two values
    count: int


@dataclass(frozen=True)
class Difference:
    """The mean of a - b over pairs, its t interval and the two-sided p against no difference."""

    estimate: float
    low: float
    high: float
    standard_deviation: float  # of the differences, with n - 1; NaN for fewer than two pairs
    pairs: int
    p: float  # NaN where there is no test

    @property
    def standard_error(self) -> float:
        """Standard error of the mean difference; NaN where the differences have no variance."""
        if self.pairs < 2 or not self.standard_deviation > 0:
            return math.nan
        return self.standard_deviation / math.sqrt(self.pairs)

    def p_above(self, value: float) -> float:
        """One-sided p against "the true difference is at most `value`"; NaN without a variance."""
        return float(stdtr(self.pairs - 1, (value - self.estimate) / self.standard_error))

    def p_below(self, value: float) -> float:
        """One-sided p against "the true difference is at least `value`"; NaN without a variance."""
        return float(stdtr(self.pairs - 1, (self.estimate - value) / self.standard_error))

    def p_within(self, margin: float) -> float:
        """TOST's p (Schuirmann 1987) against "the true difference is `margin` or more in size"; it is
        below alpha where the 1 - 2 alpha interval lies inside the margin."""
        return max(self.p_above(-margin), self.p_below(margin))


@dataclass(frozen=True)
class Known(Difference):
    """A difference that is exact, such as one of bytes: p is 0 or 1, whatever the variance."""

    def p_above(self, value: float) -> float:
        """0 where the difference is above `value`, else 1."""
        return float(self.estimate <= value)

    def p_below(self, value: float) -> float:
        """0 where the difference is below `value`, else 1."""
        return float(self.estimate >= value)


def paired_difference(a: ArrayLike, b: ArrayLike, confidence: float = 0.95) -> Difference:
    """Mean paired difference a - b with its t interval and two-sided p.

    a, b: shape (pairs,), in the same order and in the same unit, which is that of the result.
    Unequal lengths and values that are not finite are a LowrankError: drop pairs, not values.
    """
    first, second = _values(a, "first"), _values(b, "second")
    if len(first) != len(second):
        raise LowrankError(
            f"Paired values must be equally many, not {len(first)} and {len(second)}."
        )
    return Difference(**_only(_differences(first[None], second[None], confidence)))


def holm(p_values: ArrayLike) -> np.ndarray:
    """Holm-corrected p values (Holm 1979), in the order of `p_values`, shape (tests,).

    A NaN stays NaN and is not counted in the family: what could not be tested cannot be rejected.
    """
    p = np.asarray(p_values, dtype=float)
    corrected = np.full(p.shape, np.nan)
    order = np.argsort(p)[: np.isfinite(p).sum()]  # NaN sorts last
    factors = np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(1, np.maximum.accumulate(factors * p[order]))
    return corrected


def mean_interval(values: ArrayLike, confidence: float = 0.95) -> Interval:
    """Mean over seeds with its t interval; values that are not finite are a LowrankError."""
    x = _values(values, "given")
    found = _only(_differences(x[None], np.zeros((1, len(x))), confidence))
    del found["p"]
    return Interval(count=found.pop("pairs"), **found)


def smallest_detectable(
    standard_deviation: float, pairs: int, alpha: float = 0.05, power: float = 0.8
) -> float:
    """The smallest true difference that a two-sided paired t test would find with this power.

    standard_deviation: of the paired differences; the result has its unit. Solved with the
    noncentral t distribution, both tails counted. Infinite for fewer than two pairs, NaN without a deviation.
    """
    if not 0 < alpha < power < 1:
        raise LowrankError(f"Need 0 < alpha < power < 1, not alpha {alpha} and power {power}.")
    if pairs < 2:
        return math.inf
    if not standard_deviation > 0:
        return math.nan
    return _detectable_shift(pairs - 1, alpha, power) * standard_deviation / math.sqrt(pairs)


@lru_cache(maxsize=1024)
def _detectable_shift(df: int, alpha: float, power: float) -> float:
    """The noncentrality at which a two-sided t test has this power."""
    from scipy.optimize import brentq  # here, since figures and training need not wait for it

    critical = stdtrit(df, 1 - alpha / 2)

    def shortfall(shift: float) -> float:
        # The far tail underflows to NaN where it no longer counts.
        far = np.nan_to_num(nctdtr(df, shift, -critical))
        return float(1 - nctdtr(df, shift, critical) + far - power)

    high = 1.0
    while shortfall(high) < 0:
        high *= 2
    return float(brentq(shortfall, 0.0, high))


@dataclass(frozen=True)
class Pairs:
    """The values of two sides for the seeds that both finished, and what became of the rest."""

    a: np.ndarray  # (pairs,)
    b: np.ndarray  # (pairs,)
    seeds: tuple[int, ...]
    missing: int  # seeds that one side lacks
    diverged_a: int  # seeds at which a diverged or its value is not finite
    diverged_b: int
    dropped: int  # seeds of either side that make no pair


def pair(a: pd.DataFrame, b: pd.DataFrame, metric: str) -> Pairs:
    """Pair the rows of two sides by `seed`; runs marked `diverged` or not finite make no pair.

    Dropping a diverged run flatters the side that diverges, hence the counts: whoever draws a
    conclusion must look at them. Two rows of one seed on one side are a LowrankError.
    """
    sides = []
    for rows in (a, b):
        if metric not in rows.columns:
            raise unknown("metric", metric, rows.columns)
        twice = rows["seed"][rows["seed"].duplicated()]
        if len(twice):
            raise LowrankError(f"Seed {twice.iloc[0]} has more than one row for '{metric}'.")
        values = pd.Series(rows[metric].to_numpy(dtype=float), index=rows["seed"].to_numpy())
        if "diverged" in rows.columns:
            values[rows["diverged"].fillna(False).to_numpy(dtype=bool)] = np.nan
        sides.append(values)
    first, second = sides
    seeds = sorted(set(first.index) | set(second.index))
    good_a, good_b = (np.isfinite(side.reindex(seeds).to_numpy()) for side in sides)
    kept = [seed for seed, good in zip(seeds, good_a & good_b, strict=True) if good]
    return Pairs(
        a=first.reindex(kept).to_numpy(),
        b=second.reindex(kept).to_numpy(),
        seeds=tuple(kept),
        missing=len(set(first.index) ^ set(second.index)),
        diverged_a=int((~np.isfinite(first.to_numpy())).sum()),
        diverged_b=int((~np.isfinite(second.to_numpy())).sum()),
        dropped=len(seeds) - len(kept),
    )


def paired_contrasts(
    runs: pd.DataFrame,
    contrasts: Iterable[tuple[str, str]],
    metric: str,
    confidence: float = 0.95,
) -> pd.DataFrame:
    """One row per contrast (cell, reference cell): paired difference, Holm over all contrasts.

    runs: columns cell, seed, `metric`, and diverged if known. A cell that has no row is a
    LowrankError naming the nearest. Columns: arm, reference, metric, estimate, low, high,
    standard_deviation, pairs, dropped, p, p_corrected, smallest_detectable.
    """
    values, there = _by_cell_and_seed(runs, metric)
    pairs = list(contrasts)
    numbers = {str(cell): number for number, cell in enumerate(values.index)}
    if strange := next((cell for names in pairs for cell in names if cell not in numbers), None):
        raise unknown("cell", strange, numbers)
    arm, reference = ([numbers[names[side]] for names in pairs] for side in (0, 1))
    found = _differences(values.to_numpy()[arm], values.to_numpy()[reference], confidence)
    return pd.DataFrame(
        {
            **found,
            "arm": [first for first, _ in pairs],
            "reference": [second for _, second in pairs],
            "metric": metric,
            "dropped": (there[arm] | there[reference]).sum(axis=1) - found["pairs"],
            "p_corrected": holm(found["p"]),
            "smallest_detectable": [
                smallest_detectable(deviation, n, alpha=1 - confidence)
                for deviation, n in zip(found["standard_deviation"], found["pairs"], strict=True)
            ],
        },
        columns=CONTRAST_COLUMNS,
    )


def _by_cell_and_seed(runs: pd.DataFrame, metric: str) -> tuple[pd.DataFrame, np.ndarray]:
    """The metric with a row a cell and a column a seed, NaN where a run diverged or there is none, and, of the
    same shape, which runs there are."""
    if metric not in runs.columns:
        raise unknown("metric", metric, runs.columns)
    runs = runs.dropna(subset=["cell", "seed"])
    twice = runs.loc[runs.duplicated(["cell", "seed"]), "seed"]
    if len(twice):
        raise LowrankError(f"Seed {twice.iloc[0]} has more than one row for '{metric}'.")
    measured = runs[metric].to_numpy(dtype=float, copy=True)
    if "diverged" in runs.columns:
        measured[runs["diverged"].fillna(False).to_numpy(dtype=bool)] = np.nan
    (row, cells), (column, seeds) = (pd.factorize(runs[name]) for name in ("cell", "seed"))
    values = np.full((len(cells), len(seeds)), np.nan)
    there = np.zeros(values.shape, dtype=bool)
    values[row, column], there[row, column] = measured, True
    return pd.DataFrame(values, cells, seeds), there


def _values(values: ArrayLike, which: str) -> np.ndarray:
    x = np.asarray(values, dtype=float)
    if x.ndim != 1 or not np.isfinite(x).all():
        raise LowrankError(f"The {which} values must be one row of finite numbers, not {x}.")
    return x


def _only(rows: dict[str, np.ndarray]) -> dict[str, Any]:
    """The one row."""
    return {name: values.item() for name, values in rows.items()}


def _differences(a: np.ndarray, b: np.ndarray, confidence: float) -> dict[str, np.ndarray]:
    """The fields of a `Difference`, each of shape (rows,), from values of shape (rows, seeds); values that are
    not finite make no pair."""
    if not 0 < confidence < 1:
        raise LowrankError(f"A confidence lies between 0 and 1, such as 0.95, not {confidence}.")
    good = np.isfinite(a) & np.isfinite(b)
    n = good.sum(axis=1)
    a, b = (np.where(good, side, 0) for side in (a, b))
    size = np.maximum(abs(a), abs(b)).max(axis=1, initial=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        estimate = (a - b).sum(axis=1) / n
        squares = np.where(good, a - b - estimate[:, None], 0) ** 2
        deviation = np.sqrt(np.where(n > 1, squares.sum(axis=1) / (n - 1), np.nan))
        deviation[deviation <= ROUNDING * size] = 0
        error = np.where(deviation > 0, deviation / np.sqrt(n), np.nan)
        half = stdtrit(n - 1, (1 + confidence) / 2) * error
        p = 2 * stdtr(n - 1, -abs(estimate) / error)
    return {
        "estimate": estimate,
        "low": np.where(error > 0, estimate - half, -np.inf),
        "high": np.where(error > 0, estimate + half, np.inf),
        "standard_deviation": deviation,
        "pairs": n,
        "p": p,
    }
