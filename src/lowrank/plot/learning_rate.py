"""The sweeps of every arm: validation loss against learning rate, strength of decay, or rate after the
switch, and which was chosen."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lowrank.plot import marks
from lowrank.plot.arms import DECAYS, INITS, Kind, decay_key, in_words, looks, varies
from lowrank.plot.results import Results, records
from lowrank.plot.style import BLACK, canvas, legend_below, log_axis, title_panels
from lowrank.plot.table import Column, Table, number, plain, words

CHOSEN = Line2D(
    [],
    [],
    linestyle="none",
    marker="o",
    markersize=9,
    markerfacecolor="none",
    color=BLACK,
    markeredgewidth=0.8,
    label="chosen",
)
EDGE = Line2D(
    [], [], linestyle="none", marker="s", markersize=9, markerfacecolor="none", color=BLACK,
    markeredgewidth=0.8, label="chosen, at an edge of the sweep",
)  # fmt: skip


AXES = {
    "learning_rate": "peak learning rate",
    "decay_strength": r"strength of decay $\lambda$",
    "switch_rate": "rate factor after the switch",
}
"""What is swept: what its axis says."""


@dataclass(frozen=True)
class Panel:
    """Sweeps that are drawn together, and what of them lies on the horizontal axis."""

    title: str
    rows: pd.DataFrame
    choice: str


def draw(results: Results) -> tuple[Figure, Table]:
    """One panel a rank and width, the dense model of that width in each; then one of all decays, and one a
    width of rates after the switch."""
    rates = _labelled(results.table("rates"))
    panels = [*_panels(rates[rates["choice"] == "learning_rate"]), *_further(rates)]
    columns = min(3 if len(panels) <= 12 else 4, len(panels))
    rows = -(-len(panels) // columns)
    figure, axes = canvas(columns, rows, height=0.7 + (2.1 if rows <= 3 else 1.8) * rows)
    for ax in axes[len(panels) :]:
        ax.remove()
    axes = axes[: len(panels)]
    kinds = _looks(rates, results)
    for index, (ax, panel) in enumerate(zip(axes, panels, strict=True)):
        for name, group in panel.rows.groupby("group", sort=False):
            _sweep(ax, group, kinds[name])
        log_axis(ax, "x", panel.rows["value"].unique())
        ax.set_xlabel(AXES[panel.choice])
        if index % columns == 0:
            ax.set_ylabel(f"validation loss ({results.task.loss_unit})")
    title_panels(axes, [panel.title for panel in panels])
    drawn = [kinds[name] for panel in panels for name in panel.rows["group"].unique()]
    handles = [kind.handle() for kind in dict.fromkeys(drawn)]
    handles += [CHOSEN, *([EDGE] if rates["at_edge"].any() else [])]
    seeds = ", ".join(f"{seed:g}" for seed in sorted(rates["seed"].unique()))
    each = (
        "one run a point, seed"
        if rates["seed"].nunique() == 1
        else "dots: runs; lines: means of seeds"
    )
    handles.append(Line2D([], [], linestyle="none", label=f"{each} {seeds}"))
    legend_below(figure, handles + ([] if rates["finite"].all() else [marks.DIVERGED]), columns=5)
    return figure, _table(rates)


def _labelled(rates: pd.DataFrame) -> pd.DataFrame:
    """The sweeps with their `rank`, their `width` where it is not the track's own, the `value` that was
    tried, and what was `finite`. Tables published before other choices were swept hold learning rates."""
    wide = [varies(row, "width") for row in records(rates)]
    finite = np.isfinite(rates["validation_loss"].astype(float))
    width = rates["width"].where(wide, np.nan)
    choice = rates["choice"] if "choice" in rates else pd.Series(np.nan, rates.index, dtype=object)
    choice = choice.fillna("learning_rate")
    value = [rates.at[index, name] for index, name in choice.items()]
    named = rates.rename(columns={"rank_fraction": "rank"})
    return named.assign(width=width, finite=finite, choice=choice, value=value)


def _panels(rates: pd.DataFrame) -> list[Panel]:
    panels = []
    factorized = rates[rates["rank"].notna()]
    keys = (
        factorized[["width", "rank"]]
        .drop_duplicates()
        .sort_values(["width", "rank"], na_position="first")
    )
    for key in records(keys):
        width, rank = key.width, key.rank
        rows = rates[_same(rates["width"], width) & (rates["rank"].eq(rank) | rates["rank"].isna())]
        title = f"rank {rank:g}" + ("" if pd.isna(width) else f", width {width:g}")
        panels.append(Panel(title, rows, "learning_rate"))
    return panels or ([Panel("dense", rates, "learning_rate")] if len(rates) else [])


def _further(rates: pd.DataFrame) -> Iterator[Panel]:
    """What is swept at the rate that was found."""
    strengths = rates[rates["choice"] == "decay_strength"]
    if len(strengths):
        yield Panel("decay", strengths, "decay_strength")
    switches = rates[rates["choice"] == "switch_rate"]
    for width in sorted(
        switches["width"].unique(), key=lambda width: -1 if width != width else width
    ):
        rows = switches[_same(switches["width"], width)]
        title = "switch" + ("" if pd.isna(width) else f", width {width:g}")
        yield Panel(title, rows, "switch_rate")


def _same(column: pd.Series, value: float) -> pd.Series:
    return column.eq(value) | (column.isna() & pd.isna(value))


def _looks(rates: pd.DataFrame, results: Results) -> dict[str, Kind]:
    """How each sweep is drawn: by what its panel tells apart."""
    rows = records(rates.drop_duplicates("group"))
    decays = looks([decay_key(row) for row in rows if row.choice == "decay_strength"], DECAYS)

    def look(row: Any) -> Kind:
        if row.choice == "decay_strength":
            return decays[decay_key(row)]
        if row.choice == "switch_rate":
            return results.switches[row.init, row.pretraining]
        return results.inits[row.init]

    return {row.group: look(row) for row in rows}


def _means(group: pd.DataFrame) -> pd.DataFrame:
    """A row a value: the mean loss of the seeds, which is not finite where one's is not."""
    means = group.groupby("value", sort=True)["validation_loss"].agg(
        lambda losses: losses.mean(skipna=False)
    )
    first = group.drop_duplicates("value").set_index("value").loc[means.index].reset_index()
    loss = means.to_numpy(dtype=float)
    return first.assign(validation_loss=loss, finite=np.isfinite(loss))


