"""Every test of the paper's claims: estimates with intervals beside their margins, and verdicts.

The only figure of all tracks at once. It is drawn from the table `claims`, which judged them: no
number is computed here.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from lowrank import escape
from lowrank.analysis.evidence import told
from lowrank.analysis.measures import measure
from lowrank.errors import LowrankError
from lowrank.experiment.metrics import metric
from lowrank.parquet import read_table
from lowrank.plot.arms import Kind
from lowrank.plot.page import Page
from lowrank.plot.results import locate, records
from lowrank.plot.style import BLACK, BLUE, FULL, GREY, VERMILLION, canvas, legend_below, widen
from lowrank.plot.verdicts import page
from lowrank.plot.wording import labels, sides

LOOKS = {
    "supported": Kind("supported", BLUE, "o"),
    "refuted": Kind("refuted", VERMILLION, "X"),
    "inconclusive": Kind("inconclusive", GREY, "D"),
}
LINE, PANEL, HEADING = 0.1, 0.31, 0.125
"""Inches that a contrast, a row of panels and a line of a claim take."""
SMALL = 6.0
"""Points of the letters of panels: the figure is a page of the report as it is."""


def read(tables: Path | str) -> pd.DataFrame:
    """The table `claims` of a folder, as `of_tests`. A relative folder is looked for from here upwards."""
    path = locate(tables) / "claims.parquet"
    if not path.is_file():
        raise LowrankError(
            f"{path} is missing: judge the claims first (snakemake --cores all tables)."
        )
    return of_tests(read_table(path))


def of_tests(claims: pd.DataFrame) -> pd.DataFrame:
    """The table `claims`, each row with the number of its `test`, and that test's verdict, that verdict in
    words and the facts that it asks for; a claim's own row has none."""
    # A test's row comes after those of its contrasts, and before that of their claim.
    ends = (claims["level"] == "test").to_numpy(dtype=int)
    table = claims.assign(test=np.where(claims["level"] == "claim", -1, ends.cumsum() - ends))
    tests = table[table["level"] == "test"].set_index("test")
    return table.assign(
        test_verdict=table["test"].map(tests["verdict"]),
        test_told=table["test"].map(
            {row.Index: told(row, brief=True) for row in tests.itertuples()}
        ),
        arm_asked=table["test"].map(tests["arm_facts"]),
        reference_asked=table["test"].map(tests["reference_facts"]),
        against_asked=table["test"].map(tests["against_facts"]),
    )


@dataclass(frozen=True)
class Heading:
    """A claim in words after its verdict."""

    text: str
    verdict: str

    @property
    def height(self) -> float:
        """Inches that it takes."""
        return HEADING * (self.text.count("\n") + 1) + 0.05


Panels = dict[str, pd.DataFrame]
"""A row of panels: the contrasts of each track."""


