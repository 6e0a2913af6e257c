"""Every test of the paper's claims: estimates with intervals beside their margins, and verdicts.

The only figure of all tracks at once. It is drawn from the table `claims`, which judged them: no
number is computed here.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from lowrank.errors import LowrankError
from lowrank.files import read_table
from lowrank.plot.arms import Kind
from lowrank.plot.page import Page
from lowrank.plot.results import TRACKS, locate, records
from lowrank.plot.style import BLACK, BLUE, FULL, GREY, VERMILLION, canvas, legend_below
from lowrank.plot.verdicts import page
from lowrank.study.evidence import measure
from lowrank.study.ledger import DIRECTION

LOOKS = {
    "supported": Kind("supported", BLUE, "o"),
    "refuted": Kind("refuted", VERMILLION, "X"),
    "inconclusive": Kind("inconclusive", GREY, "D"),
}
PARTS = {
    r"-r([\d.]+)": "r {}",
    r"-w(\d+)": "width {}",
    r"-pre([\d.]+)": "switch {}",
    r"-coupled": "coupled",
}
"""What the names of arms say, in the words of a line's label."""
WORDS = {"frobenius": "Frobenius", "l2": "L2"}
LINE, PANEL = 0.115, 0.31
"""Inches a contrast and a row of panels take."""
TITLE = 62
"""Points that a panel's title begins left of its axes."""


def read(tables: Path | str) -> pd.DataFrame:
    """The table `claims` of a folder, each row with the number of its `test`, and that test's
    verdict and template of arms; a claim's own row has none. A relative folder is looked for from here upwards."""
    path = locate(tables) / "claims.parquet"
    if not path.is_file():
        raise LowrankError(
            f"{path} is missing: judge the claims first (snakemake --cores all tables)."
        )
    table = read_table(path)
    # A test's row comes after those of its contrasts, and before that of their claim.
    ends = (table["level"] == "test").to_numpy(dtype=int)
    table["test"] = np.where(table["level"] == "claim", -1, ends.cumsum() - ends)
    tests = table[table["level"] == "test"].set_index("test")
    return table.assign(
        test_verdict=table["test"].map(tests["verdict"]),
        arm_template=table["test"].map(tests["arm"]),
    )


