"""From runs to what is shown of an arm: means over seeds with t intervals, and paired differences.

The intervals are those of `lowrank.analysis.stats`; differences are read from the `contrasts` table, so
that a figure and the claims never disagree.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from lowrank.analysis.stats import mean_interval
from lowrank.experiment.facts import FACTS
from lowrank.experiment.metrics import metric as known
from lowrank.exponential import exp
from lowrank.plot.arms import decay_label
from lowrank.plot.results import Results, records

COSTS = ("kept_parameters", "kept_flops", "parameters", "training_flops", "train_seconds")


def interval(values: Iterable[float], metric: str = "") -> tuple[float, float, float]:
    """Mean over seeds with the 95 % t interval (NaN where there is none); values not finite are left
    out, and are counted elsewhere.

    What the `metric` cannot be is no part of the interval: without an accuracy above 1 or a loss
    below 0 it holds the true mean just as often.
    """
    x = np.asarray(list(values), dtype=float)
    x = x[np.isfinite(x)]
    if not len(x):
        return np.nan, np.nan, np.nan
    found = mean_interval(x)
    if not np.isfinite(found.low):
        return found.estimate, np.nan, np.nan
    ends = known(metric)
    return found.estimate, max(found.low, ends.least), min(found.high, ends.most)


def summarise(
    runs: pd.DataFrame, metrics: Sequence[str], keys: Sequence[str] = ("cell",)
) -> pd.DataFrame:
    """One row a cell (or group of `keys`), in the order of the runs.

    Columns: the facts of the cell; `seeds` that count and `diverged` ones, with the earliest step in
    `diverged_at`; for each metric `<metric>`, `<metric>_low`, `<metric>_high`; costs as means.
    """
    rows: list[dict[str, Any]] = []
    for _, group in runs.groupby(list(keys), sort=False, dropna=False):
        lost = _diverged(group)
        good = group[~lost]
        first = group.iloc[0]
        row: dict[str, Any] = {k: first[k] for k in dict.fromkeys((*keys, *FACTS)) if k in group}
        row["seeds"], row["diverged"] = len(good), int(lost.sum())
        row["diverged_at"] = (
            group.loc[lost, "diverged_at"].min() if "diverged_at" in group else np.nan
        )
        for metric in metrics:
            found = interval(good[metric], metric) if metric in good else (np.nan,) * 3
            row[metric], row[f"{metric}_low"], row[f"{metric}_high"] = found
        for cost in COSTS:
            if cost in group and cost not in row:
                source = good if cost == "train_seconds" else group
                row[cost] = source[cost].mean()
        rows.append(row)
    return pd.DataFrame(rows)


def _diverged(group: pd.DataFrame) -> pd.Series:
    if "diverged" not in group:
        return pd.Series(False, index=group.index)
    return group["diverged"].fillna(False).astype(bool)


def arms(results: Results, study: str, extra: Sequence[str] = ()) -> pd.DataFrame:
    """The cells of a study, summarised by the track's quality and what is reported beside it."""
    quality = results.quality
    return summarise(results.study(study), [quality.metric, *quality.beside, *extra])


def decays(results: Results) -> pd.DataFrame:
    """The arms of the decay study with the decay in words (`decay_label`)."""
    table = arms(results, "decay", ("effective_rank", "entropy_rank", "stable_rank"))
    table.insert(0, "label", [decay_label(row) for row in records(table)])
    places = {label: index for index, label in enumerate(results.decays)}
    return (
        table.assign(place=table["label"].map(places))
        .sort_values(["place", "label", "rate_factor"], ascending=[True, True, False])
        .drop(columns="place")
        .reset_index(drop=True)
    )


def compare(
    table: pd.DataFrame,
    results: Results,
    study: str,
    name: str,
    is_reference: Callable[[Any], bool],
    *,
    metric: str | None = None,
    within: str | None = None,
    among: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """The table with `<name>`, `<name>_low`, `<name>_high` and `<name>_p`: the paired difference to
    the reference, which is the row of the table (or of `among`, if the reference belongs to another
    study) of which `is_reference` is true; with `within`, the one with the same value in that column.

    Read from `contrasts`; p is Holm-corrected over the study. NaN where no contrast was made.
    """
    columns = [name, *(f"{name}_{part}" for part in ("low", "high", "p"))]
    contrasts = results.optional("contrasts")
    values = {}
    if len(contrasts):
        chosen = contrasts[
            (contrasts["study"] == study)
            & (contrasts["metric"] == (metric or results.quality.metric))
        ]
        for row in records(chosen):
            values[row.arm, row.reference] = (row.estimate, row.low, row.high, row.p_corrected)
    found = np.full((len(table), 4), np.nan)
    cells = table if among is None else among.drop_duplicates("cell")
    references = [row for row in records(cells) if is_reference(row)]
    for index, row in enumerate(records(table)):
        for reference in references:
            same = within is None or getattr(row, within) == getattr(reference, within)
            if same and (row.cell, reference.cell) in values:
                found[index] = values[row.cell, reference.cell]
    found[~np.isfinite(found)] = np.nan
    return table.assign(**dict(zip(columns, found.T, strict=True)))


def trajectory(
    rows: pd.DataFrame, value: str, geometric: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Step, mean over seeds, and the interval's ends of a column that was measured in each layer.

    Layers are averaged first (geometrically on request), so that a seed counts once.
    """
    values = rows[np.isfinite(rows[value])]
    if geometric:
        values = values[values[value] > 0]
        values = values.assign(**{value: np.log(values[value])})
    means = values.groupby(["step", "seed"])[value].mean().reset_index()
    found = [
        (step, *interval(group[value], "" if geometric else value))
        for step, group in means.groupby("step")
    ]
    steps, mean, low, high = np.array(found, dtype=float).reshape(-1, 4).T
    return (steps, exp(mean), exp(low), exp(high)) if geometric else (steps, mean, low, high)
