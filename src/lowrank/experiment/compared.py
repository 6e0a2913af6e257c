"""Columns compared with what they should be, and what differs first in half a sentence."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

COPIED = 1e-6
"""How far numbers may lie apart that were computed from the same ones in float64."""
MEASURED = 1e-3
"""And those that come from two computations in float32."""


def same(found: pd.DataFrame, expected: pd.DataFrame, key: list[str], name: str) -> str | None:
    """Where a table differs from the one derived anew: rows, then values, texts to the letter."""
    if len(found) != len(expected):
        return f"{name} has {len(found)} rows, and {len(expected)} follow from the runs"
    if not len(expected):
        return None
    if missing := [column for column in expected if column not in found]:
        return f"{name} has no column {missing[0]}"
    for column in [*key, *(column for column in expected if column not in key)]:
        if pd.api.types.is_numeric_dtype(expected[column]):
            wrong = ~close(numbers(found, column), numbers(expected, column), COPIED)
        else:
            texts, wanted = (
                table[column].astype(object).fillna("").astype(str).to_numpy()
                for table in (found, expected)
            )
            wrong = texts != wanted
        if wrong.any():
            place = int(np.argmax(wrong))
            row = expected.iloc[place]
            of = " ".join(str(row[part]) for part in key if not pd.isna(row[part]))
            values = shown(found[column].iloc[place]), shown(row[column])
            return f"{column} of {of} is {values[0]} in {name}, and {values[1]} by the runs"
    return None


def numbers(table: pd.DataFrame, column: str) -> NDArray[np.float64]:
    """A column as numbers; what is missing or none is NaN."""
    if column not in table:
        return np.full(len(table), np.nan)
    values = pd.to_numeric(table[column], errors="coerce")
    return values.to_numpy(dtype=float, na_value=np.nan, copy=True)


def marked(table: pd.DataFrame, column: str) -> NDArray[np.bool_]:
    """The rows in which a column is true; none where it is missing."""
    return (
        table[column].eq(True).fillna(False).to_numpy(dtype=bool)
        if column in table
        else np.zeros(len(table), bool)
    )


def close(a: ArrayLike, b: ArrayLike, tolerance: float) -> NDArray[np.bool_]:
    """Equal within the tolerance; infinite is as good as missing, for tables hold neither."""
    x, y = (
        np.where(np.isfinite(v), v, np.nan) for v in (np.asarray(a, float), np.asarray(b, float))
    )
    return np.isclose(x, y, rtol=tolerance, atol=1e-12, equal_nan=True)


def different(
    table: pd.DataFrame, column: str, expected: ArrayLike, source: str, tolerance: float = COPIED
) -> Iterator[str]:
    """Where a column is not as expected, by the `source` of what was expected."""
    found = numbers(table, column)
    wrong = ~close(found, expected, tolerance)
    if wrong.any():
        place = int(np.argmax(wrong))
        values = shown(found[place]), shown(np.asarray(expected)[place])
        yield f"{column} of {label(table.iloc[place])} is {values[0]}, and {values[1]} by {source}"


def uneven(table: pd.DataFrame, values: NDArray[np.float64], what: str) -> Iterator[str]:
    """What has to be one number on a track."""
    middle = pd.Series(values, table.index).groupby(tracks_of(table)).transform("median").to_numpy()
    wrong = np.isfinite(values) & ~np.isclose(values, middle, rtol=MEASURED)
    if wrong.any():
        place = int(np.argmax(wrong))
        yield f"{what} of {label(table.iloc[place])} is {shown(values[place])}, and {shown(middle[place])} elsewhere"


def tracks_of(table: pd.DataFrame) -> pd.Series:
    """The track of every row, which its cell names where no column does."""
    if "track" in table:
        return table["track"].astype(str)
    cells = table["cell"].astype(str)
    return cells.map({cell: cell.split("/")[0] for cell in cells.unique()})


def label(row: pd.Series) -> str:
    """A row in words: its cell, layer and seed, or what else it is of."""
    words = [str(row[key]) for key in ("cell", "layer", "track", "model", "method") if key in row]
    seed = f" seed {row['seed']}" if "seed" in row else ""
    return f"{' '.join(words[:2] if 'layer' in row else words[:1])}{seed}"


def shown(value: object) -> str:
    """A value in a sentence."""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
