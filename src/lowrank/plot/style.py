"""The look that all figures share: sizes, fonts, colours, legends, and how they are saved.

Figures are made without pyplot, so that drawing leaves nothing open and needs no display.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.legend_handler import HandlerTuple
from matplotlib.ticker import FixedLocator, MaxNLocator, NullFormatter, NullLocator

from lowrank.exponential import exp
from lowrank.files import atomic

COLUMN, FULL = 3.5, 7.0
"""Widths of one column and of the page, in inches."""
LEGEND = 0.7
"""Inches of a figure's height that its legend may take."""

# Okabe and Ito's palette, told apart with every common colour blindness; yellow is too pale for lines.
BLACK, GREY = "#000000", "#7A7A7A"
ORANGE, SKY, GREEN = "#E69F00", "#56B4E9", "#009E73"
BLUE, VERMILLION, PURPLE = "#0072B2", "#D55E00", "#CC79A7"

KEPT = ("backend", "backend_fallback", "interactive", "toolbar", "timezone")
"""Settings that belong to the session and not to a figure."""
RC: Any = {
    # All of matplotlib's own first: a matplotlibrc or a style of the user's changes no figure.
    **{key: value for key, value in matplotlib.rcParamsDefault.items() if key not in KEPT},
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same letters on every machine
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.title_fontsize": 7,
    "legend.frameon": False,
    "legend.handlelength": 2.4,
    "legend.columnspacing": 1.4,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.minor.width": 0.4,
    "ytick.minor.width": 0.4,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.2,
    "lines.markersize": 4.5,
    "errorbar.capsize": 2.0,
    "pdf.fonttype": 42,  # TrueType: text stays text, journals accept it
    "svg.hashsalt": "lowrank",
    "figure.dpi": 100,
    "savefig.dpi": 300,
}


def canvas(
    columns: int = 1, rows: int = 1, width: float = FULL, height: float = 2.7, **options: Any
) -> tuple[Figure, list[Axes]]:
    """A figure of `width` x `height` inches in the common style, and its axes row by row.

    The style holds from here on, for what is then drawn into the axes too.

    Further options go to `Figure.subplots`. The layout is constrained: labels and legends placed
    with `legend_below` take the room they need.
    """
    matplotlib.rcParams.update(RC)
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **options)
    return figure, list(axes.flat)


def save(figure: Figure, prefix: Path | str) -> list[Path]:
    """Write `<prefix>.pdf` and `<prefix>.png` (300 dpi); equal figures give equal bytes."""
    paths = []
    for ending, metadata in (
        ("pdf", {"CreationDate": None, "Creator": None, "Producer": None}),
        ("png", {"Software": None}),
    ):
        path = Path(f"{prefix}.{ending}")
        with atomic(path) as temporary, matplotlib.rc_context(RC):
            figure.savefig(temporary, format=ending, metadata=metadata)
        figure.set_layout_engine("none")  # both are laid out alike, once
        paths.append(path)
    return paths


def legend_below(
    figure: Figure, handles: Iterable[Artist | tuple[Artist, ...]], columns: int = 4
) -> Legend:
    """A legend under all panels, of at most so many columns as the figure is wide enough for; the
    entries fill rows from left to right, and the figure grows with a legend higher than `LEGEND`.
    Artists in a tuple lie on each other, under the first's
    label."""
    entries = list(handles)
    overlaid = {tuple: HandlerTuple(ndivide=1)}
    for ncols in range(max(1, min(columns, len(entries))), 0, -1):
        arranged = _by_row(entries, ncols)
        labels = [str(_first(entry).get_label()) for entry in arranged]
        legend = figure.legend(
            arranged, labels, loc="outside lower center", ncols=ncols, handler_map=overlaid
        )
        box = legend.get_window_extent(FigureCanvasAgg(figure).get_renderer())
        if ncols == 1 or box.width <= 0.98 * figure.bbox.width:
            break
        legend.remove()
    beyond = box.height / figure.dpi - LEGEND
    figure.set_figheight(figure.get_figheight() + max(0.0, beyond))
    return legend


def _first(entry: Any) -> Artist:
    return entry[0] if isinstance(entry, tuple) else entry


def _by_row(entries: list[Any], columns: int) -> list[Any]:
    """Matplotlib fills a legend column by column; readers read rows."""
    rows = math.ceil(len(entries) / columns)
    full = len(entries) - columns * (rows - 1)  # columns that reach the last row
    ordered = []
    for column in range(columns):
        ordered += [entries[r * columns + column] for r in range(rows - (column >= full))]
    return ordered


