"""Dense steps before the switch to factors: what they bring, at equal steps and at equal FLOPs."""

from __future__ import annotations

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lowrank.experiment.shares import switch_step
from lowrank.plot import marks
from lowrank.plot.arms import FULL_RATE, HALF_RATE, INITS, RESET, Kind, arm_label, was_swept
from lowrank.plot.results import Quality, Results, records
from lowrank.plot.style import GREY, canvas, legend_below, log_axis, title_panels
from lowrank.plot.summary import arms, compare
from lowrank.plot.table import Table, costs, count, difference, order, qualities, words

SWITCHED: Any = (0, (1, 1.5))
"""The line that joins an initialisation's switches, in both panels."""
VARIANTS = {"rate": FULL_RATE, "half": HALF_RATE, "reset": RESET}


def draw(results: Results) -> tuple[Figure, Table]:
    """Quality against the dense steps before the switch, and against training FLOPs."""
    quality = results.quality
    table = arms(results, "pretraining")
    table.insert(0, "label", [arm_label(row) for row in records(table)])
    base = round(table["steps"].iloc[0] / table["length"].iloc[0])
    switches = [switch_step(row.pretraining, int(row.steps)) for row in records(table)]
    table.insert(1, "dense_steps", switches)
    table.loc[table["init"] == "dense", "dense_steps"] = base
    swept = any(was_swept(row, "switch_rate") for row in records(table))
    table["variant"] = [_variant(row, swept) for row in records(table)]
    table.loc[table["variant"] == "half", "label"] += ", half rate"
    figure, axes = canvas(2, height=3.0, sharey=True)
    handles = _steps(axes[0], table, quality, results.inits)
    handles += _flops(axes[1], table, quality, results.inits)
    axes[0].set_ylabel(quality.axis)
    title_panels(axes, ["at equal steps", "against compute"])
    legend_below(figure, handles + marks.extra_handles(table, quality, bands=True), columns=3)
    for name, test in (
        ("to_scratch", lambda r: r.init != "dense" and r.dense_steps == 0 and r.steps == base),
        ("to_dense", lambda r: r.init == "dense"),
        ("to_plain", lambda r: r.pretraining > 0 and r.variant == ""),
    ):
        within = {"to_scratch": "init", "to_plain": "pretraining"}.get(name)
        table = compare(table, results, "pretraining", name, test, within=within)
    return figure, _table(table, quality)


def _variant(row: Any, swept: bool) -> str:
    """What sets a switch apart from the study's plain ones, at half the rate or at the one that was swept."""
    if row.pretraining == 0:
        return ""
    if row.moments == "reset":
        return "reset"
    if was_swept(row, "switch_rate"):
        return ""
    return "rate" if row.rate_factor != 0.5 else "half" if swept else ""


def _plain(table: pd.DataFrame, init: str) -> pd.DataFrame:
    """From scratch and every plain switch of one initialisation, at equal steps."""
    equal = table["steps"] == table["steps"].min()
    return table[(table["init"] == init) & (table["variant"] == "") & equal]


def _steps(ax: Axes, table: pd.DataFrame, quality: Quality, looks: dict[str, Kind]) -> list[Line2D]:
    """Arms side by side at the switch that they have in common: places in a row, not a scale."""
    inits = [init for init in table["init"].unique() if init != "dense"]
    groups = [
        (_plain(table, init), looks[init], f"{looks[init].label} at the switch") for init in inits
    ]
    variants = (
        (table[table["variant"] == name], look, look.label) for name, look in VARIANTS.items()
    )
    groups += [group for group in variants if len(group[0])]
    switches = pd.concat([rows for rows, *_ in groups])
    shares = switches.groupby("pretraining")["dense_steps"].first()
    place = {share: index for index, share in enumerate(shares.index)}
    step = min(0.16, 0.7 / len(groups))
    handles = []
    for row in records(table[table["init"] == "dense"]):
        handles.append(marks.level(ax, row, quality, INITS["dense"], "dense throughout"))
    for index, (rows, look, label) in enumerate(groups):
        shift = step * (index - (len(groups) - 1) / 2)
        x = [place[share] + shift for share in rows["pretraining"]]
        line = SWITCHED if index < len(inits) else "none"
        marks.points(
            ax, x, rows, look, quality.metric, **quality.drawn, linestyle=line, linewidth=0.8
        )
        handles.append(look.handle(label, linestyle=line))
    for edge in range(1, len(shares)):
        ax.axvline(edge - 0.5, color=GREY, linewidth=0.4, zorder=1)
    ax.set_xticks(
        range(len(shares)), [f"{100 * share:g} %\n{steps:g}" for share, steps in shares.items()]
    )
    ax.set_xlim(-0.5, len(shares) - 0.5)
    ax.tick_params(axis="x", length=0)
    ax.grid(axis="x", visible=False)
    ax.set_xlabel("share of dense steps before the switch; steps below")
    return handles


def _flops(ax: Axes, table: pd.DataFrame, quality: Quality, looks: dict[str, Kind]) -> list[Line2D]:
    """The first initialisation's switches against the line of from-scratch runs of every length."""
    dense = table[table["init"] == "dense"]
    init = next(name for name in table["init"] if name != "dense")
    look = looks[init]
    rows = table[(table["init"] == init) & (table["variant"] == "")]
    scratch = rows[rows["dense_steps"] == 0]
    for group, kind, line in (
        (_plain(table, init), look, SWITCHED),
        (scratch, look, "-"),
        (dense, INITS["dense"], "none"),
    ):
        x = group["training_flops"]
        marks.points(
            ax, x, group, kind, quality.metric, **quality.drawn, linestyle=line, linewidth=0.8
        )
    log_axis(ax, "x")
    ax.set_xlabel("training FLOPs")
    handles = []
    if len(scratch) > 1:
        handles.append(look.handle(f"(b) {look.label} from scratch, longer"))
    if len(dense):
        handles.append(INITS["dense"].handle("(b) dense", linestyle="none"))
    return handles


def _table(table: pd.DataFrame, quality: Quality) -> Table:
    shown = quality.shown
    return Table(
        table,
        [
            words("arm", "label"),
            count("dense steps", "dense_steps"),
            count("steps", "steps"),
            *costs(),
            order("training FLOPs", "training_flops"),
            *qualities(quality),
            difference("difference to from scratch", "to_scratch", **shown),
            difference("difference to dense", "to_dense", **shown),
            difference("difference to the plain switch", "to_plain", **shown),
        ],
    )
