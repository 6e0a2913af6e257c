"""What an arm is called and how it is drawn, everywhere the same: one colour and marker a kind."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.lines import Line2D

from lowrank.plot.style import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILLION


@dataclass(frozen=True)
class Kind:
    """Name, colour and marker of what a figure compares."""

    label: str
    color: str
    marker: str

    def handle(self, label: str | None = None, **options: Any) -> Line2D:
        """A legend entry."""
        style = {"color": self.color, "marker": self.marker, **options}
        return Line2D([], [], label=label or self.label, **style)


INITS = {
    "dense": Kind("dense", BLACK, "s"),
    "he": Kind("He", ORANGE, "v"),
    "spectral": Kind("spectral", BLUE, "o"),
    "spectral_ones": Kind("spectral ones", SKY, "D"),
    "random_spectral": Kind("random directions", GREEN, "^"),
    "he_scaled": Kind("He, scaled", PURPLE, "P"),
}
PRETRAINED = Kind("pre-trained", VERMILLION, "*")
DECAYS = {
    "none": Kind("no decay", GREY, "X"),
    "l2": Kind("L2 on the factors", BLUE, "o"),
    "l2-coupled": Kind("L2, coupled", SKY, "D"),
    "frobenius": Kind("Frobenius", VERMILLION, "s"),
    "frobenius-coupled": Kind("Frobenius, coupled", PURPLE, "^"),
}
TRUNCATIONS = {
    "plain": Kind("SVD", ORANGE, "v"),
    "whitened": Kind("whitened SVD", GREEN, "^"),
    "fisher": Kind("Fisher-weighted SVD", PURPLE, "D"),
}
SPARE = [(GREEN, "<"), (ORANGE, ">"), (PURPLE, "p"), (SKY, "h"), (VERMILLION, "d"), (GREY, "8")]


def kind(name: str, known: dict[str, Kind], others: list[str] | None = None) -> Kind:
    """How `name` is drawn; a method registered by the user gets the next spare colour and marker.

    `others`: all such names of the figure, so that two of them differ.
    """
    if name in known:
        return known[name]
    strangers = [other for other in others or [name] if other not in known]
    color, marker = SPARE[strangers.index(name) % len(SPARE)]
    return Kind(name.replace("_", " "), color, marker)


def decay_key(row: Any) -> str:
    """`l2`, `frobenius-coupled`, ...: the kind of decay of a row of `runs`, without its strength."""
    if pd.isna(row.decay):
        return ""
    return (
        f"{row.decay}-coupled" if row.decay_coupled is True or row.decay_coupled == 1 else row.decay
    )


STRENGTH = re.compile(r"-(?:none|l2|frobenius)(?:-coupled)?(\d[\d.]*(?:e-?\d+)?)(?=-|$)")


def decay_label(row: Any) -> str:
    """The decay in words, with its strength where the arm's name says one."""
    strength = STRENGTH.search(row.arm)
    words = kind(decay_key(row), DECAYS).label
    return f"{words} {float(strength[1]):g}" if strength else words


def is_own_decay(row: Any) -> bool:
    """Whether the arm has its track's own decay: the one that names leave unsaid."""
    return not pd.isna(row.decay) and f"-{decay_key(row)}" not in row.arm


def init_label(row: Any) -> str:
    """The initialisation in words; dense for the dense model."""
    return kind(row.init, INITS).label


def layers_label(row: Any) -> str:
    """Which layers are factors, in words."""
    if row.init == "dense":
        return "dense"
    left = re.search(r"dense_\w*?(first|last)_block", row.arm)
    if left:
        return f"{left[1]} block dense"
    if row.arm.endswith(f"-{row.matricisation}"):
        return f"all layers, {row.matricisation} kernels"
    if row.layers == "*":
        return "all layers"
    return f"{row.layers.replace(',', ' and ').replace('mlp', 'MLP')} only"


def arm_label(row: Any) -> str:
    """The whole arm in words, for tables: what sets it apart from the plain arm of its track."""
    parts = [init_label(row)]
    if row.pretraining > 0:
        parts.append(f"after {100 * row.pretraining:g} % dense")
        if row.rate_factor != 0.5:
            parts.append("full rate" if row.rate_factor == 1 else f"rate × {row.rate_factor:g}")
        if row.moments == "reset":
            parts.append("moments reset")
    elif row.rate_factor != 1:
        parts.append("half rate" if row.rate_factor == 0.5 else f"rate × {row.rate_factor:g}")
    long = re.search(r"-long([\d.]+)", row.arm)
    if long:
        parts.append(f"{float(long[1]):g} × the steps")
    return ", ".join(parts)
