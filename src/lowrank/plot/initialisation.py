"""Initialisations of the factors at each rank, against the dense model."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lowrank import escape
from lowrank.plot import marks
from lowrank.plot.arms import INITS, Kind, arm_label
from lowrank.plot.results import Quality, Results, records
from lowrank.plot.style import COLUMN, FULL, GREY, add_perplexity, canvas, legend_below, widen
from lowrank.plot.summary import arms, compare
from lowrank.plot.table import Table, costs, difference, qualities, words

NGRAMS = {"unigram": ":", "bigram": "-."}


def draw(results: Results) -> tuple[Figure, Table]:
    """Quality of each initialisation at each rank; dense as a line; for language n-gram models."""
    quality = results.quality
    table = arms(results, "initialisation")
    table = table.sort_values(
        "rank_fraction", na_position="first", kind="stable", ignore_index=True
    )
    table.insert(0, "label", [arm_label(row) for row in records(table)])
    table = compare(table, results, "initialisation", "to_dense", lambda r: r.init == "dense")
    table = compare(table, results, "initialisation", "to_spectral", lambda r: r.init == "spectral")
    grams = results.optional("baselines") if results.task.language else pd.DataFrame()
    figure, (ax,) = canvas(width=_width(table), height=3.1)
    handles = _points(ax, table, quality, results.inits)
    handles += _ngrams(ax, grams, quality)
    ax.set_ylabel(quality.axis)
    if results.task.language:
        add_perplexity(ax)
    legend_below(figure, handles + marks.extra_handles(table, quality, bands=True), columns=3)
    if len(grams):
        rows = grams.assign(label=grams["model"] + " model", seeds=1, diverged=0)
        table = pd.concat([table, rows.reindex(columns=table.columns)], ignore_index=True)
    return figure, _table(table, quality)


def _width(table: pd.DataFrame) -> float:
    """A column of the page, as long as it has room for the arms."""
    crowded = table["rank_fraction"].nunique() > 6 or len(table) > 28
    return FULL if crowded else COLUMN


def _points(
    ax: Axes, table: pd.DataFrame, quality: Quality, looks: dict[str, Kind]
) -> list[Line2D]:
    arms_ = table[table["init"] != "dense"]
    ranks = sorted(arms_["rank_fraction"].unique())
    names = list(arms_["init"].unique())
    place = {rank: index for index, rank in enumerate(ranks)}
    step = min(0.16, 0.7 / len(names))
    handles = []
    for row in records(table[table["init"] == "dense"]):
        handles.append(marks.level(ax, row, quality, INITS["dense"]))
    for index, name in enumerate(names):
        look = looks[name]
        rows = arms_[arms_["init"] == name]
        x = [place[r] + step * (index - (len(names) - 1) / 2) for r in rows["rank_fraction"]]
        marks.points(ax, x, rows, look, quality.metric, **quality.drawn)
        handles.append(look.handle(linestyle="none"))
    kept = arms_.groupby("rank_fraction")["kept_parameters"].mean()
    ax.set_xticks(range(len(ranks)), [f"{rank:g}\n{kept[rank]:.2f}" for rank in ranks])
    ax.set_xlim(-0.5, len(ranks) - 0.5)
    ax.grid(axis="x", visible=False)
    ax.set_xlabel("rank fraction; kept parameters below")
    return handles


def _ngrams(ax: Axes, grams: pd.DataFrame, quality: Quality) -> list[Line2D]:
    """Lines where they fall near the arms; else their value in the legend, so that they do not
    squash what the figure is about."""
    low, high = ax.get_ylim()
    room = 0.25 * (high - low)
    least, most = low - room, high + room
    handles = []
    for row in records(grams):
        value, line = float(getattr(row, quality.metric)), NGRAMS.get(str(row.model), "--")
        near = least < value < most
        name = escape.label(str(row.model))
        label = name if near else f"{name} {value:.2f} (off scale)"
        if near:
            ax.axhline(value, color=GREY, linestyle=line, linewidth=1.0, zorder=1)
            low, high = min(low, widen(value, high)[0]), max(high, widen(low, value)[1])
        style: dict[str, Any] = {"linestyle": line if near else "none"}
        handles.append(Line2D([], [], color=GREY, label=label, **style))
    ax.set_ylim(low, high)
    return handles


def _table(table: pd.DataFrame, quality: Quality) -> Table:
    shown = quality.shown
    return Table(
        table,
        [
            words("arm", "label"),
            *costs(),
            *qualities(quality),
            difference("difference to dense", "to_dense", **shown),
            difference("difference to spectral", "to_spectral", **shown),
        ],
    )