def title_panels(axes: Iterable[Axes], titles: Iterable[str]) -> None:
    """A short bold title (a), (b), ... (z), (aa), ... over each panel, at its left."""
    for letter, ax, title in zip(letters(), axes, titles, strict=False):
        ax.set_title(f"({letter}) {title}".rstrip(), loc="left", fontweight="bold")


def letters() -> Iterator[str]:
    """a, b, ... z, aa, ab, ..."""
    for place in count():
        turn, letter = divmod(place, 26)
        yield (chr(96 + turn) if turn else "") + chr(97 + letter)


def log_axis(ax: Axes, which: str, ticks: Iterable[float] | None = None) -> None:
    """A logarithmic axis whose ticks are written out; with `ticks`, as many of those, evenly, as
    there is room for.

    Without them there are about four, wherever round numbers fall: matplotlib labels decades, and
    the models of one study often lie within one.
    """
    axis = getattr(ax, f"{which}axis")
    getattr(ax, f"set_{which}scale")("log")
    low, high = getattr(ax, f"get_{which}lim")()
    if ticks is None:
        ticks = _log_ticks(low, high)
    else:
        ticks = _with_room(ax, which, sorted(ticks))
        axis.set_minor_locator(NullLocator())
    axis.set_major_locator(FixedLocator(sorted(ticks)))
    axis.set_major_formatter(lambda value, _: _plain(value))
    axis.set_minor_formatter(NullFormatter())


def _with_room(ax: Axes, which: str, ticks: list[float]) -> list[float]:
    """Every tick, or every second, third, ..., so that the labels of a logarithmic axis do not touch."""
    low, high = np.log10(getattr(ax, f"get_{which}lim")())
    figure: Any = ax.get_figure(root=True)
    box = ax.get_position()
    size = (
        figure.get_figwidth() * box.width if which == "x" else figure.get_figheight() * box.height
    )
    # In inches: a digit at 7 points is 0.062 wide, a line 0.13 high.
    widths = [0.062 * len(_plain(tick)) + 0.06 if which == "x" else 0.13 for tick in ticks]
    places = size * (np.log10(ticks) - low) / (high - low)
    for stride in range(1, len(ticks)):
        gaps = np.diff(places[::stride])
        if (gaps >= (np.array(widths[::stride])[1:] + widths[::stride][:-1]) / 2).all():
            return ticks[::stride]
    return ticks[:1]


def _log_ticks(low: float, high: float) -> list[float]:
    """Round numbers between two positive limits: the sparsest set with at least three of them."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for digits in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 4, 5, 7)):
        ticks = [digit * 10.0**decade for decade in decades for digit in digits]
        inside = [tick for tick in ticks if low <= tick <= high]
        if len(inside) >= 3:
            return inside
    ticks = [float(t) for t in MaxNLocator(nbins=4).tick_values(low, high)]
    return [tick for tick in ticks if low <= tick <= high]


def _plain(value: float) -> str:
    """`0.02`, `300`, or a power of ten where that is shorter."""
    if 1e-3 <= value < 1e4:
        return f"{value:g}"
    exponent = math.floor(math.log10(value) + 1e-9)
    factor = f"{value / 10.0**exponent:.3g}"
    times = "" if factor == "1" else rf"{factor}{{\times}}"
    return rf"${times}10^{{{exponent}}}$"


def add_perplexity(ax: Axes) -> None:
    """A right-hand scale that reads the loss of the left one (nats a token) as perplexity; none
    where no float can hold it."""
    low, high = exp(ax.get_ylim())
    if not np.isfinite(high):
        return
    right = ax.secondary_yaxis("right", functions=(exp, lambda p: np.log(np.maximum(p, 1e-12))))
    ticks = [tick for tick in MaxNLocator(nbins=5).tick_values(low, high) if low <= tick <= high]
    right.set_yticks(ticks, labels=[f"{tick:g}" for tick in ticks])
    right.set_ylabel("perplexity")


def widen(low: float, high: float, share: float = 0.08) -> tuple[float, float]:
    """Limits with a margin of `share` of their distance on both sides."""
    room = share * (high - low) or 0.05 * abs(high) or 1.0
    return low - room, high + room