def _sweep(ax: Axes, group: pd.DataFrame, look: Kind) -> None:
    if group["seed"].nunique() > 1:
        runs = group[group["finite"]]
        ax.plot(
            runs["value"],
            runs["validation_loss"],
            linestyle="none",
            color=look.color,
            marker=".",
            markersize=2.5,
            alpha=0.5,
        )
    means = _means(group)
    rows = means[means["finite"]]
    marks.crosses(ax, means.loc[~means["finite"], "value"], look)
    ax.plot(
        rows["value"],
        rows["validation_loss"],
        color=look.color,
        marker=look.marker,
        markersize=3.5,
    )
    for row in records(rows[rows["chosen"]]):
        ring = EDGE if row.at_edge else CHOSEN
        ax.plot(
            row.value,
            row.validation_loss,
            marker=ring.get_marker(),
            markersize=9,
            markerfacecolor="none",
            markeredgecolor=look.color,
            markeredgewidth=0.9,
        )


def _table(rates: pd.DataFrame) -> Table:
    """One row a sweep: what was chosen, whether it is at an edge, and every loss."""
    rows = []
    for name, group in rates.groupby("group", sort=False):
        ordered = _means(group)
        losses = [
            f"{value:g}: {number(loss, 3) if np.isfinite(loss) else 'diverged'}"
            for value, loss in zip(ordered["value"], ordered["validation_loss"], strict=True)
        ]
        first = group.iloc[0]
        chosen = group.loc[group["chosen"], "value"]
        rows.append(
            {
                "group": name,
                "label": _arm(first),
                **{key: first[key] for key in ("rank", "width", "choice", "at_edge")},
                "seeds": group["seed"].nunique(),
                "value": chosen.iloc[0] if len(chosen) else np.nan,
                "losses": "; ".join(losses),
            }
        )
    return Table(
        pd.DataFrame(rows),
        [
            words("arm", "label"),
            plain("rank fraction", "rank"),
            plain("width", "width", 0),
            plain("seeds", "seeds", 0),
            words("swept", lambda row: row.choice.replace("_", " ")),
            Column("chosen", lambda row: f"{row.value:g}"),
            words("at an edge", lambda row: "yes" if row.at_edge else "no"),
            words("validation loss at each", "losses"),
        ],
    )


def _arm(row: Any) -> str:
    """The arm of a sweep in words."""
    parts = [in_words(row["init"], INITS)]
    if row["choice"] == "decay_strength":
        parts.append(in_words(decay_key(row), DECAYS))
    if row["choice"] == "switch_rate":
        parts.append(f"after {100 * row['pretraining']:g} % dense")
    return ", ".join(parts)
