"""How small an effect the seeds of a claim's undecided tests settle, in words."""

from __future__ import annotations

import math

import pandas as pd

from lowrank.analysis.evidence import deciding_tests
from lowrank.analysis.measures import measure


def resolution(rows: pd.DataFrame) -> str:
    """Of a claim's tests that could not decide, how small an effect the seeds settle, against the margin;
    empty where there are none."""
    tests = deciding_tests(rows)
    tests = tests[tests["verdict"] == "inconclusive"]
    parts: dict[str, list[str]] = {"cannot": [], "could": []}
    for row in tests.itertuples(index=False):
        shown = measure(row.metric, row.unit)
        if (settled := shown.effect(row.smallest_settled)) and math.isfinite(row.margin):
            key = "cannot" if row.smallest_settled > row.margin else "could"
            parts[key].append(f"{row.track} {settled} against {shown.margin(row.margin)}")
    told = {
        "cannot": "This scale cannot tell: the smallest effect that its seeds settle with a power of four in "
        "five, against the margin, is",
        "could": "The seeds settle less than the margin, so the effect lies near it:",
    }
    return " ".join(f"{told[key]} {'; '.join(found)}." for key, found in parts.items() if found)
