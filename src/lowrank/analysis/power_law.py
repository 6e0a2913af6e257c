"""The power law that quality follows as models are widened."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtrit

from lowrank.errors import LowrankError
from lowrank.exponential import exp


@dataclass(frozen=True)
class PowerLaw:
    """y = e^level * x^exponent, with the exponent's confidence interval."""

    exponent: float
    low: float
    high: float
    level: float
    points: int

    def __call__(self, x: ArrayLike) -> np.ndarray:
        """The law's y at x, in the units that it was fitted in."""
        return np.asarray(exp(self.level + self.exponent * np.log(np.asarray(x, dtype=float))))


def power_law(x: ArrayLike, y: ArrayLike, confidence: float = 0.95) -> PowerLaw:
    """Ordinary least squares of log y on log x; the interval is Student's t on n - 2 degrees.

    x, y: shape (points,), positive, at least three points at distinct x. Give one point a width, the
    mean over seeds: seeds of one width share their departure from the law and are no independent
    points. The fit has no constant term, so it describes a range and promises nothing beyond it.
    """
    first, second = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if first.shape != second.shape or first.ndim != 1:
        raise LowrankError(f"x and y must be equally long rows, not {first.shape}, {second.shape}.")
    if not (np.isfinite(first) & np.isfinite(second) & (first > 0) & (second > 0)).all():
        raise LowrankError("A power law is fitted to positive finite numbers.")
    if len(np.unique(first)) < 3:
        raise LowrankError(f"A power law needs three distinct x, not {len(np.unique(first))}.")
    u, v = np.log(first), np.log(second)
    n = len(u)
    spread = ((u - u.mean()) ** 2).sum()
    exponent = float(((u - u.mean()) * (v - v.mean())).sum() / spread)
    level = float(v.mean() - exponent * u.mean())
    residual = float(((v - level - exponent * u) ** 2).sum())
    half = float(stdtrit(n - 2, (1 + confidence) / 2)) * math.sqrt(residual / (n - 2) / spread)
    return PowerLaw(exponent, exponent - half, exponent + half, level, n)
