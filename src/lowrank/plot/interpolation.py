"""The line from the dense solution to low-rank ones: losses along it, barriers, and how close its ends are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lowrank.plot import marks
from lowrank.plot.arms import Kind
from lowrank.plot.results import Results
from lowrank.plot.style import BLACK, GREY, canvas, legend_below, title_panels
from lowrank.plot.summary import compare, interval
from lowrank.plot.table import Column, Table, costs, difference, estimate, plain, words

PALE: dict[str, Any] = {"alpha": 0.35, "markersize": 3.5, "markeredgewidth": 0}
SEED = Line2D([], [], linestyle="none", marker="o", color=BLACK, label="one seed", **PALE)
CONTROL = Kind("dense, next seed (control)", GREY, "X")
FLOOR = Line2D(
    [], [], linestyle=":", color=BLACK, label="(b) nearest of the rank: dense, truncated"
)
SHOWN = ("barrier", "distance", "cosine_distance", "disagreement")
"""Columns of `barriers`; those published before had the first two."""


def draw(results: Results) -> tuple[Figure, Table]:
    """Validation loss at theta(t); each line's barrier against the distance of its end; how often the ends
    predict otherwise, against the angle between them."""
    points, barriers = results.table("interpolation"), results.table("barriers")
    looks = _looks(results, list(barriers["cell"].unique()))
    barriers = barriers.reindex(columns=[*barriers, *({*SHOWN, "floor"} - {*barriers})])
    close = barriers["disagreement"].notna().any()
    figure, axes = canvas(3 if close else 2, height=3.0)
    for cell, look in looks.items():
        rows = points[points["cell"] == cell]
        found = [(t, *interval(group["loss"], "loss")) for t, group in rows.groupby("t")]
        if found:
            marks.band(axes[0], np.array(found).T, look, marker=look.marker, markersize=3.5)
    _ends(axes[1], barriers, looks, "distance", "barrier")
    axes[1].axhline(0, color=GREY, linewidth=0.6, zorder=1)
    floors = barriers["floor"].dropna()
    if len(floors):
        axes[1].axvline(floors.mean(), linestyle=FLOOR.get_linestyle(), color=BLACK, linewidth=0.9)
    axes[0].set_xlabel(r"$t$: from dense ($t=0$) to low rank ($t=1$)")
    unit = results.task.loss_unit
    axes[0].set_ylabel(f"validation loss ({unit})")
    axes[1].set_xlabel(r"distance $\Vert W_1 - W_0\Vert_F\,/\,\Vert W_0\Vert_F$")
    axes[1].set_ylabel(f"barrier ({unit})")
    if close:
        _ends(axes[2], barriers, looks, "cosine_distance", "disagreement", 100)
        axes[2].set_xlabel(r"cosine distance of $W_0$ and $W_1$")
        axes[2].set_ylabel("predictions that differ (%)")
    title_panels(axes, ["along the line", "barrier and distance", "predictions and angle"])
    table = _table(results, barriers, looks)
    handles: list[Any] = [look.handle() for look in looks.values()]
    handles += [SEED, *([FLOOR] if len(floors) else [])]
    counted = table.numbers.assign(diverged=0)
    legend_below(figure, handles + marks.extra_handles(counted, bands=True), columns=4)
    return figure, table


def _looks(results: Results, cells: list[str]) -> dict[str, Kind]:
    """How each line is drawn, the control last; lines to models without a run are left out, since
    nothing says what they are."""
    runs: Any = results.table("runs").drop_duplicates("cell").set_index("cell")
    looks: dict[str, Kind] = {}
    for cell in cells:
        if cell not in runs.index:
            continue
        row = runs.loc[cell]
        init = results.inits[row["init"]]
        if row["pretraining"] > 0:
            looks[cell] = results.switches[row["init"], row["pretraining"]]
        else:
            looks[cell] = Kind(f"{init.label}, from scratch", init.color, init.marker)
    control = f"{results.track}/dense-other-seed"
    return looks | ({control: CONTROL} if control in cells else {})


def _ends(
    ax: Axes,
    barriers: pd.DataFrame,
    looks: dict[str, Kind],
    across: str,
    up: str,
    factor: float = 1.0,
) -> None:
    """One point a seed, faint; the mean with intervals in both directions."""
    for cell, look in looks.items():
        rows = barriers[barriers["cell"] == cell]
        x, x_low, x_high = interval(rows[across], across)
        y, y_low, y_high = interval(factor * rows[up], up)
        ax.plot(
            rows[across],
            factor * rows[up],
            linestyle="none",
            marker=look.marker,
            color=look.color,
            **PALE,
        )
        ax.errorbar(
            x,
            y,
            xerr=np.nan_to_num([[x - x_low], [x_high - x]]),
            yerr=np.nan_to_num([[y - y_low], [y_high - y]]),
            color=look.color,
            marker=look.marker,
            markersize=6,
            elinewidth=0.9,
        )


def _table(results: Results, barriers: pd.DataFrame, looks: dict[str, Kind]) -> Table:
    runs: Any = results.table("runs").drop_duplicates("cell").set_index("cell")
    rows: list[dict[str, Any]] = []
    for cell, look in looks.items():
        group = barriers[barriers["cell"] == cell]
        row: dict[str, Any] = {"label": look.label, "cell": cell, "seeds": len(group)}
        for fact in ("rank_fraction", "kept_parameters", "kept_flops", "pretraining"):
            row[fact] = runs.at[cell, fact] if cell in runs.index else np.nan
        row["floor"] = group["floor"].mean()
        for metric in SHOWN:
            row[metric], row[f"{metric}_low"], row[f"{metric}_high"] = interval(
                group[metric], metric
            )
        rows.append(row)
    table = pd.DataFrame(rows)
    for metric in SHOWN:
        table = compare(
            table,
            results,
            "interpolation",
            f"{metric}_to_scratch",
            lambda r: r.pretraining == 0,
            metric=metric,
        )
    return Table(
        table,
        [
            words("line from dense to", "label"),
            *costs(),
            Column("seeds", lambda row: f"{row.seeds}"),
            estimate("barrier", "barrier", 3),
            estimate("distance", "distance", 3),
            plain("distance of the nearest of its rank", "floor", 3),
            estimate("cosine distance", "cosine_distance", 3),
            estimate("predictions that differ (%)", "disagreement", 1, 100),
            difference("barrier, difference to from scratch", "barrier_to_scratch", 3),
            difference("distance, difference to from scratch", "distance_to_scratch", 3),
            difference("cosine distance, difference", "cosine_distance_to_scratch", 3),
            difference("predictions, difference (points)", "disagreement_to_scratch", 1, 100),
        ],
    )
