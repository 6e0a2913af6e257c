"""Dense steps before the switch to factors: what they bring, at equal steps and at equal FLOPs."""

from __future__ import annotations

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lowrank.plot import marks
from lowrank.plot.arms import INITS, PRETRAINED, Kind, arm_label, kind
from lowrank.plot.results import Quality, Results, records
from lowrank.plot.style import GREEN, PURPLE, canvas, legend_below, log_axis, title_panels
from lowrank.plot.summary import arms, compare
from lowrank.plot.table import Table, costs, count, difference, order, qualities, words
from lowrank.study.shares import switch_step

VARIANTS = {
    "rate": Kind("full rate after the switch", GREEN, "^"),
    "reset": Kind("moments reset at the switch", PURPLE, "P"),
}


def draw(results: Results) -> tuple[Figure, Table]:
    """Quality against the dense steps before the switch, and against training FLOPs."""
    quality = results.quality
    table = arms(results, "pretraining")
    table.insert(0, "label", [arm_label(row) for row in records(table)])
    base = table.loc[table["init"] == "dense", "steps"].iloc[0]
    switches = [switch_step(row.pretraining, int(row.steps)) for row in records(table)]
    table.insert(1, "dense_steps", switches)
    table.loc[table["init"] == "dense", "dense_steps"] = base
    table["variant"] = [_variant(row) for row in records(table)]
    figure, axes = canvas(2, height=3.0, sharey=True)
    handles = _steps(axes[0], table, quality)
    handles += _flops(axes[1], table, quality)
    axes[0].set_ylabel(quality.axis)
    title_panels(axes, ["at equal steps", "against compute"])
    legend_below(figure, handles + marks.extra_handles(table), columns=3)
    for name, test in (
        ("to_scratch", lambda r: r.init != "dense" and r.dense_steps == 0 and r.steps == base),
        ("to_dense", lambda r: r.init == "dense"),
        ("to_plain", lambda r: r.pretraining > 0 and r.variant == ""),
    ):
        within = {"to_scratch": "init", "to_plain": "pretraining"}.get(name)
        table = compare(table, results, "pretraining", name, test, within=within)
    return figure, _table(table, quality)


def _variant(row: object) -> str:
    if getattr(row, "pretraining", 0) == 0:
        return ""
    if getattr(row, "rate_factor", 0.5) != 0.5:
        return "rate"
    return "reset" if getattr(row, "moments", None) == "reset" else ""


def _plain(table: pd.DataFrame, init: str) -> pd.DataFrame:
    """From scratch and every plain switch of one initialisation, at equal steps."""
    equal = table["steps"] == table["steps"].min()
    return table[(table["init"] == init) & (table["variant"] == "") & equal]


def _steps(ax: Axes, table: pd.DataFrame, quality: Quality) -> list[Line2D]:
    inits = [init for init in table["init"].unique() if init != "dense"]
    aside = 0.012 * table["dense_steps"].max()  # so that arms of one switch do not hide each other
    handles = []
    for row in records(table[table["init"] == "dense"]):
        handles.append(marks.level(ax, row, quality, INITS["dense"], "dense throughout"))
    for init in inits:
        rows, look = _plain(table, init), kind(init, INITS, inits)
        x = rows["dense_steps"] + aside * inits.index(init)
        marks.points(ax, x, rows, look, quality.metric, **quality.drawn, linestyle="-")
        handles.append(look.handle(f"{look.label} at the switch"))
    for variant, look in VARIANTS.items():
        rows = table[table["variant"] == variant]
        if len(rows):
            x = rows["dense_steps"] + aside * (len(inits) + list(VARIANTS).index(variant))
            marks.points(ax, x, rows, look, quality.metric, **quality.drawn)
            handles.append(look.handle(linestyle="none"))
    ax.set_xlabel("dense steps before the switch")
    return handles


def _flops(ax: Axes, table: pd.DataFrame, quality: Quality) -> list[Line2D]:
    """The first initialisation's switches against the line of from-scratch runs of every length."""
    dense = table[table["init"] == "dense"]
    init = next(name for name in table["init"] if name != "dense")
    look = kind(init, INITS)
    rows = table[(table["init"] == init) & (table["variant"] == "")]
    scratch, switched = rows[rows["dense_steps"] == 0], rows[rows["dense_steps"] > 0]
    for group, kind_, line in (
        (scratch, look, "-"),
        (switched, PRETRAINED, ":"),
        (dense, INITS["dense"], "none"),
    ):
        if len(group):
            x = group["training_flops"]
            marks.points(ax, x, group, kind_, quality.metric, **quality.drawn, linestyle=line)
    log_axis(ax, "x")
    ax.set_xlabel("training FLOPs")
    handles = [PRETRAINED.handle(f"(b) pre-trained, {look.label}", linestyle=":", markersize=7)]
    if len(scratch):
        label = f"(b) {look.label} from scratch" + (", longer" if len(scratch) > 1 else "")
        handles.append(look.handle(label))
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
