"""e^x for numbers from data: losses and logarithms are unbounded, floats are not."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike


def exp(x: ArrayLike) -> Any:
    """e^x elementwise, a float for a number; infinite, without complaint, where a float cannot hold
    it."""
    with np.errstate(over="ignore"):
        values = np.exp(np.asarray(x, dtype=float))
    return values if values.ndim else float(values)
