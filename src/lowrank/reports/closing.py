"""The last lines of a run: where the figures are, what the claims' verdicts are, what to be wary of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import pandas as pd

from lowrank.analysis.evidence import verdict_lines
from lowrank.analysis.measures import counted
from lowrank.files import read_table

NAMED = 3


def closing(tables: Path, figures: Path) -> str:
    """What is said once all figures are made, from the tables `claims` and `runs` in a folder."""
    lines = [f"The figures are in {figures}; claims.md there is the one to open first."]
    lines += verdict_lines(read_table(tables / "claims.parquet"))
    return "\n".join([*lines, *cautions(read_table(tables / "runs.parquet"))])


def cautions(runs: pd.DataFrame) -> Iterator[str]:
    """What the runs table says that a reader of figures should know, a sentence each."""
    lost = runs[runs["diverged"].fillna(False).astype(bool)]
    if len(lost):
        yield f"{counted(len(lost), 'run')} diverged: {_some(lost['cell'])}."
    yield from larger_than_dense(runs)


def larger_than_dense(table: pd.DataFrame) -> Iterator[str]:
    """A sentence if cells of a table with `kept_parameters` keep more of them than dense has."""
    cells = table.loc[table["kept_parameters"] > 1, "cell"]
    if len(cells):
        yield f"At a rank above break-even, so larger than dense: {_some(cells)}."


def _some(cells: Iterable[str]) -> str:
    names = list(dict.fromkeys(cells))
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {counted(more, 'other cell')}" if more > 0 else "")
