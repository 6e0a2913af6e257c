"""What an arm is called and how it is drawn, everywhere the same: one colour and marker a kind.

Known kinds have Okabe and Ito's colours and matplotlib's plainest markers. Others, which users
register, have neither: `looks` gives each a colour and a marker that nothing else has.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
from matplotlib.lines import Line2D

from lowrank.escape import label as as_label
from lowrank.escape import visible
from lowrank.experiment.study import STUDIES
from lowrank.plot.style import BLACK, BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILLION


@dataclass(frozen=True)
class Kind:
    """Name, colour and marker of what a figure compares."""

    label: str
    color: str
    marker: Any

    def handle(self, label: str | None = None, **options: Any) -> Line2D:
        """A legend entry."""
        style = {"color": self.color, "marker": self.marker, **options}
        return Line2D([], [], label=as_label(label or self.label), **style)


INITS = {
    "dense": Kind("dense", BLACK, "s"),
    "he": Kind("He", ORANGE, "v"),
    "spectral": Kind("spectral", BLUE, "o"),
    "spectral_ones": Kind("spectral ones", SKY, "D"),
    "random_spectral": Kind("random directions", GREEN, "^"),
    "he_scaled": Kind("He, scaled", PURPLE, "P"),
}
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
SWITCH_COLORS = (VERMILLION, "#7F0000", "#F2A65A")
SWITCH_MARKERS: tuple[Any, ...] = ("*", (6, 1, 0), (7, 1, 0), (8, 1, 0), (9, 1, 0))
FULL_RATE = Kind("full rate after the switch", "#1B5E20", ">")
HALF_RATE = Kind("half rate after the switch", "#66A61E", "h")
RESET = Kind("moments reset at the switch", "#882255", "<")
OWN = 26
"""Characters of an own method's name in a legend."""
SPARE_COLORS = (
    *("#332288", "#7FE03A", "#00BCD4", "#8C510A", "#E7298A"),
    *("#7E57C2", "#999933", "#B2182B", "#4A6FA5", "#424242"),
)
SPARE_MARKERS: tuple[Any, ...] = (
    *("$\u2663$", (4, 1, 0), "$\u2665$", "p", (3, 1, 0)),
    *("$\u2660$", "d", (3, 1, 180), "h", "8"),
)


def looks(names: Iterable[str], known: Mapping[str, Kind]) -> dict[str, Kind]:
    """How each of `names` is drawn: the known kinds as they are, and each other (a method that a
    user registered) in a colour and with a marker of its own, given out by alphabet."""
    own = sorted(set(names) - set(known))
    return dict(known) | {
        name: Kind(visible(in_words(name, known), OWN), *_spare(index))
        for index, name in enumerate(own)
    }


def _spare(index: int) -> tuple[str, Any]:
    """The colour and marker of the nth own method: both differ up to ten, then their pairs."""
    turn, place = divmod(index, len(SPARE_COLORS))
    return SPARE_COLORS[place], SPARE_MARKERS[(place + turn) % len(SPARE_MARKERS)]


def in_words(name: str, known: Mapping[str, Kind]) -> str:
    """What a kind is called."""
    return known[name].label if name in known else name.replace("_", " ")


def decay_looks(rows: Iterable[Any]) -> dict[str, Kind]:
    """How each decay among rows of `runs` is drawn, by its `decay_label`, known kinds first. Where a
    kind has several strengths, the first of them has the kind's look, and so has one that was swept."""
    rows = [row for row in rows if decay_key(row)]
    kinds = {decay_label(row): (decay_key(row), _strength(row)) for row in rows}
    swept = {decay_label(row) for row in rows if was_swept(row, "decay_strength")}
    places = {key: place for place, key in enumerate(DECAYS)}
    order = sorted(
        kinds, key=lambda label: (places.get(kinds[label][0], len(places)), kinds[label])
    )
    first: dict[str, str] = {}
    for label in order:
        if label not in swept:
            first.setdefault(kinds[label][0], label)
    alike = [*first.items(), *((kinds[label][0], label) for label in swept)]
    known = {label: replace(DECAYS[key], label=label) for key, label in alike if key in DECAYS}
    drawn = looks(kinds, known)
    return {label: drawn[label] for label in order}


