"""Which of several arms the tests tell apart, and which no other arm beats on every count.

**Groups.** The first holds the best arm and every arm that a paired t test does not find to be worse; what is left
is grouped in the same way. The best has the best mean of those that no other arm is found better than: a mean is of
all of an arm's seeds, a test of those that two arms share. Which arm is best is read from the runs that test it,
so any pair may become a test, and p is Holm-corrected over all pairs of arms: equal arms are told apart with a
probability of alpha at most. So arms of one group stand together because none was found worse than the group's
best, not because they were found equal; few seeds make large groups. An arm with a diverged run is in none, and
where there are no tests, as with one seed, all are in the first.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from lowrank.analysis.stats import paired_contrasts


def groups(
    runs: pd.DataFrame, cells: Sequence[str], metric: str, better: int, alpha: float = 0.05
) -> dict[str, int]:
    """The group of each of `cells`, from 1; those without a group are left out.

    runs: columns cell, seed, `metric`, and diverged if known. better: +1 where more is, -1 where less.
    """
    rows = runs[runs["cell"].isin(cells)]
    bad = ~np.isfinite(rows[metric].to_numpy(dtype=float))
    if "diverged" in rows:
        bad |= rows["diverged"].eq(True).to_numpy()
    rows = rows[~rows["cell"].isin(rows.loc[bad, "cell"])]
    means = rows.groupby("cell", sort=False)[metric].mean()
    left = list(means.sort_values(ascending=better < 0, kind="stable").index)
    tests = paired_contrasts(rows, list(combinations(left, 2)), metric)
    tests = tests[tests["p_corrected"] < alpha]
    apart = {
        (arm, reference) if better * estimate > 0 else (reference, arm)  # the better one first
        for arm, reference, estimate in zip(
            tests["arm"], tests["reference"], tests["estimate"], strict=True
        )
    }
    found: dict[str, int] = {}
    number = 0
    while left:
        unbeaten = [cell for cell in left if not any((other, cell) in apart for other in left)]
        number, best = number + 1, (unbeaten or left)[0]  # none is, where better goes in a circle
        found |= {cell: number for cell in left if (best, cell) not in apart}
        left = [cell for cell in left if (best, cell) in apart]
    return found


def pareto(costs: ArrayLike) -> NDArray[np.bool_]:
    """Of arms by their costs, shape (arms, kinds), less being better: whether no other arm is at most as
    costly in every kind and less in one; never where a cost is missing. Shape (arms,)."""
    x = np.asarray(costs, dtype=float)
    at_most = (x[:, None] <= x[None]).all(-1)
    less = (x[:, None] < x[None]).any(-1)
    return np.isfinite(x).all(-1) & ~(at_most & less).any(0)
