"""How much a processor changes: runs that were published from several, digest by digest."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from lowrank.experiment.metrics import metric, task_of


def differences(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """One row a track: of how many runs the test metric was measured on more than one processor, and the
    median and the largest difference to the published run, in the metric's unit; from the published tables
    `runs` and `processors`."""
    again = tables.get("processors", pd.DataFrame())
    if not len(again):
        return pd.DataFrame()
    rows = []
    both = again.merge(tables["runs"], on="digest", suffixes=("_again", ""))
    for track, pairs in both.groupby("track", sort=False):
        quality = metric(task_of(pairs["family"].iloc[0]).quality)
        gap = (pairs[f"{quality.name}_again"] - pairs[quality.name]).abs().dropna()
        if len(gap):
            processors = {*pairs["processor"], *pairs["processor_again"]}
            rows.append(
                {
                    "track": track,
                    "metric": quality.name,
                    "runs": pairs.loc[gap.index, "digest"].nunique(),
                    "processors": ", ".join(sorted(processors)),
                    "median": gap.median(),
                    "largest": gap.max(),
                }
            )
    return pd.DataFrame(rows)


def in_words(found: pd.DataFrame) -> str:
    """Those differences in a sentence a track; empty where nothing was made on two processors."""
    sentences = []
    for row in found.itertuples(index=False):
        shown = metric(str(row.metric))
        median, largest = (f"{shown.factor * float(v):.2g}" for v in (row.median, row.largest))
        sentences.append(
            f"On {row.track} {row.runs} runs were made on several processors ({row.processors}): "
            f"{shown.label} of the same run differs by {median} {shown.difference or shown.unit} "
            f"(median), at most by {largest}."
        )
    return " ".join(sentences)
