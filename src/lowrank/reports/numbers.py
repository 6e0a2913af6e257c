"""The paper's verified numbers beside ours."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd

from lowrank.analysis.ledger import Ledger
from lowrank.analysis.stats import mean_interval
from lowrank.experiment.metrics import PAPER_METRICS, PaperMetric
from lowrank.exponential import exp


def beside(ledger: Ledger, runs: pd.DataFrame) -> list[dict[str, Any]]:
    """The paper's verified numbers beside ours of the same arm, with what each differs from its
    dense: in nats for perplexities, which are compared by their logarithm, else in points."""
    dense = {n.track: n.value for n in ledger.paper if n.arm == "dense"}
    rows = []
    for verified in ledger.paper:
        metric = PAPER_METRICS[verified.metric]
        log = metric.logarithmic
        ours = _values(runs, verified.track, verified.arm, metric)
        base = _values(runs, verified.track, "dense", metric)
        row: dict[str, Any] = verified.model_dump() | {"gap": None, "ours": None, "our_gap": None}
        row |= {"unit": metric.difference, "digits": 3 if log else 2}
        if verified.arm != "dense" and verified.track in dense:
            there = dense[verified.track]
            row["gap"] = math.log(verified.value / there) if log else verified.value - there
        if len(ours):
            found = mean_interval(ours)
            ends = (found.estimate, found.low, found.high)
            row["ours"] = [exp(x) if log else x for x in ends]
            if row["gap"] is not None and len(base):
                row["our_gap"] = found.estimate - float(base.mean())
        rows.append(row)
    return rows


def _values(runs: pd.DataFrame, track: str, arm: str, metric: PaperMetric) -> pd.Series:
    if metric.column not in runs:
        return pd.Series(dtype=float)
    rows = runs[(runs["track"] == track) & (runs["arm"] == arm)]
    values = rows[metric.column].dropna() * metric.factor
    return values.map(math.log) if metric.logarithmic else values
