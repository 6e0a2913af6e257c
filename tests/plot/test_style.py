"""The common look: deterministic files, embedded TrueType, distinct kinds."""

from __future__ import annotations

import os
import subprocess
import sys
from types import SimpleNamespace

import matplotlib
import matplotlib.style
import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb

from lowrank.plot import style
from lowrank.plot.arms import (
    DECAYS,
    FULL_RATE,
    INITS,
    RESET,
    TRUNCATIONS,
    decay_looks,
    looks,
    switch_looks,
)

DRAW = """
import sys
from lowrank.plot import style
figure, (ax,) = style.canvas(width=style.COLUMN)
line, = ax.plot([1, 2], [3, 4], label="a — line")
ax.set_xlabel(r"$\\sigma_i$ of steps")
style.legend_below(figure, [line])
style.save(figure, sys.argv[1])
"""


def test_equal_figures_are_equal_bytes_whatever_the_hash_seed_the_date_and_the_matplotlibrc(
    tmp_path,
):
    (tmp_path / "matplotlibrc").write_text(
        "text.usetex: True\naxes.facecolor: red\nfont.sans-serif: Humor Sans\nsavefig.bbox: tight\n"
        "figure.facecolor: green\nlegend.loc: best\naxes.titlelocation: right\nlines.marker: o\n",
        encoding="utf-8",
    )
    rc = {"MATPLOTLIBRC": str(tmp_path / "matplotlibrc"), "MPLBACKEND": "svg"}
    for name, seed, epoch, own in (("a", "1", "0", {}), ("b", "2", "86400000", rc)):
        env = {**os.environ, "PYTHONHASHSEED": seed, "SOURCE_DATE_EPOCH": epoch, **own}
        subprocess.run([sys.executable, "-c", DRAW, str(tmp_path / name)], check=True, env=env)
    for ending in ("pdf", "png"):
        first, second = ((tmp_path / f"{name}.{ending}").read_bytes() for name in "ab")
        assert first == second
    pdf = (tmp_path / "a.pdf").read_bytes()
    assert b"CreationDate" not in pdf
    assert b"/Type3" not in pdf and b"/FontFile2" in pdf


RUNS = pd.DataFrame(
    {"init": ["spectral", "dense", "spectral", "he"], "pretraining": [0.25, 0.0, 0.5, 0.25]}
).assign(studies="scaling")
SWITCHES = list(switch_looks(RUNS).values())
STYLES = {
    "a style sheet": lambda: matplotlib.style.use("dark_background"),
    "seaborn": lambda: matplotlib.style.use("seaborn-v0_8-darkgrid"),
    "sketches": lambda: matplotlib.rcParams.update({"path.sketch": (1, 100, 2), "font.size": 20}),
    "LaTeX": lambda: matplotlib.rcParams.update({"text.usetex": True, "mathtext.fontset": "stix"}),
    "saving": lambda: matplotlib.rcParams.update(
        {
            "savefig.transparent": True,
            "savefig.pad_inches": 3,
            "pdf.fonttype": 3,
            "pdf.compression": 0,
        }
    ),
}


@pytest.mark.parametrize("when", ["before drawing", "before saving"])
@pytest.mark.parametrize("own", STYLES)
def test_no_setting_of_the_session_changes_a_figure(own, when, tmp_path):
    def draw(prefix, change=lambda: None):
        if when == "before drawing":
            change()
        figure, (ax,) = style.canvas(width=style.COLUMN)
        ax.set_xlabel(r"$\sigma$ of 10 %")
        style.legend_below(figure, ax.plot([0.001, 0.002], label="line"))
        if when == "before saving":
            change()
        return [path.read_bytes() for path in style.save(figure, prefix)]

    with matplotlib.rc_context():
        plain = draw(tmp_path / "plain")
        assert draw(tmp_path / "own", STYLES[own]) == plain


@pytest.mark.parametrize(
    "kinds",
    [[*INITS.values(), FULL_RATE, RESET, *SWITCHES], DECAYS.values(), TRUNCATIONS.values()],
)
def test_kinds_of_a_figure_differ_in_colour_and_in_marker(kinds):
    kinds = list(kinds)
    assert len({k.marker for k in kinds}) == len(kinds)
    colors = np.array([to_rgb(k.color) for k in kinds])
    distances = np.linalg.norm(colors[:, None] - colors[None], axis=-1)
    assert distances[~np.eye(len(kinds), dtype=bool)].min() > 0.2


