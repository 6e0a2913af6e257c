"""Which rows of the results meet in a contrast: templates of the ledger against names of arms."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from lowrank.analysis.ledger import OPTIONAL, PLACEHOLDER, ClaimTest, Rows

# An arm's name up to its rank, and the rest, which begins with the decay if that is said.
HEAD = re.compile(r"(\w+-r\d[\d.]*(?:e-?\d+)?)(-.*)?")
STRENGTH = r"(?:\d[\d.]*(?:e-?\d+)?)?"
BUILT_IN = r"(?:none|l2|frobenius)(?:-coupled)?"
"""Decays that are known by name where no column says a cell's."""


class NotRun(Exception):
    """Why a test has nothing to be evaluated on."""


@dataclass(frozen=True)
class _Side:
    name: str
    bound: dict[str, float | str]
    rows: pd.DataFrame


@dataclass(frozen=True)
class Member:
    """One contrast: the rows (one a seed) of an arm and of its reference, None if that is absent."""

    arm: str
    reference: str
    a: pd.DataFrame
    b: pd.DataFrame | None


def own_decays(runs: pd.DataFrame | None) -> dict[str, str]:
    """The decay of each factorised cell, such as `l2-coupled`, by the columns of the run table."""
    if runs is None or not {"cell", "decay", "decay_coupled"} <= set(runs.columns):
        return {}
    rows = runs.dropna(subset=["decay"]).drop_duplicates("cell")
    columns = (rows[name] for name in ("cell", "decay", "decay_coupled"))
    return {
        str(cell): f"{kind}-coupled" if coupled is True or coupled == 1 else str(kind)
        for cell, kind, coupled in zip(*columns, strict=True)
    }


def named(
    table: pd.DataFrame, default_decay: Mapping[str, str], decays: Mapping[str, str]
) -> pd.DataFrame:
    """The table with track and arm from its cells, and each arm's name with its decay said.

    `default_decay` is by track, what names leave unsaid; `decays` by cell (see `own_decays`).
    """
    if "cell" not in table.columns:
        return table
    parts = table["cell"].astype(str).str.split("/", n=1, expand=True).reindex(columns=[0, 1])
    table = table.assign(track=parts[0], arm=parts[1])
    full = [
        _full_name(arm, default_decay.get(track), decays.get(str(cell)))
        for cell, track, arm in zip(table["cell"], table["track"], table["arm"], strict=True)
    ]
    return table.assign(full_arm=full)


def _full_name(arm: str, default: str | None, own: str | None) -> str:
    """`spectral-r0.5-halfrate` under the default l2 is `spectral-r0.5-l2-halfrate`."""
    match = HEAD.fullmatch(arm)
    if match is None:
        return arm
    rest = match[2] or ""
    said = re.match(f"-{re.escape(own) if own else BUILT_IN}{STRENGTH}(?:-|$)", rest)
    return arm if said else f"{match[1]}-{default or own or 'l2'}{rest}"


def _sides(rows: Rows, track: str, metric: str, tables: Mapping[str, pd.DataFrame]) -> list[_Side]:
    """Every group of rows that the templates match, with what the placeholders stand for."""
    if rows.table not in tables:
        raise NotRun(f"there is no table '{rows.table}'")
    table = tables[rows.table]
    needed = ["track", "seed", metric, *rows.filters, *(["arm"] if rows.arm else [])]
    for column in needed:
        if column not in table.columns:
            raise NotRun(f"the table '{rows.table}' has no column '{column}'")
    table = table[table["track"] == track]
    if table.empty:
        raise NotRun(f"the table '{rows.table}' has no rows of the track {track}")
    if table[metric].isna().all():
        raise NotRun(f"{metric} was not measured on the track {track}")
    free = []
    for column, value in rows.filters.items():
        if isinstance(value, str) and PLACEHOLDER.fullmatch(value):
            free.append(column)
        else:
            wanted = [_value(entry) == _value(value) for entry in table[column]]
            table = table.loc[np.array(wanted, dtype=bool)]
    keys = (["arm"] if rows.arm else []) + free
    sides = []
    for entries, group in table.groupby(keys, sort=False) if keys else [((), table)]:
        entry: dict[str, Any] = dict(zip(keys, entries, strict=True))
        bound = _bind(rows, group) if rows.arm else {}
        if bound is None or group.empty:
            continue
        bound |= {str(rows.filters[c])[1:-1]: _value(entry[c]) for c in free}
        filters = {**rows.filters, **{c: _value(entry[c]) for c in free}}
        name = Rows(table=rows.table, arm=entry.get("arm"), filters=filters)
        sides.append(_Side(str(name), bound, group))
    if not sides:
        raise NotRun(f"no rows of the table '{rows.table}' are {track}/{rows}")
    return sides


def _bind(rows: Rows, group: pd.DataFrame) -> dict[str, float | str] | None:
    """What the placeholders of the template stand for in this arm's name; None if it is another."""
    for column in ("arm", "full_arm"):
        if column in group.columns:
            match = rows.pattern.fullmatch(str(group[column].iloc[0]))
            if match:
                return {
                    key: text if key in OPTIONAL else _value(text)
                    for key, text in match.groupdict().items()
                }
    return None


def _value(entry: Any) -> float | str:
    """Numbers as names write them (six digits), so that 0.25 meets `r0.25`."""
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
            yield Member(arm.name, other.name, arm.rows, other.rows)
        if not partners:
            yield Member(arm.name, str(test.reference), arm.rows, None)
