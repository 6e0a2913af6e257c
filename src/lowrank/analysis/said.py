"""What is said of runs when their tables are put together: which diverged, and in what they differ."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from lowrank.progress import say


def diverged(runs: pd.DataFrame, most: int = 20) -> str:
    """How many runs diverged, and which: at most `most` cells, each with its seeds; empty if none."""
    lost = runs[runs["diverged"].eq(True)] if "diverged" in runs else runs[:0]
    if lost.empty:
        return ""
    cells = [
        f"{cell} ({', '.join(map(str, sorted(group['seed'])))})"
        for cell, group in lost.groupby("cell", sort=False)
    ]
    more = f", and {len(cells) - most} more cells" if len(cells) > most else ""
    which = ", ".join(cells[:most])
    return f"{len(lost)} of {len(runs)} runs diverged, cell (seeds): {which}{more}."


def say_what_differs(published: pd.DataFrame, fresh: pd.DataFrame) -> None:
    """Say on the terminal if published runs that stay were made by other versions of a part, or on
    other data, than the fresh ones that join them."""
    if not len(fresh):
        return
    stay = published[~published["cell"].isin(fresh["cell"])]
    found = []
    for part in ("training", "evaluation"):
        column = f"{part}_version"
        old, new = (
            sorted(set(runs[column].dropna().astype(int))) if column in runs else []
            for runs in (stay, fresh)
        )
        if new and set(old) - set(new):
            found.append(f"version {_listed(old)} of {part} (now {_listed(new)})")
    tracks = [
        str(track)
        for track, rows in stay.groupby("track", sort=False)
        if (data := set(fresh.loc[fresh["track"] == track, "data_digest"]))
        and set(rows["data_digest"]) - data
    ]
    if tracks:
        found.append(f"other data of {_listed(tracks)}")
    if found:
        say(
            f"the published runs beside the {fresh['cell'].nunique()} retrained cells were made with "
            f"{' and '.join(found)}: part of a difference between them may come from that."
        )


def _listed(values: Iterable[object]) -> str:
    return ", ".join(map(str, values))


def mixed_processors(runs: pd.DataFrame) -> str:
    """Of which tracks cells were trained on several processors, in a sentence; empty if none were.

    Such runs differ by more than their arms (docs/determinism.md).
    """
    parts = []
    known = runs.dropna(subset=["processor"]) if "processor" in runs else runs[:0]
    for track, rows in known.groupby("track", sort=False):
        cells = (
            rows.groupby("processor")["cell"].nunique().sort_values(ascending=False, kind="stable")
        )
        if len(cells) > 1:
            parts.append(f"{track} ({', '.join(f'{n} on {name}' for name, n in cells.items())})")
    if not parts:
        return ""
    return (
        f"Cells of {'; '.join(parts)} were trained on different processors: a difference between them holds that of "
        "the processors too."
    )
