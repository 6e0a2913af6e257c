"""Ranks of the trained products by kind of decay, at the end and over training."""

from __future__ import annotations

import pandas as pd
from matplotlib.figure import Figure

from lowrank.plot import marks
from lowrank.plot.arms import is_own_decay
from lowrank.plot.results import Results, records
from lowrank.plot.style import canvas, legend_below, title_panels
from lowrank.plot.summary import compare, decays, trajectory
from lowrank.plot.table import Table, costs, difference, estimate, qualities, words

MEASURES = {
    "effective_rank": "effective rank",
    "entropy_rank": "entropy rank",
    "stable_rank": "stable rank",
}


def draw(results: Results) -> tuple[Figure, Table]:
    """Three measures of rank, means over layers: at the end (above), where pale dots are the layers,
    and over training (below)."""
    table = decays(results)
    table = table[table["rate_factor"] == 1.0].reset_index(drop=True)
    layers = results.of("layers", table["cell"])
    figure, axes = canvas(3, 2, height=4.4)
    for column, (measure, name) in enumerate(MEASURES.items()):
        end, over = axes[column], axes[3 + column]
        colors = [results.decays[label].color for label in table["label"]]
        marks.strip(end, _layers(table, layers, measure), colors, "x")
        for index, row in enumerate(records(table)):
            look = results.decays[row.label]
            marks.points(end, [index], table.iloc[[index]], look, measure, better=1)
            rows = layers[layers["cell"] == row.cell]
            marks.band(over, trajectory(rows, measure), look, marker=look.marker, markersize=3)
        end.set_xlim(-0.6, len(table) - 0.4)
        end.set_xticks(range(len(table)), [""] * len(table))
        end.tick_params(axis="x", length=0)
        end.grid(axis="x", visible=False)
        for ax in (end, over):
            ax.set_ylim(0, 1.05 * ax.get_ylim()[1])
            ax.set_ylabel(name)
        end.set_xlabel("")
        over.set_xlabel("step")
    title_panels(axes, ["at the end"] * 3 + ["over training"] * 3)
    handles = [results.decays[row.label].handle(linestyle="none") for row in records(table)]
    legend_below(figure, handles + marks.extra_handles(table, bands=True), columns=6)
    table = compare(
        table,
        results,
        "decay",
        "to_own_decay",
        is_own_decay,
        metric="effective_rank",
        within="rate_factor",
        among=results.table("runs"),
    )
    return figure, Table(
        table,
        [
            words("decay", "label"),
            *costs(),
            *qualities(results.quality),
            *(estimate(name, measure, 2) for measure, name in MEASURES.items()),
            difference("effective rank, difference to the track's own decay", "to_own_decay", 2),
        ],
    )


def _layers(table: pd.DataFrame, layers: pd.DataFrame, measure: str) -> list[tuple[int, float]]:
    """The column of each layer of an arm, and its mean over seeds at the end."""
    found: list[tuple[int, float]] = []
    for index, row in enumerate(records(table)):
        rows = layers[layers["cell"] == row.cell]
        ends = rows[rows["step"] == rows["step"].max()]
        found += [(index, value) for value in ends.groupby("layer")[measure].mean()]
    return found