def draw(claims: pd.DataFrame) -> tuple[Figure, Page]:
    """Under each claim in words a row of panels a test: one column a track, one line a contrast. Controls
    are not drawn: the page quotes them."""
    drawn = (claims["level"] == "member") & np.isfinite(claims["estimate"])
    contrasts = claims[drawn & claims["control"].ne(True)]
    tracks = [track for track in claims["track"].unique() if (contrasts["track"] == track).any()]
    rows = _layout(claims, contrasts)
    if not tracks:
        return _nothing(), page(claims)
    heights = [
        row.height if isinstance(row, Heading) else LINE * (_lines(row) + 0.5) + PANEL
        for row in rows
    ]
    figure, axes = canvas(
        len(tracks), len(rows), width=FULL, height=sum(heights) + 0.45, height_ratios=heights
    )
    widest = {
        track: max(
            len(label)
            for row in rows
            if not isinstance(row, Heading) and track in row
            for label in labels(row[track])
        )
        for track in tracks
    }
    layout: Any = figure.get_layout_engine()
    layout.set(h_pad=0.012, hspace=0.0, w_pad=0.03)
    for index, ax in enumerate(axes):
        row, track = rows[index // len(tracks)], tracks[index % len(tracks)]
        if not isinstance(row, Heading) and track in row:
            _panel(ax, row[track], _lines(row), over=min(62.0, 3.1 * widest[track]))
            continue
        ax.set_axis_off()
        if isinstance(row, Heading) and track == tracks[0]:
            _write(ax, row)
    handles: list[Any] = [look.handle(linestyle="-") for look in LOOKS.values()]
    handles += [
        Line2D([], [], color=BLACK, linewidth=0.7, label="no difference"),
        Patch(color=BLACK, alpha=0.12, label="within the margin"),
        Line2D([], [], color=BLACK, linestyle=":", label="margin to be crossed"),
    ]
    legend_below(figure, handles, columns=6)
    return figure, page(claims)


def _lines(row: Panels) -> int:
    return max(map(len, row.values()))


def _color(verdicts: Iterable[str]) -> str:
    """The colour of a verdict; black where verdicts differ or there is none."""
    found = set(verdicts)
    look = LOOKS.get(found.pop()) if len(found) == 1 else None
    return look.color if look else BLACK


def _write(ax: Axes, heading: Heading) -> None:
    """From the page's left edge: panels begin further right, after their labels."""
    text = ax.annotate(
        heading.text,
        (0.004, 0.5),
        xycoords=("figure fraction", "axes fraction"),
        va="center",
        fontsize=6.6,
        fontweight="bold",
        color=_color([heading.verdict]),
    )
    text.set_in_layout(False)


def _nothing() -> Figure:
    figure, (ax,) = canvas(height=0.6)
    ax.set_axis_off()
    figure.text(0.5, 0.5, "No claim has a contrast that ran", ha="center", va="center")
    return figure


def _layout(claims: pd.DataFrame, contrasts: pd.DataFrame) -> list[Heading | Panels]:
    """Each claim's heading, followed by its rows of panels."""
    rows: list[Heading | Panels] = []
    overall = claims[claims["level"] == "claim"].drop_duplicates("claim").set_index("claim")
    for claim, members in contrasts.groupby("claim", sort=False):
        own: list[Panels] = []
        asked = ["track", "metric", "arm_asked", "reference_asked", "against_asked"]
        for (track, *_), panel in members.groupby(asked, sort=False):
            free = next((row for row in own if track not in row), None)
            if free is None:
                own.append(free := {})
            free[str(track)] = panel
        sentence, verdict = overall.loc[claim, ["statement", "verdict"]]
        heading = Heading(textwrap.fill(escape.label(sentence, longest=240), 124), verdict)
        last = rows[-1] if rows else {}
        if last and not isinstance(last, Heading) and not set(last) & set(own[0]):
            last |= own.pop(0)  # claims about different tracks share a row
            rows.insert(-1, heading)
        else:
            rows.append(heading)
        rows += own
    return rows


def _panel(ax: Axes, panel: pd.DataFrame, lines: int, over: float) -> None:
    """The contrasts of a track; its title begins `over` points left of the axes, over the labels."""
    first = panel.iloc[0]
    shown = measure(first["metric"], first["unit"])
    factor = shown.factor
    neutral = 1.0 if first["unit"] == "factor" else 0.0
    reach = [neutral, *_margin(ax, first, factor)]
    ax.axvline(neutral, color=BLACK, linewidth=0.7, zorder=2)
    for place, row in enumerate(records(panel)):
        look = LOOKS.get(row.verdict, LOOKS["inconclusive"])
        ends = [factor * end for end in (row.low, row.high) if math.isfinite(end)]
        if len(ends) == 2:
            ax.hlines(place, *ends, color=look.color, linewidth=1.0, zorder=3)
        at = factor * row.estimate
        ax.plot([at], [place], color=look.color, marker=look.marker, markersize=3.2, zorder=4)
        reach += [at, *ends]
    ax.set_xlim(*widen(min(reach), max(reach), 0.06))
    ax.set_yticks(range(len(panel)), labels(panel), fontsize=SMALL)
    ax.set_ylim(lines - 0.5, -0.6)
    ax.grid(axis="y", visible=False)
    ax.tick_params(axis="x", labelsize=SMALL, pad=1.5)
    ax.tick_params(axis="y", length=0, pad=2)
    ax.xaxis.set_major_locator(MaxNLocator(nbins=4, steps=[1, 2, 5, 10]))
    between = "" if neutral else f": {sides(first.to_dict())}"
    room = len(shown.heading + between) < 50
    label = f"{shown.heading if room else shown.name}{between}"
    ax.set_xlabel(label, fontsize=SMALL, labelpad=1, loc="right").set_in_layout(not between)
    title = escape.label(f"{first['track']}: {first['test_told']}")
    ax.set_title(" ", fontsize=SMALL + 0.5, pad=2)  # keeps the room
    text = ax.annotate(
        title,
        (0, 1),
        xycoords="axes fraction",
        xytext=(-over, 2),
        textcoords="offset points",
        fontsize=SMALL + 0.5,
        color=_color([first["test_verdict"]]),
    )
    text.set_in_layout(False)


def _margin(ax: Axes, row: pd.Series, factor: float) -> list[float]:
    """The margin in the unit shown: a band where differences count as none, else a line. Returned
    are its ends."""
    margin, unit, kind = row["margin"], row["unit"], row["kind"]
    if not math.isfinite(margin):
        return []
    low = 1 / (1 + margin) - 1 if unit == "relative" else -margin
    if unit != "factor" and kind in ("equivalence", "not_worse"):
        ends = [factor * low, factor * margin]
        ax.axvspan(*ends, color=BLACK, alpha=0.12, linewidth=0, zorder=1)
        return ends
    better = {"lower": -1, "higher": 1}.get(kind, metric(row["metric"]).better or 1)
    line = margin if unit == "factor" else factor * (low if better < 0 else margin)
    ax.axvline(line, color=BLACK, linestyle=":", zorder=2)
    return [line]
