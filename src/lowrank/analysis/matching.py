"""Which rows of the results meet in a contrast: the ledger's facts against the columns of tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from lowrank.analysis.ledger import OF_CELLS, ClaimTest, Rows

Value = float | str


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


@dataclass(frozen=True)
class Member:
    """One contrast: an arm and its reference, None if that is absent."""

    arm: Side
    reference: Side | None


def _sides(rows: Rows, track: str, metric: str, tables: Mapping[str, pd.DataFrame]) -> list[Side]:
    """Every group of rows that has the facts, with what the placeholders stand for."""
    if rows.table not in tables:
        raise NotRun(f"there is no table '{rows.table}'")
    table, of_cells = tables[rows.table], rows.table in OF_CELLS
    needed = ["track", "seed", metric, *(["arm", "varied"] if of_cells else []), *rows.facts]
    for column in needed:
        if column not in table.columns:
            raise NotRun(f"the table '{rows.table}' has no column '{column}'")
    table = table[table["track"] == track]
    if table.empty:
        raise NotRun(f"the table '{rows.table}' has no rows of the track {track}")
    if table[metric].isna().all():
        raise NotRun(f"{metric} was not measured on the track {track}")
    free = list(rows.free)
    chosen = table[free].notna().all(axis=1).to_numpy()
    for column, value in rows.given.items():
        chosen = chosen & np.array([_value(entry) == _value(value) for entry in table[column]])
    if of_cells:  # what is not asked for is the track's own
        chosen = chosen & np.array([_asked(varied, rows) for varied in table["varied"]])
    table = table[chosen]
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


def _asked(varied: Any, rows: Rows) -> bool:
    """Whether all facts in which an arm differs from its track's plain one are asked for; of no arm none is."""
    return isinstance(varied, str) and set(varied.split(",")) - {""} <= rows.facts.keys()


def _value(entry: Any) -> Value:
    """Numbers as names write them (six digits), so that 0.25 meets what is nearly so; true is 1."""
    try:
        return float(f"{float(entry):g}")
    except (TypeError, ValueError):
        return str(entry)


def members(test: ClaimTest, track: str, tables: Mapping[str, pd.DataFrame]) -> Iterator[Member]:
    """Arms with every reference whose placeholders of the same name stand for the same."""
    arms = _sides(test.arm, track, test.metric, tables)
    references = _sides(test.reference, track, test.metric, tables)
    for arm in arms:
        partners = [
            other
            for other in references
            if all(other.bound[key] == arm.bound[key] for key in arm.bound.keys() & other.bound)
        ]
        for other in partners:
            yield Member(arm, other)
        if not partners:
            yield Member(arm, None)
