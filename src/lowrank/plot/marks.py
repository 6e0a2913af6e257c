"""How points, intervals, bands and diverged runs are drawn."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from lowrank.plot.arms import Kind
from lowrank.plot.results import Quality
from lowrank.plot.style import BLACK, GREY

DASHED = (0, (5, 2))
CROSS: dict[str, Any] = {
    "linestyle": "none",
    "marker": "x",
    "markersize": 6,
    "markeredgewidth": 1.4,
}
DIVERGED = Line2D([], [], color=BLACK, label="diverged", **CROSS)


def points(
    ax: Axes,
    x: Iterable[float],
    rows: pd.DataFrame,
    kind: Kind,
    metric: str,
    factor: float = 1.0,
    better: int = -1,
    **options: Any,
) -> None:
    """Means with 95 % t intervals in the kind's colour and marker; joined if a linestyle is given.

    Where a run diverged there is a cross at the worse edge, and the mean of the seeds that are left
    is hollow.
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
        "markersize": {"*": 7.5, "P": 5.5}.get(kind.marker, 4.5),
        "zorder": 4,
    }
    lost = table["diverged"].to_numpy() > 0
    for chosen, face in ((~lost, kind.color), (lost, "white")):
        ax.plot(table["x"][chosen], mean[chosen], markerfacecolor=face, **marker)
    crosses(ax, table["x"][lost], kind, better)


def crosses(ax: Axes, x: Iterable[float], kind: Kind, better: int = -1) -> None:
    """A cross at the worse edge of the vertical axis for each place at which a run diverged."""
    places = [place for place in x if np.isfinite(place)]
    if places:
        style = {**CROSS, "color": kind.color, "clip_on": False, "zorder": 5}
        edge = 0.97 if better < 0 else 0.03
        ax.plot(places, [edge] * len(places), transform=ax.get_xaxis_transform(), **style)


def level(ax: Axes, row: Any, quality: Quality, kind: Kind, label: str | None = None) -> Line2D:
    """A horizontal line at one arm's mean, with its interval as a band; its legend entry."""
    mean, low, high = (
        quality.factor * getattr(row, f"{quality.metric}{end}") for end in ("", "_low", "_high")
    )
    label = label or kind.label
    if not np.isfinite(mean):
        return kind.handle(f"{label}: diverged", marker="x", linestyle="none")
    ax.axhline(mean, color=kind.color, linestyle=DASHED, linewidth=1.0, zorder=2)
    if np.isfinite(low):
        ax.axhspan(low, high, color=kind.color, alpha=0.10, linewidth=0, zorder=1)
    if row.diverged:
        label += f" ({row.diverged:.0f} diverged)"
    return kind.handle(label, marker="none", linestyle=DASHED)


def extra_handles(
    table: pd.DataFrame,
    quality: Quality | None = None,
    bars: str = "|",
    bands: bool = False,
) -> list[Any]:
    """The legend entries that say what bars, bands and, where there are any, crosses are; with the
    number of seeds, and with where an interval of the quality was cut. `bars` is the marker that bars
    look like, `_` where they lie, empty where there are none."""
    seeds = table.loc[table["seeds"] > 0, "seeds"].astype(int)
    least, most = (int(seeds.min()), int(seeds.max())) if len(seeds) else (0, 0)
    if most < 2:
        why = "one seed" if most else "every run diverged"
        found: list[Any] = [Line2D([], [], linestyle="none", label=f"{why}: no intervals")]
    else:
        number = f"{most}" if least == most else f"{least} to {most}"
        label = f"95 % t interval, {number} seeds"
        if quality is not None and quality.better > 0:
            ends = [table[f"{quality.metric}_{end}"] for end in ("low", "high")]
            cut = [
                f"{place} %"
                for place, end in zip((0, 100), ends, strict=True)
                if (quality.factor * end == place).any()
            ]
            label += f" (ends at {' and '.join(cut)})" if cut else ""
        bar = Line2D([], [], linestyle="none", marker=bars, color=BLACK, markersize=7, label=label)
        patch = Patch(facecolor=GREY, alpha=0.3, linewidth=0, label=label)
        chosen = [handle for handle, there in ((patch, bands), (bar, bars != "")) if there]
        found = [tuple(chosen) if len(chosen) > 1 else chosen[0]]
    return [*found, DIVERGED] if table["diverged"].any() else found


def strip(
    ax: Axes, values: Iterable[tuple[int, float]], colors: Sequence[str], orient: str
) -> None:
    """Single values as pale dots in rows (`orient` y) or columns (x), `place, value` each, row or
    column n in the n-th colour; beneath the means and intervals that are drawn of them.

    seaborn draws what shows a distribution over categories. It is imported here: it takes a second,
    which other figures need not wait for.
    """
    import seaborn

    shown = pd.DataFrame(values, columns=["place", "value"])
    shown = shown[np.isfinite(shown["value"].astype(float))]
    if not len(shown):
        return
    order = list(range(len(colors)))
    seaborn.stripplot(
        shown,
        x="value" if orient == "y" else "place",
        y="place" if orient == "y" else "value",
        order=order,
        hue="place",
        hue_order=order,
        palette=dict(enumerate(colors)),
        orient=orient,
        jitter=False,
        size=3,
        alpha=0.35,
        linewidth=0,
        legend=False,
        zorder=2.5,
        ax=ax,
    )


def band(ax: Axes, curve: Any, kind: Kind, **options: Any) -> None:
    """A line with its 95 % t interval as a band; `curve` is x, mean, low and high."""
    x, mean, low, high = curve
    if len(x) == 1:  # neither a line nor a band is seen
        low, high = np.nan_to_num([mean - low, high - mean])
        ax.errorbar(x, mean, yerr=[low, high], color=kind.color, elinewidth=0.9, zorder=3)
    style: dict[str, Any] = {"color": kind.color, **options}
    ax.plot(x, mean, zorder=3, **style)
    ax.fill_between(x, low, high, color=kind.color, alpha=0.15, linewidth=0, zorder=2)