@pytest.mark.parametrize("known", [INITS, DECAYS, TRUNCATIONS])
def test_ten_own_methods_have_colours_and_markers_that_nothing_else_has(known):
    own = [f"own_{letter}" for letter in "jihgfedcba"]
    drawn = looks([*own, *known, *own], known)
    assert {name: drawn[name] for name in known} == known
    everything = [*INITS.values(), *DECAYS.values(), *TRUNCATIONS.values(), FULL_RATE, RESET]
    others = {str(kind.marker) for kind in [*everything, *SWITCHES]}
    mine = [drawn[name] for name in own]
    assert len({str(kind.marker) for kind in mine} - others) == len(own)
    assert drawn["own_a"].label == "own a"
    colors = np.array([to_rgb(kind.color) for kind in mine])
    taken = np.array([to_rgb(kind.color) for kind in [*everything, *SWITCHES]] + [(1, 1, 1)])
    distances = np.linalg.norm(colors[:, None] - np.concatenate([taken, colors])[None], axis=-1)
    distances[:, len(taken) :][np.eye(len(own), dtype=bool)] = np.inf
    assert distances.min() > 0.2


def test_looks_do_not_depend_on_the_order_of_names_and_differ_beyond_ten():
    names = [f"m{index:02d}" for index in range(30)]
    drawn = looks(names, INITS)
    assert looks(reversed(names), INITS) == drawn
    assert len({(drawn[name].color, str(drawn[name].marker)) for name in names}) == 30


def test_strengths_of_one_decay_differ_and_the_first_has_the_look_of_its_kind():
    facts = [("l2", False, None), ("l2", True, None), ("l2", False, 0.01), ("mine", False, 0.3)]
    rows = [
        SimpleNamespace(decay=decay, decay_coupled=coupled, decay_strength=strength)
        for decay, coupled, strength in facts
    ]
    drawn = decay_looks(rows)
    assert list(drawn) == ["L2 on the factors", "L2 on the factors 0.01", "L2, coupled", "mine 0.3"]
    for label, key in (("L2 on the factors", "l2"), ("L2, coupled", "l2-coupled")):
        assert drawn[label] == DECAYS[key]
    assert len({str(kind.marker) for kind in drawn.values()}) == 4


def test_legend_takes_fewer_columns_rather_than_be_cut_off():
    figure, (ax,) = style.canvas(width=style.COLUMN)
    lines = [ax.plot([0, 1], label=f"an arm with a rather long name {i}")[0] for i in range(6)]
    legend = style.legend_below(figure, lines, columns=6)
    assert len(figure.legends) == 1
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    assert legend.get_window_extent(renderer).width <= figure.bbox.width


@pytest.mark.filterwarnings("error")
def test_a_long_legend_makes_the_figure_higher_and_not_its_axes_lower():
    heights = []
    for entries in (4, 40):
        figure, (ax,) = style.canvas(height=2.7)
        lines = [ax.plot([0, 1], label=f"an arm with a name {i}")[0] for i in range(entries)]
        style.legend_below(figure, lines)
        figure.draw(FigureCanvasAgg(figure).get_renderer())
        heights.append(ax.get_window_extent().height / figure.dpi)
    assert heights[1] > 0.75 * heights[0] and figure.get_figheight() > 3


def test_legend_reads_by_rows():
    entries = ["a", "b", "c", "d", "e"]
    assert style._by_row(entries, 3) == ["a", "d", "b", "e", "c"]


@pytest.mark.parametrize(("low", "high"), [(7e8, 1e9), (0.9, 1.05), (2e8, 2.4e9), (1e-3, 10.0)])
def test_log_axes_have_a_few_written_ticks(low, high):
    ticks = style._log_ticks(low, high)
    assert 2 <= len(ticks) <= 7
    assert all(low <= tick <= high for tick in ticks)
    assert style._plain(2e9) == r"$2{\times}10^{9}$"
    assert style._plain(1e9) == r"$10^{9}$"
    assert style._plain(0.02) == "0.02"


def test_losses_beyond_any_perplexity_are_drawn_without_its_scale():
    figure, (ax,) = style.canvas()
    ax.set_ylim(5.0, 1000.0)
    style.add_perplexity(ax)
    FigureCanvasAgg(figure).draw()
    assert not ax.child_axes
    ax.set_ylim(5.0, 700.0)
    style.add_perplexity(ax)
    FigureCanvasAgg(figure).draw()
    assert ax.child_axes
