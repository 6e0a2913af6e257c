"""What would change our mind: of each claim the undecided contrast that is cheapest to settle, and its price."""

from __future__ import annotations

import math

import pandas as pd

from lowrank.analysis.evidence import contrast_sides, deciders

COLUMNS = ["claim", "where", "contrast", "seeds", "needed", "core_minutes"]


def next_runs(claims: pd.DataFrame) -> pd.DataFrame:
    """A row a claim of a scale's table `claims` with an undecided contrast that more seeds would settle: the
    one of the lowest price, `where` (scale: track), the `seeds` that it has, those `needed` in all if the true
    difference is the estimated one, and the `core_minutes` of the runs that are missing (NaN if unknown)."""
    rows = []
    for statement, own in claims.groupby("statement", sort=False):
        undecided = deciders(own)
        undecided = undecided[undecided["verdict"].eq("inconclusive")]
        undecided = undecided[undecided["pairs_needed"].gt(undecided["pairs"]).fillna(False)]
        choices = []
        for row in undecided.itertuples(index=False):
            more = int(row.pairs_needed) - int(row.pairs)
            choices.append(
                {
                    "claim": statement,
                    "where": f"{row.scale}: {row.track}",
                    "contrast": contrast_sides(row).rstrip(","),
                    "seeds": int(row.pairs),
                    "needed": int(row.pairs_needed),
                    "core_minutes": more * row.seconds_a_pair / 60,
                }
            )
        if choices:
            rows.append(min(choices, key=lambda row: _price(row["core_minutes"])))
    return pd.DataFrame(rows, columns=COLUMNS)


def _price(minutes: float) -> float:
    return math.inf if math.isnan(minutes) else minutes
