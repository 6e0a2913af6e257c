"""Data frames put together."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd


def concat(tables: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """Tables one below the other; an empty one, or a column of nulls, leaves the types alone."""
    full = [table for table in tables if len(table)]
    if not full:
        return pd.DataFrame()
    columns = dict.fromkeys(column for table in full for column in table)
    kept = [table.dropna(axis=1, how="all") for table in full]
    return pd.concat(kept, ignore_index=True).reindex(columns=list(columns))