def switch_looks(runs: pd.DataFrame) -> dict[tuple[str, float], Kind]:
    """How models are drawn that were dense at first: by initialisation and share of dense steps.
    Those of studies whose figures join them by lines have the first looks."""
    rows = runs[runs["pretraining"] > 0]
    lines = {name for name, study in STUDIES.items() if study.lines}
    rows = rows.assign(aside=[lines.isdisjoint(names.split(",")) for names in rows["studies"]])
    rows = rows.sort_values(["aside", "init", "pretraining"])
    pairs = list(dict.fromkeys(zip(rows["init"], rows["pretraining"], strict=True)))
    words = (f"{in_words(init, INITS)}, after {100 * share:g} % dense" for init, share in pairs)
    return {
        pair: Kind(
            label,
            SWITCH_COLORS[index % len(SWITCH_COLORS)],
            SWITCH_MARKERS[index % len(SWITCH_MARKERS)],
        )
        for index, (pair, label) in enumerate(zip(pairs, words, strict=True))
    }


def decay_key(row: Any) -> str:
    """`l2`, `frobenius-coupled`, ...: the kind of decay of a row of `runs`, without its strength."""
    if pd.isna(row.decay):
        return ""
    return (
        f"{row.decay}-coupled" if row.decay_coupled is True or row.decay_coupled == 1 else row.decay
    )


def varies(row: Any, fact: str) -> bool:
    """Whether an arm differs in a fact from its track's plain one."""
    return fact in str(row.varied).split(",")


def was_swept(row: Any, choice: str) -> bool:
    """Whether an arm chose this on validation data: decay_strength or switch_rate."""
    return choice in str(getattr(row, "swept", "")).split(",")


def _strength(row: Any) -> float:
    """The strength that a decay was given; 0 for the track's weight decay."""
    return 0.0 if pd.isna(row.decay_strength) else float(row.decay_strength)


def decay_label(row: Any) -> str:
    """The decay in words, with its strength where it was given one or one was found."""
    strength = _strength(row)
    words = in_words(decay_key(row), DECAYS)
    if was_swept(row, "decay_strength"):
        return f"{words}, swept: {strength:g}"
    return f"{words} {strength:g}" if strength else words


def is_own_decay(row: Any) -> bool:
    """Whether the arm has its track's own decay."""
    facts = ("decay", "decay_coupled", "decay_strength")
    return not pd.isna(row.decay) and not any(varies(row, fact) for fact in facts)


def init_label(row: Any) -> str:
    """The initialisation in words; dense for the dense model."""
    return in_words(row.init, INITS)


def layers_label(row: Any) -> str:
    """Which layers are factors, in words."""
    if row.init == "dense":
        return "dense"
    if varies(row, "dense_layers"):
        return f"{row.dense_layers.split(',')[-1].replace('_', ' ')} dense"
    if varies(row, "matricisation"):
        return f"all layers, {row.matricisation} kernels"
    if row.layers == "*":
        return "all layers"
    return f"{row.layers.replace(',', ' and ').replace('mlp', 'MLP')} only"


def arm_label(row: Any) -> str:
    """The whole arm in words, for tables: what sets it apart from the plain arm of its track."""
    parts = [init_label(row)]
    if row.pretraining > 0:
        parts.append(f"after {100 * row.pretraining:g} % dense")
        if was_swept(row, "switch_rate"):
            parts.append(f"swept rate × {row.rate_factor:g}")
        elif row.rate_factor != 0.5:
            parts.append("full rate" if row.rate_factor == 1 else f"rate × {row.rate_factor:g}")
        if row.moments == "reset":
            parts.append("moments reset")
    elif row.rate_factor != 1:
        parts.append("half rate" if row.rate_factor == 0.5 else f"rate × {row.rate_factor:g}")
    if row.length != 1:
        parts.append(f"{row.length:g} × the steps")
    return ", ".join(parts)