def draw(claims: pd.DataFrame) -> tuple[Figure, Page]:
    """One row of panels a claim and metric, one column a track, one line a contrast."""
    contrasts = claims[(claims["level"] == "member") & np.isfinite(claims["estimate"])]
    tracks = [track for track in TRACKS if (contrasts["track"] == track).any()]
    rows = _layout(contrasts)
    if not rows:
        return _nothing(), page(claims)
    lines = [max(len(panel) for panel in row.values()) for row in rows]
    heights = [LINE * (count + 0.6) + PANEL for count in lines]
    figure, axes = canvas(
        len(tracks),
        len(rows),
        width=FULL,
        height=sum(heights) + 0.4,
        height_ratios=heights,
    )
    for index, ax in enumerate(axes):
        row, track = rows[index // len(tracks)], tracks[index % len(tracks)]
        if track in row:
            _panel(ax, row[track], lines[index // len(tracks)])
        else:
            ax.set_axis_off()
    layout: Any = figure.get_layout_engine()
    layout.set(h_pad=0.02, hspace=0.01)
    handles: list[Any] = [look.handle(linestyle="-") for look in LOOKS.values()]
    handles += [
        Line2D([], [], color=BLACK, linewidth=0.7, label="no difference"),
        Patch(color=BLACK, alpha=0.12, label="within the margin"),
        Line2D([], [], color=BLACK, linestyle=":", label="margin to be crossed"),
    ]
    legend_below(figure, handles, columns=6)
    return figure, page(claims)


def _nothing() -> Figure:
    figure, (ax,) = canvas(height=0.6)
    ax.set_axis_off()
    figure.text(0.5, 0.5, "No claim has a contrast that ran", ha="center", va="center")
    return figure


def _layout(contrasts: pd.DataFrame) -> list[dict[str, pd.DataFrame]]:
    """Rows of panels by track. Claims about different tracks share a row."""
    rows: list[dict[str, pd.DataFrame]] = []
    for _, claim in contrasts.groupby("claim", sort=False):
        own: list[dict[str, pd.DataFrame]] = []
        for (track, _), panel in claim.groupby(["track", "metric"], sort=False):
            free = next((row for row in own if track not in row), None)
            if free is None:
                own.append(free := {})
            free[str(track)] = panel
        if rows and not set(rows[-1]) & set(own[0]):
            rows[-1] |= own.pop(0)
        rows += own
    return rows


def _panel(ax: Axes, panel: pd.DataFrame, lines: int) -> None:
    first = panel.iloc[0]
    shown = measure(first["metric"], first["unit"])
    name, factor = shown.heading, shown.factor
    is_ratio = first["unit"] == "factor"
    _margin(ax, first, factor)
    ax.axvline(1.0 if is_ratio else 0.0, color=BLACK, linewidth=0.7, zorder=2)
    for place, row in enumerate(records(panel)):
        look = LOOKS[row.verdict]
        ends = [row.low, row.high]
        if np.isfinite(ends).all():
            ax.hlines(place, *(factor * e for e in ends), color=look.color, linewidth=1.0, zorder=3)
        ax.plot(
            [factor * row.estimate],
            [place],
            color=look.color,
            marker=look.marker,
            markersize=3.2,
            zorder=4,
        )
    ax.use_sticky_edges = False  # no interval may end at the frame
    ax.margins(x=0.06)
    ax.set_yticks(range(len(panel)), _labels(panel), fontsize=6)
    ax.set_ylim(lines - 0.4, -0.6)
    ax.grid(axis="y", visible=False)
    ax.tick_params(axis="x", labelsize=6, pad=1.5)
    ax.tick_params(axis="y", length=0, pad=2)
    ax.xaxis.set_major_locator(MaxNLocator(nbins=4, steps=[1, 2, 5, 10]))
    ax.set_xlabel(name if is_ratio else f"Δ {name}", fontsize=6, labelpad=1)
    verdicts = list(dict.fromkeys(panel["test_verdict"]))
    color = LOOKS[verdicts[0]].color if len(verdicts) == 1 and verdicts[0] in LOOKS else BLACK
    ax.annotate(
        f"{first['claim']}, {first['track']}: "
        + (verdicts[0] if len(verdicts) == 1 else "verdicts differ"),
        (0, 1),
        xycoords="axes fraction",
        xytext=(-TITLE, 2),  # over the labels, which leave the axes little room
        textcoords="offset points",
        fontsize=6.2,
        fontweight="bold",
        color=color,
    )


def _margin(ax: Axes, row: pd.Series, factor: float) -> None:
    """The margin in the unit shown: a band where differences count as none, else a line."""
    margin, unit, kind = row["margin"], row["unit"], row["kind"]
    if not math.isfinite(margin):
        return
    if unit == "factor":
        ax.axvline(margin, color=BLACK, linestyle=":", zorder=2)
        return
    low = 1 / (1 + margin) - 1 if unit == "relative" else -margin
    if kind in ("equivalence", "not_worse"):
        ax.axvspan(factor * low, factor * margin, color=BLACK, alpha=0.12, linewidth=0, zorder=1)
        return
    better = {"lower": -1, "higher": 1}.get(kind, DIRECTION.get(row["metric"], 1))
    ax.axvline(factor * (low if better < 0 else margin), color=BLACK, linestyle=":", zorder=2)


def _labels(panel: pd.DataFrame) -> list[str]:
    """What tells the contrasts of a panel apart: the words of their tests, where there are several,
    and what varies in their names."""
    templates = list(dict.fromkeys(panel["arm_template"]))
    parts = {t: set(re.sub(r"\{\w+\}", "", t).split("-")) for t in templates}
    shared = set.intersection(*parts.values())
    labels = []
    for row in records(panel):
        words_ = [word for word in parts[row.arm_template] - shared if word]
        method = re.search(r"method (\w+)", row.reference)
        words_ += [method[1]] if method else []
        names = f"{row.arm} {row.reference}"
        for pattern, label in PARTS.items():
            found = re.search(pattern, names)
            words_ += [label.format(*found.groups())] if found else []
        labels.append(" ".join(WORDS.get(word, word) for word in words_) or row.arm)
    return labels
