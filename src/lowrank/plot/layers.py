"""Which layers are factorised: quality beside what is kept of the dense model."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lowrank import escape
from lowrank.plot import marks
from lowrank.plot.arms import layers_label
from lowrank.plot.results import Results, records
from lowrank.plot.style import BLACK, GREY, canvas, legend_below, title_panels
from lowrank.plot.summary import arms, compare, summarise
from lowrank.plot.table import Table, costs, difference, qualities, words

PARAMETERS = Line2D([], [], linestyle="none", marker="o", color=BLACK, label="(b) parameters")
FLOPS = Line2D(
    [], [], linestyle="none", marker="|", markersize=9, color=BLACK, label="(b) FLOPs of a step"
)


def draw(results: Results) -> tuple[Figure, Table]:
    """One row an arm: quality on the left, each seed a dot; kept parameters and FLOPs on the right."""
    quality = results.quality
    table = pd.concat([_dense(results), arms(results, "layers")], ignore_index=True)
    table.insert(0, "label", [layers_label(row) for row in records(table)])
    figure, axes = canvas(2, height=1.3 + 0.28 * len(table), sharey=True, width_ratios=[3, 2])
    looks = [results.inits[init] for init in table["init"]]
    marks.strip(axes[0], _seeds(results, table), [look.color for look in looks], "y")
    for index, (row, look) in enumerate(zip(records(table), looks, strict=True)):
        mean, low, high = (
            quality.factor * getattr(row, f"{quality.metric}{end}") for end in ("", "_low", "_high")
        )
        style: dict[str, Any] = {"color": look.color, "marker": look.marker, "linestyle": "none"}
        axes[0].hlines(index, low, high, color=look.color, linewidth=0.9)
        axes[0].plot([mean], [index], **style, markerfacecolor="white" if row.diverged else None)
        axes[1].plot([row.kept_parameters], [index], **style)
        axes[1].plot([row.kept_flops], [index], color=look.color, marker="|", markersize=9)
        if row.diverged:
            axes[0].text(
                0.98 if quality.better < 0 else 0.02,
                index,
                "diverged",
                transform=axes[0].get_yaxis_transform(),
                ha="right" if quality.better < 0 else "left",
                va="center",
                color=GREY,
                fontsize=7,
            )
    axes[0].set_yticks(range(len(table)), [escape.label(label) for label in table["label"]])
    axes[0].set_ylim(len(table) - 0.5, -0.5)
    axes[0].set(xlabel=quality.axis, ylabel="")
    axes[0].grid(axis="y", visible=True)
    axes[1].set_xlabel("share kept of the dense model")
    title_panels(axes, ["quality", "size"])
    handles = [results.inits[name].handle(linestyle="none") for name in table["init"].unique()]
    extra = marks.extra_handles(table, quality, bars="_")[:1]  # where a run diverged it says so
    legend_below(figure, [*handles, *extra, PARAMETERS, FLOPS], columns=5)
    shown = quality.shown
    table = compare(table, results, "layers", "to_all", lambda r: r.label == "all layers")
    table = compare(table, results, "layers", "to_dense", lambda r: r.init == "dense")
    return figure, Table(
        table,
        [
            words("factorised", "label"),
            *costs(),
            *qualities(quality),
            difference("difference to all layers", "to_all", **shown),
            difference("difference to dense", "to_dense", **shown),
        ],
    )


def _seeds(results: Results, table: pd.DataFrame) -> list[tuple[int, float]]:
    """The row of each seed that ended, and its quality."""
    quality, rows = results.quality, {cell: index for index, cell in enumerate(table["cell"])}
    runs = results.table("runs").drop_duplicates(["cell", "seed"])
    runs = runs[runs["cell"].isin(rows) & ~runs["diverged"].astype(bool)]
    values = quality.factor * runs[quality.metric].astype(float)
    return list(zip(runs["cell"].map(rows), values, strict=True))


def _dense(results: Results) -> pd.DataFrame:
    """The dense model of the same width, which other studies trained; empty if none did."""
    runs = results.table("runs")
    width = results.study("layers")["width"].iloc[0]
    rows = runs[(runs["arm"] == "dense") & (runs["width"] == width)]
    quality = results.quality
    return summarise(rows, [quality.metric, *quality.beside])
