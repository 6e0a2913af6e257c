"""Published methods of training side by side: a board for each budget and rank.

Groups and the front are those of `lowrank.analysis.groups`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lowrank import escape
from lowrank.analysis.groups import groups, pareto
from lowrank.analysis.measures import NONE, number
from lowrank.methods import METHODS
from lowrank.plot import marks
from lowrank.plot.arms import INITS, Kind, decay_label, init_label, varies
from lowrank.plot.results import Quality, Results, records
from lowrank.plot.style import BLUE, FULL, GREY, ORANGE, canvas, legend_below, title_panels
from lowrank.plot.summary import arms, compare
from lowrank.plot.table import Column, Table, count, difference, order, plain, qualities, words

BUDGETS = {"steps": "equal steps", "flops": "equal FLOPs"}
MEASURED = ("state_bytes", "peak_memory_bytes")
SMALLER = Kind("fewer parameters than dense", BLUE, "o")
AS_LARGE = Kind("as many or more", ORANGE, "o")
FRONT = Line2D(
    [],
    [],
    linestyle="none",
    marker="*",
    color=GREY,
    markersize=8,
    label="on the front of quality, state, FLOPs",
)
REACH = 3.0
"""Arms farther behind the best than so many times the median is are drawn at the edge, with a number."""


def draw(results: Results) -> tuple[Figure, Table]:
    """One row a method, the best above; arms that no test tells from the best of their group share a band."""
    quality = results.quality
    table = compare(_arms(results), results, "methods", "to_dense", lambda row: row.init == "dense")
    boards = _boards(table, results)
    columns = min(2, len(boards))
    heights = [
        max(len(rows) for _, rows in boards[start : start + columns])
        for start in range(0, len(boards), columns)
    ]
    figure, axes = canvas(
        columns,
        len(heights),
        width=FULL,
        height=0.4 + sum(0.55 + 0.155 * height for height in heights),
        height_ratios=heights,
    )
    for ax, (_, rows) in zip(axes, boards, strict=False):
        _board(ax, rows, quality)
    for ax in axes[len(boards) :]:
        ax.remove()
    title_panels(axes, [title for title, _ in boards])
    whole = pd.concat([rows for _, rows in boards], ignore_index=True)
    extra = marks.extra_handles(whole, quality, bars="_")[:1]  # where a run diverged it says so
    kinds = [kind.handle(linestyle="none") for kind in (INITS["dense"], SMALLER, AS_LARGE)]
    legend_below(figure, [*kinds, FRONT, *extra], columns=3)
    return figure, _table(whole, quality)


def _arms(results: Results) -> pd.DataFrame:
    """The arms of the study with their names for readers and what they need."""
    table, runs = arms(results, "methods"), results.study("methods")
    known = [name for name in MEASURED if name in runs]
    table = table.merge(runs.groupby("cell")[known].mean().reset_index(), "left", "cell")
    table = table.assign(**{name: np.nan for name in MEASURED if name not in known})
    table.insert(0, "label", [method_label(row) for row in records(table)])
    return table.assign(step_seconds=table["train_seconds"] / table["steps"])


def _boards(table: pd.DataFrame, results: Results) -> list[tuple[str, pd.DataFrame]]:
    """The rows of each board under its title, in order; dense, which sets both budgets, is on all."""
    quality, runs = results.quality, results.study("methods")
    dense, low = table[table["init"] == "dense"], table[table["init"] != "dense"]
    boards = []
    for (budget, rank), rows in sorted(
        low.groupby(["budget", "rank_fraction"]),
        key=lambda item: (item[0][0] != "steps", item[0][1]),
    ):
        rows = pd.concat([dense, rows], ignore_index=True)
        found = groups(runs, list(rows["cell"]), quality.metric, quality.better)
        rows["board_budget"], rows["board_rank"] = budget, rank
        rows["group"] = rows["cell"].map(found)
        loss = -quality.better * rows[quality.metric]
        front = np.column_stack([loss, rows["state_bytes"], rows["training_flops"]])
        rows["front"] = pareto(front) & (rows["diverged"] == 0)
        rows = rows.assign(loss=loss).sort_values(["group", "loss"], ignore_index=True)
        title = f"{BUDGETS.get(str(budget), budget)}, rank {rank:g}"
        boards.append((title, rows.drop(columns="loss")))
    return boards


def method_label(row: Any) -> str:
    """An arm's method in words, with what else it differs in from the track's plain arm."""
    if row.init == "dense":
        return INITS["dense"].label
    label = METHODS[row.method].label if row.method in METHODS else row.method.replace("_", " ")
    parts = [label]
    if varies(row, "init"):
        parts.append(init_label(row))
    if row.method != "khodak" and (varies(row, "decay") or varies(row, "decay_coupled")):
        parts.append(decay_label(row))
    if "decay_strength" in str(getattr(row, "swept", "")):
        parts.append("strength tuned")
    if row.pretraining > 0 and row.method != "pretrained":
        parts.append(f"{100 * row.pretraining:g} % dense first")
    return ", ".join(parts)


def _board(ax: Axes, rows: pd.DataFrame, quality: Quality) -> None:
    """A board: means with intervals, bands for groups, stars where no arm is better in everything."""
    best, worst, ahead = _limits(rows, quality)
    for place, row in enumerate(records(rows)):
        dense = row.init == "dense"
        look = INITS["dense"] if dense else SMALLER if row.kept_parameters < 1 else AS_LARGE
        mean, low, high = (
            quality.factor * getattr(row, f"{quality.metric}{end}") for end in ("", "_low", "_high")
        )
        if not np.isfinite(mean) or abs(mean - best) > abs(worst - best):
            text = number(mean, quality.digits) if np.isfinite(mean) else "diverged"
            side = "left" if quality.better > 0 else "right"
            ax.text(worst, place, text, ha=side, va="center", color=look.color, fontsize=7)
            continue
        ax.hlines(place, low, high, color=look.color, linewidth=0.9, zorder=3)
        marker, size = ("*", 8.0) if row.front else (look.marker, 4.0)
        face = "white" if row.diverged else look.color
        ax.plot([mean], [place], color=look.color, marker=marker, markersize=size, zorder=4,
                markerfacecolor=face)  # fmt: skip
    for number_, group in rows.groupby("group"):
        if number_ % 2:
            ax.axhspan(
                group.index[0] - 0.5, group.index[-1] + 0.5, color=GREY, alpha=0.13, linewidth=0
            )
    ax.set_yticks(range(len(rows)), [escape.label(label) for label in rows["label"]])
    ax.set_ylim(len(rows) - 0.5, -0.5)
    ax.set_xlim(*sorted((worst, ahead)))
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="y", visible=False)
    ax.set_xlabel(quality.axis)


def _limits(rows: pd.DataFrame, quality: Quality) -> tuple[float, float, float]:
    """The best mean, and where the axis ends on the worse and on the better side."""
    values = (quality.factor * rows[quality.metric]).dropna()
    if values.empty:
        return 0.0, -0.1 * quality.better, 0.1 * quality.better
    best = values.max() if quality.better > 0 else values.min()
    behind = (values - best).abs()
    near = [REACH * behind.median(), 1.2 * behind[rows["init"] == "dense"].max(), 1e-6 * abs(best)]
    reach = min(max(x for x in near if np.isfinite(x)), 1.1 * behind.max() or np.inf)
    ends = quality.factor * rows[f"{quality.metric}_{'high' if quality.better > 0 else 'low'}"]
    longest = np.nan_to_num((quality.better * (ends - best)).max())
    ahead = min(max(0.08 * reach, 1.05 * longest), reach / 3)
    return best, best - quality.better * reach, best + quality.better * ahead


def _group(row: Any) -> str:
    return NONE if pd.isna(row.group) else f"{row.group:.0f}"


def _table(rows: pd.DataFrame, quality: Quality) -> Table:
    return Table(
        rows,
        [
            words("budget", lambda row: BUDGETS.get(row.board_budget, row.board_budget)),
            plain("rank", "board_rank"),
            Column("group", _group),
            words("method", "label"),
            *qualities(quality),
            difference("difference to dense", "to_dense", **quality.shown),
            plain("kept parameters", "kept_parameters"),
            count("steps", "steps"),
            order("training FLOPs", "training_flops"),
            plain("ms a step", "step_seconds", 1, factor=1000),
            plain("state (MB)", "state_bytes", 2, factor=1e-6),
            plain("peak memory (MB)", "peak_memory_bytes", 0, factor=1e-6),
            words("front", lambda row: "yes" if row.front else ""),
        ],
    )
