"""What timings come to, in words, and their tables as text that is also Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lowrank.api.advise import Advice
    from lowrank.api.advise_model import Whole

NONE = "-"
SHOWN = 4
"""Layers that a sentence names."""


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose columns are as wide as their widest cell, without those that have nothing but dashes."""
    columns = [
        column
        for column in zip(head, *rows, strict=True)
        if any(cell != NONE for cell in column[1:])
    ]
    widths = [max(map(len, column)) for column in columns]
    first, *others = [
        f"| {' | '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))} |"
        for row in zip(*columns, strict=True)
    ]
    return "\n".join([first, f"|{'|'.join('-' * (width + 2) for width in widths)}|", *others])


def in_short(layers: Iterable[Advice], whole: Sequence[Whole]) -> list[str]:
    """What to do, in sentences: where steps and tokens are faster than the dense model's, what memory is saved, and
    last which layers to leave dense."""
    dense, *low = whole
    found = [_faster("Training steps", [(one.fraction, one.speed) for one in low])]
    tokens = [(one.fraction, one.token_speed) for one in low if one.token_speed is not None]
    if tokens:
        found.append(_faster("Tokens, written one by one,", tokens))
    least = min(low, key=lambda one: one.state_bytes)
    if least.state_bytes < dense.state_bytes:
        share = least.state_bytes / dense.state_bytes
        found.append(f"Training state is {share:.0%} of dense at rank {least.fraction:g}.")
    else:
        found.append("No rank tried saves memory.")
    kinds = list(layers)
    slow = [advice for advice in kinds if advice.pays_up_to is None]
    if not slow:
        found.append("Every layer is faster, up to the rank that its row says.")
    elif len(slow) == len(kinds):
        found.append("No layer by itself is faster, from the lowest rank on.")
    else:
        names = ", ".join(counted(advice.names) for advice in slow[:SHOWN])
        names += f" and {len(slow) - SHOWN} kinds more" if len(slow) > SHOWN else ""
        found.append(
            f"Not faster, even at the lowest rank: {names}; for speed leave them dense (exclude=[...]) "
            "and keep the others up to the rank that their row says."
        )
    return found


def _faster(what: str, speeds: Sequence[tuple[float | None, float]]) -> str:
    shown = [(f"{fraction:g}", round(speed, 2)) for fraction, speed in speeds]
    faster = [f"{rank} ({speed:.2f} times)" for rank, speed in shown if speed > 1]
    slower = [rank for rank, speed in shown if speed <= 1]
    if not faster:
        return f"{what} are faster than dense at no rank tried ({', '.join(slower)})."
    others = f", not at {', '.join(slower)}" if slower else ""
    return f"{what} are faster than dense at rank {', '.join(faster)}{others}."


def counted(names: Sequence[str]) -> str:
    """`blocks.0.up and 3 alike`."""
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} alike"
