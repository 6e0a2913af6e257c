"""Singular values of the trained products at the end, by decay and by initialisation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lowrank.exponential import exp
from lowrank.plot import marks
from lowrank.plot.arms import decay_label
from lowrank.plot.results import Results, records
from lowrank.plot.style import canvas, legend_below, log_axis, title_panels
from lowrank.plot.summary import arms, interval
from lowrank.plot.table import Table, costs, plain, words

DECAY = "by decay"
SHARES = (0.05, 0.1, 0.2, 0.5)
GRID = np.linspace(0.0, 1.0, 201)


def draw(results: Results) -> tuple[Figure, Table]:
    """Singular values of the products at the end, over the largest: by decay and by initialisation.

    An index counts as a share of the matrix's smaller side, so that layers of different size can be
    averaged (geometrically) and a dense layer and a factorised one share an axis.
    """
    panels: list[tuple[str, pd.DataFrame, Any]] = []
    if _has(results, "decay"):
        rows = arms(results, "decay")
        rows = rows[rows["rate_factor"] == 1.0]
        panels.append((DECAY, rows, lambda row: results.decays[decay_label(row)]))
    if _has(results, "initialisation"):
        rows = arms(results, "initialisation")
        for rank in _ranks(rows):
            there = rows[(rows["rank_fraction"] == rank) | (rows["init"] == "dense")]
            panels.append(
                (f"by initialisation, rank {rank:g}", there, lambda row: results.inits[row.init])
            )
    figure, axes = canvas(len(panels), height=3.0, sharey=True)
    sides = _sides(results)
    legends: dict[str, Line2D] = {}
    found = []
    for ax, (title, rows, look_of) in zip(axes, panels, strict=True):
        where = _where(title, panels)
        for row in records(rows):
            look = look_of(row)
            label = look.label
            curve = _spectrum(results, row.cell, sides)
            if curve is None:
                continue
            marks.band(ax, curve, look, marker=look.marker, markevery=(len(legends) * 3, 30))
            legends.setdefault(where + label, look.handle(where + label))
            found.append(_facts(row, title, label, curve))
        ax.set_xlabel("index / smaller side")
        ax.set_xlim(0, 1.02)
    axes[0].set_ylabel(r"singular value over the largest")
    lowest = min((row["smallest"] for row in found), default=1e-2)
    axes[0].set_ylim(max(1e-5, 0.6 * lowest), 1.5)
    log_axis(axes[0], "y")
    title_panels(axes, [title for title, _, _ in panels])
    shown = pd.concat([rows for _, rows, _ in panels], ignore_index=True)
    extra = marks.extra_handles(shown, bars="", bands=True)
    legend_below(figure, [*legends.values(), *extra[:1]], columns=5)
    return figure, Table(
        pd.DataFrame(found),
        [
            words("panel", "panel"),
            words("arm", "label"),
            *costs(),
            plain("seeds", "seeds", 0),
            *(plain(f"at {share:g} of the side", f"at_{100 * share:g}", 4) for share in SHARES),
        ],
    )


def _ranks(rows: pd.DataFrame) -> list[float]:
    """The ranks at which most initialisations were trained; two panels at most, the outer ranks."""
    counts = rows.groupby("rank_fraction")["init"].nunique()
    ranks = sorted(counts[counts == counts.max()].index)
    return ranks if len(ranks) <= 2 else [ranks[0], ranks[-1]]


def _where(title: str, panels: list[tuple[str, pd.DataFrame, Any]]) -> str:
    """The letters of the panels with the same meaning of colours, where there are two meanings."""
    own = [
        letter
        for letter, (other, _, _) in zip("abcdefgh", panels, strict=False)
        if (other == DECAY) == (title == DECAY)
    ]
    return f"({', '.join(own)}) " if len(own) < len(panels) else ""


def _has(results: Results, study: str) -> bool:
    return any(study in studies.split(",") for studies in results.table("runs")["studies"])


def _sides(results: Results) -> dict[Any, float]:
    """The smaller side of each layer's matrix, by model width: a dense layer has that many values."""
    runs = results.table("runs")
    dense = runs[runs["init"] == "dense"][["cell", "width"]].drop_duplicates()
    spectra = results.of("spectra", dense["cell"]).merge(dense, on="cell")
    sizes = spectra.groupby(["width", "layer"])["index"].max()
    return {key: float(value) for key, value in sizes.to_dict().items()}


def _spectrum(results: Results, cell: str, sides: dict[Any, float]) -> Any:
    """Share of the side, and geometric mean over layers with its interval over seeds."""
    runs = results.table("runs")
    width = runs.loc[runs["cell"] == cell, "width"].iloc[0]
    good = runs.loc[(runs["cell"] == cell) & ~runs["diverged"].astype(bool), "seed"]
    rows = results.of("spectra", [cell])
    rows = rows[rows["seed"].isin(good) & (rows["singular_value"] > 0)]
    curves: dict[Any, list[np.ndarray]] = {}
    for (seed, layer), values in rows.groupby(["seed", "layer"], sort=False):
        side = sides.get((width, layer), float(values["index"].max()))
        x = values["index"].to_numpy() / side
        y = np.log(values["singular_value"].to_numpy() / values["singular_value"].max())
        curves.setdefault(seed, []).append(np.interp(GRID, x, y, left=np.nan, right=np.nan))
    if not curves:
        return None
    per_seed = np.array([np.mean(layers, axis=0) for layers in curves.values()])
    there = np.isfinite(per_seed).all(axis=0)
    mean, low, high = np.array([interval(column) for column in per_seed[:, there].T]).T
    return GRID[there], exp(mean), exp(low), exp(high)


def _facts(row: Any, panel: str, label: str, curve: Any) -> dict[str, Any]:
    keys = ("cell", "rank_fraction", "kept_parameters", "kept_flops", "seeds", "diverged")
    facts = {"panel": panel, "label": label, **{key: getattr(row, key) for key in keys}}
    x, mean, _, _ = curve
    for share in SHARES:
        facts[f"at_{100 * share:g}"] = np.interp(share, x, mean, left=np.nan, right=np.nan)
    return facts | {"smallest": mean[-1]}
