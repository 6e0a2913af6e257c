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
from lowrank.plot.results import TRACKS, locate, records
from lowrank.plot.style import BLACK, BLUE, FULL, GREY, VERMILLION, canvas, legend_below
from lowrank.plot.table import NONE, Column, Table, number, words
from lowrank.study.ledger import DIRECTION

LOOKS = {
    "supported": Kind("supported", BLUE, "o"),
    "refuted": Kind("refuted", VERMILLION, "X"),
    "inconclusive": Kind("inconclusive", GREY, "D"),
}
METRICS: dict[str, tuple[str, float, int]] = {
    "test_loss": ("test loss (nats/token)", 1.0, 3),
    "test_accuracy": ("test top-1 (points)", 100.0, 2),
    "effective_rank": ("effective rank", 1.0, 2),
    "distance": ("distance to dense", 1.0, 2),
    "step_seconds": ("speed-up of a step (×)", 1.0, 2),
    "state_bytes": ("bytes of state (%)", 100.0, 1),
}
"""Metric: words, factor from the table's unit to the one shown, digits."""
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
    """The table `claims` of a folder, each row with the number of its `test` and that test's and
    its claim's verdict. A relative folder is looked for from here upwards."""
    path = locate(tables) / "claims.parquet"
    if not path.is_file():
        raise LowrankError(
            f"{path} is missing: judge the claims first (snakemake --cores all tables)."
        )
    table = read_table(path)
    claims = table[table["level"] == "claim"].set_index("claim")["verdict"]
    # A test's row comes after those of its contrasts.
    ends = (table["level"] == "test").to_numpy(dtype=int)
    table["test"] = ends.cumsum() - ends
    table = table[table["level"] != "claim"].reset_index(drop=True)
    tests = table[table["level"] == "test"].set_index("test")
    return table.assign(
        test_verdict=table["test"].map(tests["verdict"]),
        arm_template=table["test"].map(tests["arm"]),
        claim_verdict=table["claim"].map(claims),
    )


def draw(claims: pd.DataFrame) -> tuple[Figure, Table]:
    """One row of panels a claim and metric, one column a track, one line a contrast."""
    contrasts = claims[(claims["level"] == "member") & np.isfinite(claims["estimate"])]
    tracks = [track for track in TRACKS if (contrasts["track"] == track).any()]
    rows = _layout(contrasts)
    if not rows:
        raise LowrankError("No claim has a contrast that ran: there is nothing to draw.")
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
    return figure, _table(claims)


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
    name, factor, _ = METRICS.get(first["metric"], (first["metric"], 1.0, 3))
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


def _table(claims: pd.DataFrame) -> Table:
    """Contrasts, and tests that had none to judge."""
    counted = claims[claims["level"] == "member"].groupby("test").size()
    kept = (claims["level"] == "member") | ~claims["test"].isin(counted.index)
    numbers = claims[kept].drop(columns=["level", "arm_template"]).reset_index(drop=True)

    def shown(row: Any, value: float) -> str:
        _, factor, digits = METRICS.get(row.metric, ("", 1.0, 3))
        return number(factor * value, digits)

    def interval(row: Any) -> str:
        if not np.isfinite([row.low, row.high]).all():
            return NONE
        return f"[{shown(row, row.low)}, {shown(row, row.high)}]"

    def corrected(row: Any) -> str:
        if not math.isfinite(row.p_corrected):
            return NONE
        return "<0.001" if row.p_corrected < 0.001 else number(row.p_corrected, 3)

    return Table(
        numbers,
        [
            words("claim", "claim"),
            words("track", "track"),
            words("arm", "arm"),
            words("against", "reference"),
            words("measure", lambda row: METRICS.get(row.metric, (row.metric,))[0]),
            Column("estimate", lambda row: shown(row, row.estimate)),
            Column("interval", interval),
            Column("corrected p", corrected),
            Column("margin", lambda row: shown(row, row.margin)),
            Column("seeds", lambda row: NONE if pd.isna(row.pairs) else f"{row.pairs:.0f}"),
            words("verdict", "verdict"),
            words("test", "test_verdict"),
            words("claim's verdict", "claim_verdict"),
            words("the paper's numbers", lambda row: row.paper_value or NONE),
        ],
    )
