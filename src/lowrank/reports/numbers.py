"""The paper's verified numbers beside ours."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from lowrank.analysis.ledger import Ledger
from lowrank.analysis.measures import NONE, number
from lowrank.analysis.stats import mean_interval
from lowrank.experiment.metrics import METRICS, PAPER_METRICS, PaperMetric
from lowrank.exponential import exp
from lowrank.parquet import read_table

FEW = 4
"""Arms that are named rather than counted alone."""


def beside(ledger: Ledger, runs: pd.DataFrame) -> list[dict[str, Any]]:
    """The paper's verified numbers beside ours of the same arm, with what each differs from its
    dense: in nats for perplexities, which are compared by their logarithm, else in points, and both as a part
    of dense in per cent."""
    dense = {n.track: n.value for n in ledger.paper if n.arm == "dense"}
    rows = []
    for verified in ledger.paper:
        metric = PAPER_METRICS[verified.metric]
        log = metric.logarithmic
        ours = _values(runs, verified.track, verified.arm, metric)
        base = _values(runs, verified.track, "dense", metric)
        row: dict[str, Any] = verified.model_dump() | {"gap": None, "ours": None, "our_gap": None}
        row |= {"percent": None, "our_percent": None}
        row |= {"unit": metric.difference, "digits": 3 if log else 2}
        if verified.arm != "dense" and verified.track in dense:
            there = dense[verified.track]
            row["gap"] = math.log(verified.value / there) if log else verified.value - there
            row["percent"] = 100 * (verified.value / there - 1)
        if len(ours):
            found = mean_interval(ours)
            ends = (found.estimate, found.low, found.high)
            row["ours"] = [_shown(x, metric) if math.isfinite(x) else math.nan for x in ends]
            if row["gap"] is not None and len(base):
                row["our_gap"] = gap = found.estimate - float(base.mean())
                row["our_percent"] = 100 * (math.expm1(gap) if log else gap / float(base.mean()))
        rows.append(row)
    return rows


def _values(runs: pd.DataFrame, track: str, arm: str, metric: PaperMetric) -> pd.Series:
    if metric.column not in runs:
        return pd.Series(dtype=float)
    rows = runs[(runs["track"] == track) & (runs["arm"] == arm)]
    values = rows[metric.column].dropna() * metric.factor
    return values.map(math.log) if metric.logarithmic else values


def _shown(value: float, metric: PaperMetric) -> float:
    """A mean or an end of its interval in the paper's unit, no further than the metric goes."""
    ends = METRICS[metric.column]
    shown = exp(value) if metric.logarithmic else value
    return min(max(shown, metric.factor * ends.least), metric.factor * ends.most)


def percentages(ledger: Ledger, scales: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """A row a verified arm: its difference to dense in per cent (of perplexity or of top-1), the paper's and
    at each scale, whose tables of runs are given; a dash where it did not run."""
    found: dict[tuple[str, str], dict[str, str]] = {}
    for scale, runs in scales.items():
        for row in beside(ledger, runs):
            if row["percent"] is not None:
                key = row["track"], row["arm"]
                names = {"track": row["track"], "arm": row["arm"], "measure": row["metric"]}
                known = found.setdefault(key, {**names, "the paper": _percent(row["percent"])})
                known[scale] = _percent(row["our_percent"])
    return pd.DataFrame(found.values())


def _percent(value: float | None) -> str:
    return NONE if value is None else f"{'+' if value > 0 else ''}{number(value, 1)} %"


def beside_counted(
    runs: Mapping[str, pd.DataFrame], counted: Mapping[str, pd.DataFrame]
) -> pd.DataFrame:
    """A row a scale and track of text: mean test loss (nats/token) of the dense model, of n-grams, and which arms are
    worse than bigrams, on the mean. `runs` and `counted` (tables `baselines`): by scale."""
    rows = []
    for scale, table in counted.items():
        for track, models in table.groupby("track", sort=False):
            ours = runs[scale].loc[runs[scale]["track"] == track].groupby("arm")["test_loss"].mean()
            losses = models.set_index("model")["test_loss"]
            row = {"scale": scale, "track": str(track), "dense": number(ours["dense"], 3)}
            row |= {str(model): number(loss, 3) for model, loss in losses.items()}
            worse = ours[ours > losses.get("bigram", math.inf)].sort_values(ascending=False)
            names = f" ({', '.join(map(str, worse.index))})" if 0 < len(worse) <= FEW else ""
            rows.append({**row, "arms worse than bigrams": f"{len(worse)} of {len(ours)}{names}"})
    return pd.DataFrame(rows).fillna(NONE)


def at_edges(rates: Mapping[str, Path]) -> str:
    """How many choices of each scale stand at an edge of what their sweeps tried, in a sentence; `rates`: where the
    tables lie, by scale. Empty if none do."""
    parts = []
    for scale, path in rates.items():
        table = read_table(path) if path.is_file() else pd.DataFrame()
        if len(table):
            ends = table.groupby("group")["at_edge"].any()
            parts += [f"{scale} {int(ends.sum())} of {len(ends)}"] if ends.any() else []
    if not parts:
        return ""
    return f"Choices at an edge of what their sweep tried, beyond which better may lie: {', '.join(parts)}."
