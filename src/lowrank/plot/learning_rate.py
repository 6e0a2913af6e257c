"""The learning-rate sweep of every arm: validation loss against rate, and which rate was chosen."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lowrank.plot import marks
from lowrank.plot.arms import INITS, Kind, in_words, varies
from lowrank.plot.results import Results, records
from lowrank.plot.style import BLACK, canvas, legend_below, log_axis, title_panels
from lowrank.plot.table import Column, Table, number, plain, words

CHOSEN = Line2D(
    [],
    [],
    linestyle="none",
    marker="o",
    markersize=9,
    markerfacecolor="none",
    color=BLACK,
    markeredgewidth=0.8,
    label="chosen",
)
EDGE = Line2D(
    [], [], linestyle="none", marker="s", markersize=9, markerfacecolor="none", color=BLACK,
    markeredgewidth=0.8, label="chosen, at an edge of the sweep",
)  # fmt: skip


def draw(results: Results) -> tuple[Figure, Table]:
    """One panel a rank and width; the dense model of that width in each."""
    rates = _labelled(results.table("rates"))
    panels = _panels(rates)
    columns = min(3 if len(panels) <= 12 else 4, len(panels))
    rows = -(-len(panels) // columns)
    figure, axes = canvas(columns, rows, height=0.7 + (2.1 if rows <= 3 else 1.7) * rows)
    for ax in axes[len(panels) :]:
        ax.remove()
    axes = axes[: len(panels)]
    names = list(rates["init"].unique())
    for ax, (_, chosen) in zip(axes, panels, strict=True):
        for _, group in chosen.groupby("group", sort=False):
            _sweep(ax, group, results.inits[group["init"].iloc[0]])
    for index, ax in enumerate(axes):
        log_axis(ax, "x", panels[index][1]["learning_rate"].unique())
        ax.set_xlabel("peak learning rate")
        if index % columns == 0:
            ax.set_ylabel(f"validation loss ({results.task.loss_unit})")
    title_panels(axes, [title for title, _ in panels])
    handles = [results.inits[name].handle() for name in names]
    handles += [CHOSEN, *([EDGE] if rates["at_edge"].any() else [])]
    seeds = ", ".join(f"{seed:g}" for seed in sorted(rates["seed"].unique()))
    handles.append(Line2D([], [], linestyle="none", label=f"one run a point, seed {seeds}"))
    legend_below(figure, handles + ([] if rates["finite"].all() else [marks.DIVERGED]), columns=5)
    return figure, _table(rates)


def _labelled(rates: pd.DataFrame) -> pd.DataFrame:
    """The sweeps with their `rank`, their `width` where it is not the track's own, and what was `finite`."""
    wide = [varies(row, "width") for row in records(rates)]
    finite = np.isfinite(rates["validation_loss"].astype(float))
    width = rates["width"].where(wide, np.nan)
    return rates.rename(columns={"rank_fraction": "rank"}).assign(width=width, finite=finite)


def _panels(rates: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    panels = []
    factorized = rates[rates["rank"].notna()]
    keys = (
        factorized[["width", "rank"]]
        .drop_duplicates()
        .sort_values(["width", "rank"], na_position="first")
    )
    for key in records(keys):
        width, rank = key.width, key.rank
        same = rates["width"].eq(width) | (rates["width"].isna() & pd.isna(width))
        rows = rates[same & (rates["rank"].eq(rank) | rates["rank"].isna())]
        title = f"rank {rank:g}" + ("" if pd.isna(width) else f", width {width:g}")
        panels.append((title, rows))
    return panels or [("dense", rates)]


def _sweep(ax: Axes, group: pd.DataFrame, look: Kind) -> None:
    rows = group[group["finite"]].sort_values("learning_rate")
    marks.crosses(ax, group.loc[~group["finite"], "learning_rate"], look)
    ax.plot(
        rows["learning_rate"],
        rows["validation_loss"],
        color=look.color,
        marker=look.marker,
        markersize=3.5,
    )
    for row in records(rows[rows["chosen"]]):
        ring = EDGE if row.at_edge else CHOSEN
        ax.plot(
            row.learning_rate,
            row.validation_loss,
            marker=ring.get_marker(),
            markersize=9,
            markerfacecolor="none",
            markeredgecolor=look.color,
            markeredgewidth=0.9,
        )


def _table(rates: pd.DataFrame) -> Table:
    """One row a sweep: the chosen rate, whether it is at an edge, and every loss."""
    rows = []
    for name, group in rates.groupby("group", sort=False):
        ordered = group.sort_values("learning_rate")
        losses = [
            f"{rate:g}: {number(loss, 3) if np.isfinite(loss) else 'diverged'}"
            for rate, loss in zip(ordered["learning_rate"], ordered["validation_loss"], strict=True)
        ]
        first = group.iloc[0]
        chosen = group.loc[group["chosen"], "learning_rate"]
        rows.append(
            {
                "group": name,
                "label": in_words(first["init"], INITS),
                **{key: first[key] for key in ("rank", "width", "seed", "at_edge")},
                "learning_rate": chosen.iloc[0] if len(chosen) else np.nan,
                "losses": "; ".join(losses),
            }
        )
    return Table(
        pd.DataFrame(rows),
        [
            words("arm", "label"),
            plain("rank fraction", "rank"),
            plain("width", "width", 0),
            Column("chosen rate", lambda row: f"{row.learning_rate:g}"),
            words("at an edge", lambda row: "yes" if row.at_edge else "no"),
            words("validation loss at each rate", "losses"),
        ],
    )
