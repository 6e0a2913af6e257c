"""Which rows of the results meet in a contrast: the ledger's facts against the columns of tables."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lowrank.analysis.ledger import OF_CELLS, ClaimTest, Rows

Value = float | str
FOUND = {"switch_rate": "rate_factor", "decay_strength": "decay_strength"}
"""The fact whose value a sweep of that name finds: it need not be asked for where `swept` is."""
USED = ("diverged", "init", "kept_parameters")
"""Columns of a side's rows beside those that its test asks for: tables are wide, and a side is a copy."""


class NotRun(Exception):
    """Why a test has nothing to be evaluated on."""


@dataclass(frozen=True)
class Side:
    """One side of a contrast."""

    name: str
    """The arm's, or the facts of rows that are of no cell."""
    facts: dict[str, Any]
    """What the ledger asked for, with the values found."""
    bound: dict[str, Value]
    """What its placeholders stand for."""
    rows: pd.DataFrame
    """A row a seed."""

    @property
    def kept(self) -> float:
        """Parameters as a share of the dense model's; NaN of a dense model, and where that is unknown."""
        known = self.rows.get("kept_parameters", pd.Series(dtype=float))
        dense = "init" in self.rows and self.rows["init"].eq("dense").any()
        return math.nan if dense else float(known.mean())


@dataclass(frozen=True)
class Member:
    """One contrast: an arm and its reference, None if that is absent; of an interaction with the contrast
    that it is compared with."""

    arm: Side
    reference: Side | None
    against: Member | None = None

    @property
    def sides(self) -> list[Side]:
        """All that are there."""
        own = [self.arm, *([self.reference] if self.reference else [])]
        return own + (self.against.sides if self.against else [])

    @property
    def bound(self) -> dict[str, Value]:
        """What the placeholders of its sides stand for."""
        return {key: value for side in self.sides for key, value in side.bound.items()}


def _sides(rows: Rows, track: str, metric: str, tables: Mapping[str, pd.DataFrame]) -> list[Side]:
    """Every group of rows that has the facts, with what the placeholders stand for."""
    if rows.table not in tables:
        raise NotRun(f"there is no table '{rows.table}'")
    table, of_cells = tables[rows.table], rows.table in OF_CELLS
    needed = ["track", "seed", metric, *(["arm", "varied"] if of_cells else []), *rows.facts]
    for column in needed:
        if column not in table.columns:
            raise NotRun(f"the table '{rows.table}' has no column '{column}'")
    there = (table["track"] == track).to_numpy()
    telling = [name for name in dict.fromkeys([*needed, "swept"]) if name in table]
    own = table.loc[there, telling]  # tables are wide
    if own.empty:
        raise NotRun(f"the table '{rows.table}' has no rows of the track {track}")
    if own[metric].isna().all():
        raise NotRun(f"{metric} was not measured on the track {track}")
    free = list(rows.free)
    chosen = own[free].notna().all(axis=1).to_numpy()
    for column, value in rows.given.items():
        chosen = chosen & _each(own[column], _is(value))
    if of_cells:  # what is not asked for is the track's own
        swept = own["swept"] if "swept" in own else [""] * len(own)
        pairs = pd.Series(list(zip(own["varied"], swept, strict=True)), own.index)
        chosen = chosen & _each(pairs, lambda pair: _asked(pair[0], pair[1], rows))
    used = [name for name in dict.fromkeys([*telling, *USED]) if name in table]
    table = table[used].iloc[np.flatnonzero(there)[chosen]]
    sides = []
    keys = ["arm", *free] if of_cells else free
    for entries, group in table.groupby(keys, sort=False) if keys else [((), table)]:
        entry: dict[str, Any] = dict(zip(keys, entries, strict=True))
        facts = rows.facts | {column: _value(entry[column]) for column in free}
        name = entry["arm"] if of_cells else str(rows.model_copy(update={"facts": facts}))
        bound = {rows.free[column]: _value(entry[column]) for column in free}
        if len(group):
            sides.append(Side(name, facts, bound, group))
    if not sides:
        raise NotRun(f"no rows of the table '{rows.table}' on {track} are {rows}")
    return sides


def _is(value: Any) -> Callable[[Any], bool]:
    wanted = _value(value)
    return lambda entry: _value(entry) == wanted


def _each(entries: pd.Series, holds: Callable[[Any], bool]) -> NDArray[np.bool_]:
    """Where something holds, asked once of each value: a fact has few."""
    place, values = pd.factorize(entries, use_na_sentinel=False)
    return np.array([holds(value) for value in values], dtype=bool)[place]


def _asked(varied: Any, swept: Any, rows: Rows) -> bool:
    """Whether all facts in which an arm differs from its track's plain one are asked for, but for what a
    sweep found; of no arm none is."""
    if not isinstance(varied, str):
        return False
    found = {FOUND[name] for name in str(swept).split(",") if name in FOUND}
    return set(varied.split(",")) - {""} - found <= rows.facts.keys()


def _value(entry: Any) -> Value:
    """Numbers as names write them (six digits), so that 0.25 meets what is nearly so; true is 1."""
    try:
        return float(f"{float(entry):g}")
    except (TypeError, ValueError):
        return str(entry)


def of_track(tables: Mapping[str, pd.DataFrame], track: str) -> dict[str, pd.DataFrame]:
    """The rows of one track, which many tests ask for; a table that names no track as it is."""
    return {
        name: table[(table["track"] == track).to_numpy()] if "track" in table else table
        for name, table in tables.items()
    }


def members(test: ClaimTest, track: str, tables: Mapping[str, pd.DataFrame]) -> Iterator[Member]:
    """Arms with every reference whose placeholders of the same name stand for the same, and those of an
    interaction with every contrast of which that holds."""
    found = _contrasts(test.arm, test.reference, track, test.metric, tables)
    if test.against is None:
        yield from found
        return
    against = test.against
    others = list(_contrasts(against.arm, against.reference, track, test.metric, tables))
    for member in found:
        partners = [
            other for other in others if other.reference and _agree(member.bound, other.bound)
        ]
        if member.reference is None or not partners:
            yield Member(member.arm, None)
        else:
            yield from (replace(member, against=other) for other in partners)


def _contrasts(
    arm: Rows, reference: Rows, track: str, metric: str, tables: Mapping[str, pd.DataFrame]
) -> Iterator[Member]:
    sides = _sides(arm, track, metric, tables)
    references = _sides(reference, track, metric, tables)
    for side in sides:
        partners = [other for other in references if _agree(side.bound, other.bound)]
        for other in partners:
            yield Member(side, other)
        if not partners:
            yield Member(side, None)


def _agree(first: Mapping[str, Value], second: Mapping[str, Value]) -> bool:
    return all(second[key] == first[key] for key in first.keys() & second)
