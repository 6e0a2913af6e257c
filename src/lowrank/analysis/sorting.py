"""What becomes of each new run beside published ones: new, known, made again, or contradicting.

A run is known by its digest, which determines its numbers on one processor.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from lowrank.errors import LowrankError

Row = dict[str, Any]
KEY = ["cell", "seed"]
MADE_BY = ("processor", "torch", "threads")
"""What runs repeat to the bit on."""
EVALUATED_BY = ("evaluation_version", "test_examples")
ENDS = re.compile(r"(train|validation|test)_(loss|accuracy)")


@dataclass
class Found:
    """What becomes of new runs, by cell and seed."""

    added: list[tuple[str, int]] = field(default_factory=list)
    known: list[tuple[str, int]] = field(default_factory=list)
    again: list[Row] = field(default_factory=list)
    """Rows from another processor."""
    other: list[tuple[str, int]] = field(default_factory=list)
    """Published by another digest, or evaluated otherwise."""
    contradicting: list[tuple[str, int]] = field(default_factory=list)
    """Published by the same digest and processor with other numbers."""
    unfit: list[tuple[str, int]] = field(default_factory=list)
    """Published, with no new run of the cell and seed, and of another study than the track's new runs."""
    strange: list[tuple[str, int]] = field(default_factory=list)
    """Added to a track with published runs, and not as they are made beside the published sweeps."""


def sorted_out(published: list[Row], repeated: list[Row], new: list[Row]) -> Found:
    known = {key_of(row): row for row in published}
    elsewhere = {(row["digest"], made_by(row)): row for row in repeated}
    found = Found()
    for row in new:
        key, before = key_of(row), known.get(key_of(row))
        if before is None:
            found.added.append(key)
        elif not _same_study(before, row):
            found.other.append(key)
        elif made_by(before) == made_by(row):
            (found.known if _same(before, row) else found.contradicting).append(key)
        else:
            there = elsewhere.get((row["digest"], made_by(row)), row)
            if not _same(there, row):
                found.contradicting.append(key)
            elif there is row:
                found.again.append(row)
            else:
                found.known.append(key)
    return found


def refuse(lacking: list[str], found: Found) -> None:
    if lacking:
        raise LowrankError(
            f"{len(lacking)} published cells are not in this configuration ({_some(lacking)}): add them "
            "to it, or leave them out with --replace."
        )
    if keys := found.contradicting:
        raise LowrankError(
            f"{len(keys)} of these runs are published with other numbers from the same processor "
            f"({_named(keys)}): give --replace to put these in their place."
        )
    if keys := [*found.other, *found.unfit]:
        ways = {
            "put these in the place of {}": len(found.other),
            "leave {} out": len(found.unfit),
        }
        chosen = [way.format(count) for way, count in ways.items() if count]
        raise LowrankError(
            f"{len(keys)} published runs are of other data, settings or versions than these "
            f"({_named(keys)}): give --replace to {' and '.join(chosen)}."
        )
    if keys := found.strange:
        raise LowrankError(
            f"{len(keys)} of these runs are not as the configuration makes them beside what is published of "
            f"their track, as where another processor's sweep chose another rate ({_named(keys)}): give "
            "--replace to put these runs and their sweeps in the place of those."
        )


def made_by(row: Row) -> tuple[str, ...]:
    return tuple(str(row.get(name)) for name in MADE_BY)


def _same_study(one: Row, other: Row) -> bool:
    """Whether two runs of a cell and seed are of the same digest, and evaluated alike."""
    alike = (_equal(one.get(name), other.get(name)) for name in EVALUATED_BY)
    return one.get("digest") == other.get("digest") and all(alike)


def _same(one: Row, other: Row) -> bool:
    """Whether two runs end in the same numbers."""
    names = [name for name in {**one, **other} if ENDS.fullmatch(name)]
    return all(_equal(one.get(name), other.get(name)) for name in names)


def _equal(a: Any, b: Any) -> bool:
    if pd.isna(a) or pd.isna(b):
        return bool(pd.isna(a) and pd.isna(b))
    return math.isclose(a, b, rel_tol=1e-9)


def rows_of(table: pd.DataFrame | None) -> list[Row]:
    return [] if table is None else table.to_dict("records")  # type: ignore[return-value]


def key_of(row: Row) -> tuple[str, int]:
    return row["cell"], row["seed"]


def keys_of(table: pd.DataFrame, columns: Collection[str] = KEY) -> list[tuple[Any, ...]]:
    return list(zip(*(table[name] for name in columns), strict=True))


def _named(runs: Iterable[tuple[str, int]]) -> str:
    return _some(f"{cell} seed {seed}" for cell, seed in runs)


def _some(names: Iterable[str], most: int = 5) -> str:
    listed = list(names)
    return ", ".join(listed[:most]) + (", ..." if len(listed) > most else "")
