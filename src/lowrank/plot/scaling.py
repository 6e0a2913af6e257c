"""Quality against compute, device time and parameters as the model is widened."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from lowrank import escape
from lowrank.analysis.power_law import PowerLaw, power_law
from lowrank.plot import marks
from lowrank.plot.arms import INITS, Kind, in_words
from lowrank.plot.results import Quality, Results, records
from lowrank.plot.style import COLUMN, canvas, legend_below, log_axis, title_panels
from lowrank.plot.summary import arms, compare
from lowrank.plot.table import (
    Table,
    costs,
    count,
    difference,
    estimate,
    number,
    order,
    qualities,
    words,
)

ENOUGH = 4
"""Widths from which a power law is fitted: with three, its interval has one degree of freedom."""


def draw(results: Results) -> tuple[Figure, Table]:
    """Quality against training FLOPs and against seconds of training, with fitted power laws."""
    table = _labelled(results)
    laws = _laws(table, results.quality, "training_flops")
    figure, axes = canvas(2, height=3.1, sharey=True)
    handles = _panel(axes[0], table, results, "training_flops", laws, annotate=True)
    _panel(axes[1], table, results, "train_seconds", {})
    axes[0].set_xlabel("training FLOPs")
    axes[1].set_xlabel(f"training time (s), {escape.label(_device(results))}")
    axes[0].set_ylabel(results.quality.axis)
    title_panels(axes, ["compute", "device time"])
    legend_below(figure, handles, columns=3)
    return figure, _table(table, results, laws)


def draw_parameters(results: Results) -> tuple[Figure, Table]:
    """Quality against the number of parameters, same runs."""
    table = _labelled(results)
    laws = _laws(table, results.quality, "parameters")
    figure, (ax,) = canvas(width=COLUMN, height=3.2)
    handles = _panel(ax, table, results, "parameters", laws, annotate=True)
    ax.set_xlabel("parameters")
    ax.set_ylabel(results.quality.axis)
    legend_below(figure, handles, columns=2)
    return figure, _table(table, results, laws)


def _labelled(results: Results) -> pd.DataFrame:
    table = arms(results, "scaling", ("train_seconds",))
    table.insert(0, "group", [_group(row) for row in records(table)])
    order = {name: index for index, name in enumerate(table["group"].unique())}
    return table.sort_values(
        ["width", "group"], key=lambda c: c.map(order) if c.name == "group" else c
    )


def _group(row: Any) -> str:
    if row.init == "dense":
        return "dense"
    look = in_words(row.init, INITS)
    where = f"low rank {row.rank_fraction:g}"
    if row.pretraining > 0:
        return f"{where}, {look}, after {100 * row.pretraining:g} % dense"
    return f"{where}, {look}"


def _look(rows: pd.DataFrame, results: Results) -> Kind:
    init, share = rows.iloc[0][["init", "pretraining"]]
    return results.switches[init, share] if share > 0 else results.inits[init]


def _fitted(quality: Quality, values: pd.Series) -> pd.Series:
    """What a power law is fitted to: the loss, or the share of images that are got wrong."""
    return values if quality.better < 0 else 1.0 - values


def _laws(table: pd.DataFrame, quality: Quality, x: str) -> dict[str, PowerLaw]:
    laws = {}
    for name, rows in table.groupby("group", sort=False):
        y = _fitted(quality, rows[quality.metric])
        good = np.isfinite(y) & (y > 0)
        if rows.loc[good, x].nunique() >= ENOUGH:
            laws[str(name)] = power_law(rows.loc[good, x], y[good])
    return laws


def _panel(
    ax: Axes,
    table: pd.DataFrame,
    results: Results,
    x: str,
    laws: dict[str, PowerLaw],
    annotate: bool = False,
) -> list[Line2D]:
    quality = results.quality
    handles = []
    for name, rows in table.groupby("group", sort=False):
        look = _look(rows, results)
        line = "none" if name in laws else "-"
        marks.points(ax, rows[x], rows, look, quality.metric, **quality.drawn, linestyle=line)
        handle = look.handle(str(name), linestyle="--" if name in laws else "-")
        if name in laws:
            law = laws[str(name)]
            grid = np.geomspace(rows[x].min(), rows[x].max(), 60)
            y = quality.factor * np.asarray(_fitted(quality, pd.Series(law(grid))))
            ax.plot(grid, y, color=look.color, linestyle="--", linewidth=0.9, zorder=2)
            handle.set_label(f"{handle.get_label()}\nexponent {_exponent(law)}")
        handles.append(handle)
    handles += marks.extra_handles(table, quality)
    ax.margins(x=0.08)
    log_axis(ax, "x")
    if annotate:
        _name_widths(ax, table[table["group"] == "dense"], quality, x)
        handles.append(Line2D([], [], linestyle="none", label="numbers: width of the model"))
    return handles


def _name_widths(ax: Axes, rows: pd.DataFrame, quality: Quality, x: str) -> None:
    """Beside each point, on the side to which its line does not go."""
    for row in records(rows):
        y = quality.factor * getattr(row, quality.metric)
        if np.isfinite(y):
            ax.annotate(
                f"{row.width}",
                (getattr(row, x), y),
                xytext=(-4, 3 * quality.better),
                textcoords="offset points",
                ha="right",
                va="top" if quality.better < 0 else "bottom",
                fontsize=7,
                path_effects=[withStroke(linewidth=2, foreground="white")],
            )


def _exponent(law: PowerLaw) -> str:
    return f"{number(law.exponent, 3)} [{number(law.low, 3)}, {number(law.high, 3)}]"


def _device(results: Results) -> str:
    """The device that all runs of the study had in common, by its name in the tables."""
    names = [str(name) for name in results.study("scaling")["device"].dropna().unique()]
    return names[0].replace("(R)", "") if len(names) == 1 else "several devices"


def _table(table: pd.DataFrame, results: Results, laws: dict[str, PowerLaw]) -> Table:
    quality = results.quality
    shown = quality.shown
    table = compare(
        table, results, "scaling", "to_dense", lambda r: r.init == "dense", within="width"
    )
    table = compare(
        table,
        results,
        "scaling",
        "to_scratch",
        lambda r: r.init != "dense" and r.pretraining == 0,
        within="width",
    )
    for part in ("exponent", "low", "high"):
        name = "exponent" if part == "exponent" else f"exponent_{part}"
        table[name] = [getattr(laws.get(group), part, np.nan) for group in table["group"]]
    columns = [
        words("arm", "group"),
        count("width", "width"),
        *costs(),
        count("parameters", "parameters"),
        order("training FLOPs", "training_flops"),
        estimate("training time (s)", "train_seconds", 2),
        *qualities(quality),
        difference("difference to dense", "to_dense", **shown),
        difference("difference to from scratch", "to_scratch", **shown),
    ]
    if laws:
        columns.append(words("exponent of the fit", lambda row: _law_text(row)))
    return Table(table, columns)


def _law_text(row: Any) -> str:
    if not np.isfinite(row.exponent):
        return "–"
    low, high = number(row.exponent_low, 3), number(row.exponent_high, 3)
    return f"{number(row.exponent, 3)} [{low}, {high}]"
