"""The last lines of a run: where the figures are, what the claims' verdicts are, what to be wary of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import pandas as pd

from lowrank.analysis.evidence import verdict_lines
from lowrank.analysis.measures import counted
from lowrank.parquet import read_table

NAMED = 3


def closing(tables: Path, figures: Path, runs: Iterable[Path] = ()) -> str:
    """What is said once all figures are made, from the tables `claims` and `runs` in a folder. `runs` are the
    tables that these are gathered from: verdicts that are older than one of them are not repeated."""
    lines = [f"The figures are in {figures}; claims.md there is the one to open first."]
    gathered, claims = tables / "runs.parquet", tables / "claims.parquet"
    if not gathered.is_file():
        return lines[0]
    if _in_order([*runs, gathered], claims):
        lines += verdict_lines(read_table(claims))
    else:
        lines.append("The claims were not judged since the last run: no verdicts.")
    return "\n".join([*lines, *cautions(read_table(gathered))])


def _in_order(made_from: Iterable[Path], product: Path) -> bool:
    """Whether a file is there and none of those that are there, of what it is made from, is newer."""
    if not product.is_file():
        return False
    made = product.stat().st_mtime_ns
    return all(path.stat().st_mtime_ns <= made for path in made_from if path.is_file())


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
