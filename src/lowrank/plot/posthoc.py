"""Truncating the trained dense model against training in low rank, at equal kept parameters."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lowrank.analysis.stats import paired_contrasts
from lowrank.plot import marks
from lowrank.plot.arms import INITS, TRUNCATIONS, Kind, arm_label, in_words
from lowrank.plot.results import Quality, Results, records
from lowrank.plot.style import canvas, legend_below, title_panels
from lowrank.plot.summary import arms, summarise
from lowrank.plot.table import Table, costs, difference, estimate, order, plain, qualities, words

KEYS = ["method", "rank_fraction", "fine_tune_steps"]
NONE = pd.Series(dtype=float)


def draw(results: Results) -> tuple[Figure, Table]:
    """One panel a length of fine-tuning, each with its own scale: an untuned truncation can be far
    off and would flatten the rest."""
    quality = results.quality
    trained = arms(results, "posthoc").drop(columns="method")  # of training, not of truncation
    rows = results.table("posthoc")
    # A model without batch norm has no metric from before its statistics were recomputed.
    stale = [name for name in (f"stale_{quality.metric}",) if rows.get(name, NONE).notna().any()]
    truncated = summarise(rows, [quality.metric, *quality.beside, *stale], keys=KEYS)
    lengths = sorted(truncated["fine_tune_steps"].unique())
    figure, axes = canvas(len(lengths), width=max(3.5, min(7.0, 3.5 * len(lengths))), height=3.0)
    handles: dict[str, Line2D] = {}
    for ax, length in zip(axes, lengths, strict=True):
        handles |= _trained(ax, trained, quality, results.inits)
        rows = truncated[truncated["fine_tune_steps"] == length]
        handles |= _truncated(ax, rows, quality, results.truncations)
        ax.set_xlabel("kept parameters")
        ax.set_ylabel(quality.axis)
    names = ["no fine-tuning" if n == 0 else f"fine-tuned for {n:g} steps" for n in lengths]
    title_panels(axes, names)
    shown = pd.concat([trained, truncated], ignore_index=True)
    legend_below(
        figure, [*handles.values(), *marks.extra_handles(shown, quality, bands=True)], columns=3
    )
    trained = trained.assign(label=["trained: " + arm_label(r) for r in records(trained)])
    truncated["label"] = [
        f"truncated: {in_words(row.method, TRUNCATIONS)}" for row in records(truncated)
    ]
    table = pd.concat([trained, truncated], ignore_index=True)
    table = table.merge(_to_trained(results), on=KEYS, how="left")
    return figure, Table(
        table,
        [
            words("model", "label"),
            plain("fine-tuning steps", "fine_tune_steps", 0),
            *costs(),
            order("training FLOPs", "training_flops"),
            *qualities(quality),
            *(estimate("with old batch norm", name, **quality.shown) for name in stale),
            difference("difference to trained in low rank", "to_trained", **quality.shown),
        ],
    )


def _to_trained(results: Results) -> pd.DataFrame:
    """Each truncation minus training in low rank at the same rank, paired by seed, Holm-corrected
    over all truncations."""
    truncated, metric = results.table("posthoc"), results.quality.metric
    trained = results.study("posthoc")
    trained = trained[trained["init"] != "dense"]
    there = dict(zip(trained["rank_fraction"], trained["cell"], strict=True))
    names = truncated[KEYS].astype(str).agg(" ".join, axis=1)
    both = pd.concat([trained, truncated.assign(cell=names)], ignore_index=True)
    keys = truncated[KEYS].assign(cell=names).drop_duplicates()
    keys = keys[keys["rank_fraction"].isin(there)]
    pairs = [(row.cell, there[row.rank_fraction]) for row in records(keys)]
    found = paired_contrasts(both, pairs, metric).replace([np.inf, -np.inf], np.nan)
    columns = {"estimate": "to_trained", "p_corrected": "to_trained_p"}
    columns |= {end: f"to_trained_{end}" for end in ("low", "high")}
    found = found.rename(columns=columns)[["arm", *columns.values()]]
    return keys.merge(found, left_on="cell", right_on="arm").drop(columns=["cell", "arm"])


def _trained(
    ax: Axes, trained: pd.DataFrame, quality: Quality, looks: dict[str, Kind]
) -> dict[str, Line2D]:
    handles = {}
    for row in records(trained[trained["init"] == "dense"]):
        handles["dense"] = marks.level(ax, row, quality, INITS["dense"])
    low = trained[trained["init"] != "dense"]
    for name in low["init"].unique():
        rows, look = low[low["init"] == name], looks[name]
        marks.points(
            ax, rows["kept_parameters"], rows, look, quality.metric, **quality.drawn, linestyle="-"
        )
        handles[name] = look.handle(f"trained in low rank, {look.label}")
    return handles


def _truncated(
    ax: Axes, rows: pd.DataFrame, quality: Quality, looks: dict[str, Kind]
) -> dict[str, Line2D]:
    handles = {}
    for method in rows["method"].unique():
        chosen, look = rows[rows["method"] == method], looks[method]
        marks.points(
            ax,
            chosen["kept_parameters"],
            chosen,
            look,
            quality.metric,
            **quality.drawn,
            linestyle=(0, (3, 1.5)),
        )
        handles[method] = look.handle(f"truncated, {look.label}", linestyle=(0, (3, 1.5)))
    return handles
