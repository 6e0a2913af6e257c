"""Does the effective step size explain Frobenius decay? Each decay at the full rate and at half."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lowrank.plot import marks
from lowrank.plot.arms import Kind, is_own_decay
from lowrank.plot.results import Quality, Results, records
from lowrank.plot.style import BLACK, canvas, legend_below, log_axis, title_panels
from lowrank.plot.summary import compare, decays, interval, trajectory
from lowrank.plot.table import Table, costs, difference, estimate, order, plain, qualities, words

STYLES: list[Any] = ["-", (0, (4, 1.5)), ":"]


def draw(results: Results) -> tuple[Figure, Table]:
    """Quality at each rate; effective step size and relative update over training."""
    quality = results.quality
    table = decays(results)
    layers = results.of("layers", table["cell"])
    layers = layers.assign(relative_update=layers["update_norm"] / layers["product_norm"])
    factors = sorted(table["rate_factor"].unique(), reverse=True)
    figure, axes = canvas(3, height=2.9)
    looks = results.decays
    _rates(axes[0], table, quality, factors, looks)
    _courses(axes[1], table, layers, "effective_step_size", factors, looks)
    _courses(axes[2], table, layers, "relative_update", factors, looks)
    axes[1].set_ylabel(r"effective step size $\eta\,/\,\Vert UV^\mathrm{T}\Vert_F^2$")
    axes[2].set_ylabel(r"$\Vert\Delta W\Vert_F\,/\,\Vert W\Vert_F$ of one step")
    title_panels(axes, ["quality", "effective step size", "relative update"])
    handles = [looks[label].handle() for label in table["label"].unique()]
    names = {1.0: "chosen rate", 0.5: "half the rate"}
    handles += [
        Line2D([], [], color=BLACK, linestyle=line, label=names.get(f, f"{f:g} × the rate"))
        for f, line in zip(factors, STYLES, strict=False)
    ]
    legend_below(figure, handles + marks.extra_handles(table, quality, bands=True), columns=4)
    table = table.merge(_measured(layers), on="cell", how="left")
    return figure, _table(table, results)


def _rates(
    ax: Axes, table: pd.DataFrame, quality: Quality, factors: list[float], looks: dict[str, Kind]
) -> None:
    """Quality against the share of the rate, decays side by side."""
    labels = list(table["label"].unique())
    for index, label in enumerate(labels):
        rows = table[table["label"] == label]
        shift = min(0.12, 0.7 / len(labels)) * (index - (len(labels) - 1) / 2)
        x = [factors.index(f) + shift for f in rows["rate_factor"]]
        options: dict[str, Any] = {"linestyle": "-", "linewidth": 0.8}
        marks.points(ax, x, rows, looks[label], quality.metric, **quality.drawn, **options)
    names = {1.0: "chosen", 0.5: "half"}
    ax.set_xticks(range(len(factors)), [names.get(f, f"{f:g} ×") for f in factors])
    ax.set_xlim(-0.5, len(factors) - 0.5)
    ax.grid(axis="x", visible=False)
    ax.set_xlabel("learning rate")
    ax.set_ylabel(quality.axis)


def _courses(
    ax: Axes,
    table: pd.DataFrame,
    layers: pd.DataFrame,
    value: str,
    factors: list[float],
    looks: dict[str, Kind],
) -> None:
    for row in records(table):
        line = STYLES[factors.index(row.rate_factor) % len(STYLES)]
        found = trajectory(layers[layers["cell"] == row.cell], value, geometric=True)
        marks.band(ax, found, looks[row.label], linestyle=line)
    log_axis(ax, "y")
    ax.set_xlabel("step")


def _measured(layers: pd.DataFrame) -> pd.DataFrame:
    """Per cell the geometric mean over layers of both step sizes, over the second half of training:
    the first steps, in which every arm still has its initial norm, say little about a decay."""
    late = layers[layers["step"] > layers["step"].max() / 2]
    rows = []
    for cell, group in late.groupby("cell", sort=False):
        row: dict[str, Any] = {"cell": cell}
        for value in ("effective_step_size", "relative_update"):
            _, mean, _, _ = trajectory(group.assign(step=0), value, geometric=True)
            row[value] = mean[0] if len(mean) else float("nan")
        norms = group.groupby("seed")["product_norm"].mean()
        row["product_norm"], *_ = interval(norms, "product_norm")
        rows.append(row)
    return pd.DataFrame(rows)


def _table(table: pd.DataFrame, results: Results) -> Table:
    quality = results.quality
    shown = quality.shown
    compared = compare(
        table,
        results,
        "decay",
        "to_own_decay",
        is_own_decay,
        within="rate_factor",
        among=results.table("runs"),
    )
    compared = compare(
        compared, results, "decay", "to_full_rate", lambda r: r.rate_factor == 1, within="label"
    )
    return Table(
        compared,
        [
            words("decay", "label"),
            plain("rate ×", "rate_factor"),
            *costs(),
            *qualities(quality),
            difference("difference to the track's own decay", "to_own_decay", **shown),
            difference("difference to full rate", "to_full_rate", **shown),
            estimate("effective rank", "effective_rank", 2),
            order("effective step size", "effective_step_size"),
            order("relative update", "relative_update"),
        ],
    )
