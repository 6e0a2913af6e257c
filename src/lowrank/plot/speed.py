"""How many times as fast a factorised step is as the dense one of its width, by size and rank."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lowrank.analysis.described import of_cells
from lowrank.analysis.stats import mean_interval
from lowrank.exponential import exp
from lowrank.plot.arms import Kind, layers_label, varies
from lowrank.plot.results import Results
from lowrank.plot.style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SKY,
    VERMILLION,
    canvas,
    legend_below,
    log_axis,
    title_panels,
)
from lowrank.plot.table import Column, Table, order, plain, words

COLORS = (BLUE, VERMILLION, GREEN, PURPLE, ORANGE, SKY)
MARKERS: tuple[Any, ...] = ("o", "s", "^", "D", "v", "P")
TWICE = Line2D([], [], color=GREY, linestyle=":", label="twice as fast")


def draw(results: Results) -> tuple[Figure, Table]:
    """A panel a processor: speed over the dense model's against width, a line a rank."""
    rows = of_cells(results.table("speed"), results.table("runs"))
    table = _compared(rows)
    processors = list(table["processor"].unique())
    figure, axes = canvas(len(processors), height=3.0, sharey=True)
    low = table[table["init"] != "dense"]
    names = list(dict.fromkeys(low["label"]))
    looks = {
        name: Kind(name, COLORS[i % len(COLORS)], MARKERS[i % len(MARKERS)])
        for i, name in enumerate(names)
    }
    for ax, processor in zip(axes, processors, strict=True):
        _panel(ax, low[low["processor"] == processor], looks)
    axes[0].set_ylabel("dense step over factorised step")
    title_panels(axes, [str(name) for name in processors])
    legend_below(figure, [*(look.handle() for look in looks.values()), TWICE], columns=3)
    return figure, _table(table)


def _compared(rows: pd.DataFrame) -> pd.DataFrame:
    """One row a cell and processor with `speedup` over the dense model of its width, round by round, and its
    95 % t interval over rounds; bytes of training state over the dense model's."""
    rows = rows.assign(processor=rows.get("processor", ""))
    found = []
    for (processor, width), group in rows.groupby(["processor", "width"], sort=False):
        dense = group[group["init"] == "dense"].set_index("seed")
        for cell, own in group.groupby("cell", sort=False):
            own = own.set_index("seed")
            first = own.iloc[0]
            ratio = np.log(dense["step_seconds"] / own["step_seconds"]).dropna()
            interval = mean_interval(ratio.to_numpy()) if len(ratio) else None
            ends = (interval.estimate, interval.low, interval.high) if interval else (np.nan,) * 3
            speedup, low, high = exp(np.array(ends, dtype=float))
            row = {
                **first.to_dict(),
                "cell": cell,
                "processor": processor,
                "width": width,
                "label": _label(first),
                "milliseconds": 1000 * own["step_seconds"].mean(),
                "speedup": speedup,
                "speedup_low": low,
                "speedup_high": high,
                "state": first["state_bytes"] / dense["state_bytes"].iloc[0] if len(dense) else np.nan,
            }  # fmt: skip
            found.append(row)
    table = pd.DataFrame(found)
    return table.sort_values(["processor", "width"], kind="stable").reset_index(drop=True)


def _label(row: Any) -> str:
    """The reading of a rank in words."""
    if row["init"] == "dense":
        return "dense"
    share = row.get("kept_share")
    if share is not None and pd.notna(share):
        return f"{share:g} of the parameters"
    label = f"rank {row['rank_fraction']:g} of the smaller side"
    return label if not varies(row, "matricisation") else f"{label}, {layers_label(row)}"


def _panel(ax: Axes, rows: pd.DataFrame, looks: dict[str, Kind]) -> None:
    for name, group in rows.groupby("label", sort=False):
        look, group = looks[str(name)], group.sort_values("width")
        errors = np.array(
            [
                group["speedup"] - group["speedup_low"],
                group["speedup_high"] - group["speedup"],
            ]
        )
        ax.errorbar(
            group["width"],
            group["speedup"],
            yerr=np.nan_to_num(errors),
            color=look.color,
            marker=look.marker,
            markersize=4.5,
            elinewidth=0.9,
        )
    ax.axhline(1, color=GREY, linewidth=0.6, zorder=1)
    ax.axhline(2, color=GREY, linewidth=0.9, linestyle=":", zorder=1)
    log_axis(ax, "x", rows["width"].unique())
    ax.set_xlabel("width")


def _table(table: pd.DataFrame) -> Table:
    return Table(
        table,
        [
            words("arm", "label"),
            plain("width", "width", 0),
            plain("rank fraction", "rank_fraction"),
            plain("kept parameters", "kept_parameters"),
            order("milliseconds a step", "milliseconds"),
            Column("speed over dense", _speedup),
            plain("training state over dense", "state"),
            words("processor", "processor"),
        ],
    )


def _speedup(row: Any) -> str:
    if row.init == "dense" or not np.isfinite(row.speedup):
        return "–"
    return f"{row.speedup:.2f} [{row.speedup_low:.2f}, {row.speedup_high:.2f}]"
