"""How points, intervals, bands and diverged runs are drawn."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from lowrank.plot.arms import Kind
from lowrank.plot.results import Quality
from lowrank.plot.style import BLACK, GREY, VERMILLION

DIVERGED = Line2D(
    [], [], linestyle="none", marker="x", color=VERMILLION, markersize=6, label="diverged"
)


def points(
    ax: Axes,
    x: Iterable[float],
    rows: pd.DataFrame,
    kind: Kind,
    metric: str,
    factor: float = 1.0,
    **options: Any,
) -> None:
    """Means with 95 % t intervals in the kind's colour and marker; joined if a linestyle is given.

    A mean of the seeds that are left after others diverged is hollow.
    """
    table = rows.assign(x=list(x)).sort_values("x")
    mean, low, high = (factor * table[f"{metric}{end}"] for end in ("", "_low", "_high"))
    errors = np.nan_to_num(np.array([mean - low, high - mean]))
    style = {"linestyle": "none", "color": kind.color, **options}
    ax.errorbar(table["x"], mean, yerr=errors, elinewidth=0.9, zorder=3, **style)
    marker: dict[str, Any] = {
        "linestyle": "none",
        "marker": kind.marker,
        "markeredgecolor": kind.color,
    }
    size = options.get("markersize", {"*": 7.5, "P": 5.5}.get(kind.marker, 4.5))
    hollow = table["diverged"].to_numpy() > 0 if "diverged" in table else np.zeros(len(table), bool)
    for chosen, face in ((~hollow, kind.color), (hollow, "white")):
        ax.plot(
            table["x"][chosen],
            mean[chosen],
            markerfacecolor=options.get("markerfacecolor", face),
            markersize=size,
            zorder=4,
            **marker,
        )


def band(ax: Axes, curve: Any, kind: Kind, **options: Any) -> None:
    """A line with its 95 % t interval as a band; `curve` is x, mean, low and high."""
    x, mean, low, high = curve
    style: dict[str, Any] = {"color": kind.color, **options}
    ax.plot(x, mean, zorder=3, **style)
    ax.fill_between(x, low, high, color=kind.color, alpha=0.15, linewidth=0, zorder=2)


def level(ax: Axes, row: Any, quality: Quality, kind: Kind) -> None:
    """A horizontal line at one arm's mean, with its interval as a band."""
    mean, low, high = (
        quality.factor * getattr(row, f"{quality.metric}{end}") for end in ("", "_low", "_high")
    )
    if not np.isfinite(mean):
        return
    ax.axhline(mean, color=kind.color, linestyle=(0, (5, 2)), linewidth=1.0, zorder=2)
    if np.isfinite(low):
        ax.axhspan(low, high, color=kind.color, alpha=0.10, linewidth=0, zorder=1)


def worst_edge(quality: Quality) -> float:
    """The worse end of the quality's axis, as a share of its height."""
    return 0.97 if quality.better < 0 else 0.03


def diverged(ax: Axes, x: Iterable[float], edge: float = 0.97) -> bool:
    """A cross at the worse edge for each arm at `x` that had a diverged run; whether there was one."""
    places = list(x)
    if places:
        ax.plot(
            places,
            [edge] * len(places),
            transform=ax.get_xaxis_transform(),
            linestyle="none",
            marker="x",
            color=VERMILLION,
            markersize=6,
            markeredgewidth=1.4,
            clip_on=False,
            zorder=5,
        )
    return bool(places)


def note(ax: Axes, text: str, x: float = 0.5, y: float = 0.5) -> None:
    """A remark inside an axes where there is nothing to draw."""
    ax.text(x, y, text, transform=ax.transAxes, ha="center", va="center", color=GREY, fontsize=7)


def interval_handle(label: str = "95 % t interval") -> Line2D:
    """The legend entry that says what the bars are."""
    return Line2D([], [], linestyle="none", marker="|", color=BLACK, markersize=7, label=label)
