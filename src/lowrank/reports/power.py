"""What a configuration's seeds would settle, before a run: for each test of the ledger, from published spreads.

The family of a test is what the planned cells make of it; tests of other tables (times, truncations) take
it from published results of the scale. The spread is the median standard deviation of paired differences
in those results: of the test's own contrasts, else of all contrasts of the same metric and track, else the one given.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import pandas as pd

from lowrank.analysis.evidence import judged as judged_rows
from lowrank.analysis.ledger import ClaimTest, Ledger
from lowrank.analysis.matching import NotRun, members
from lowrank.analysis.measures import NONE, counted, measure
from lowrank.analysis.power import MARGINS, pairs_needed, power_within, smallest_settled
from lowrank.errors import unknown
from lowrank.experiment.config import Config
from lowrank.experiment.expand import outline
from lowrank.experiment.metrics import METRICS, metric
from lowrank.experiment.study import jobs

ALPHA = 0.05


def power_table(
    ledger: Ledger,
    config: Config,
    published: pd.DataFrame | None = None,
    spreads: Mapping[str, float] | None = None,
    seeds: int | None = None,
) -> pd.DataFrame:
    """A row a test and track with planned contrasts.

    published: the table `claims` of this scale; spreads: a standard deviation of paired differences by metric, in
    the metric's unit, where none is published; seeds: instead of the configuration's. Columns: claim,
    track, metric, unit, kind, control, sides, contrasts (the family), seeds, standard_deviation, source (of it),
    settles and margin (in `unit`), power (of finding a true difference of 0 within the margin; NaN for the kinds
    that ask for a difference) and needed (seeds at which it settles the margin; NA without one).
    """
    for name in spreads or {}:
        if name not in METRICS:
            raise unknown("metric", name, METRICS)
    facts = _planned(config)
    rows = []
    for claim in ledger.claims:
        for test in claim.tests:
            for track, task in config.tasks.items():
                if task in test.tasks and metric(test.metric).pairs == "seed":
                    count = seeds or len(config.seeds_of(track))
                    own = _own(published, test, track)
                    planned = _family(test, track, facts)
                    family = planned or (len(own) if _measured(test, track, config) else 0)
                    if family:
                        spread = _spread(published, own, test, track, spreads or {})
                        row = _row(ledger, test, family, count, *spread)
                        rows.append({"claim": claim.id, "track": track, **row})
    return pd.DataFrame(rows)


def _planned(config: Config) -> pd.DataFrame:
    return pd.DataFrame([cell.facts() for cell in outline(config).cells.values()])


def _family(test: ClaimTest, track: str, facts: pd.DataFrame) -> int:
    """The contrasts of a test of trained cells; 0 where it is of other tables, or has none."""
    table = facts.assign(seed=0, **{test.metric: 1.0})
    try:
        return sum(member.reference is not None for member in members(test, track, {"runs": table}))
    except NotRun:
        return 0


def _measured(test: ClaimTest, track: str, config: Config) -> bool:
    """Whether a test is of tables that studies' jobs write, and the track asks for those studies."""
    tables = {rows.table for rows in test.sides} - {"runs"}
    asked = config.tracks[track].studies.asked()
    written = {table for name, job in jobs().items() if name in asked for table in job.tables}
    return bool(tables) and tables <= written


def _own(published: pd.DataFrame | None, test: ClaimTest, track: str) -> pd.DataFrame:
    """The published contrasts of a test."""
    if published is None:
        return pd.DataFrame()
    texts = [str(rows) for rows in test.sides]
    asked = (track, test.metric, test.kind, *texts[:2], " less ".join(texts[2:]))
    found: list[int] = []
    members_: list[int] = []
    for index, row in enumerate(published.itertuples(index=False)):
        if row.level == "member":
            members_.append(index)
            continue
        against = row.against if isinstance(row.against, str) else ""
        if (row.track, row.metric, row.kind, row.arm, row.reference, against) == asked:
            found = members_
        members_ = []
    return judged_rows(published.iloc[found])


def _spread(
    published: pd.DataFrame | None,
    own: pd.DataFrame,
    test: ClaimTest,
    track: str,
    given: Mapping[str, float],
) -> tuple[float, str]:
    """The standard deviation of a test's paired differences, and where it is from."""
    if len(own) and own["standard_deviation"].gt(0).any():
        return float(own["standard_deviation"].median()), "its own contrasts"
    if published is not None:
        like = judged_rows(published)
        like = like[like["track"].eq(track) & like["metric"].eq(test.metric)]
        like = like[like["against"].isna() & like["unit"].eq("absolute")]
        if like["standard_deviation"].gt(0).any():
            # A difference of differences has twice the variance, as far as they are independent.
            factor = math.sqrt(2) if test.against else 1.0
            return factor * float(like["standard_deviation"].median()), "contrasts of this metric"
    if test.metric in given:
        return given[test.metric], "given"
    return math.nan, NONE


def _row(
    ledger: Ledger, test: ClaimTest, family: int, seeds: int, spread: float, source: str
) -> dict[str, object]:
    margin = ledger.margin(test)
    unit, threshold = (margin.unit, margin.threshold) if margin else ("absolute", math.nan)
    each = ALPHA / family
    within = test.kind in MARGINS
    needed = pairs_needed(test.kind, threshold, spread, each) if margin else None
    smallest = smallest_settled(test.kind, spread, seeds, each)
    return {
        "metric": test.metric,
        "unit": unit,
        "kind": test.kind,
        "control": test.control,
        "sides": _apart(test),
        "contrasts": family,
        "seeds": seeds,
        "standard_deviation": spread,
        "source": source,
        "settles": math.expm1(smallest) if unit == "relative" else smallest,
        "margin": margin.value if margin else math.nan,
        "power": power_within(test.kind, threshold, spread, seeds, each) if within else math.nan,
        "needed": needed if needed is not None else pd.NA,
    }


def _apart(test: ClaimTest) -> str:
    """The facts in which the sides of a test differ: `init spectral_ones - init spectral`."""
    arm, reference = (
        {*rows.given.items(), ("table", rows.table)} for rows in (test.arm, test.reference)
    )
    a, b = (
        ", ".join(f"{key} {value}" for key, value in sorted(own)) or "plain"
        for own in (arm - reference, reference - arm)
    )
    return f"({a} - {b}) interaction" if test.against else f"{a} - {b}"


def show(table: pd.DataFrame) -> str:
    """The table as aligned text, and how to read it."""
    if table.empty:
        return "No test of the claims has a planned contrast that is paired by seeds."
    lines = []
    for row in table.itertuples(index=False):
        shown = measure(str(row.metric), str(row.unit))
        known = math.isfinite(row.settles)
        lines.append(
            {
                "claim": f"{row.claim}{' (control)' if row.control else ''}",
                "track": row.track,
                "sides": row.sides,
                "contrasts": row.contrasts,
                "seeds": row.seeds,
                "SD": shown.number(row.standard_deviation),
                "from": row.source,
                "settles": shown.heading + " " + shown.number(row.settles) if known else NONE,
                "margin": shown.margin(row.margin),
                "power": f"{row.power:.2f}" if math.isfinite(row.power) else NONE,
                "needs": NONE if row.needed is pd.NA else counted(int(row.needed), "seed"),
            }
        )
    reading = (
        "settles: the smallest effect found with a power of four in five at Holm's first step; for not_worse and "
        "equivalence the smallest margin. power: of finding a true difference of 0 within the margin. needs: seeds "
        "that settle the margin. Seeds alone vary: neither the choice of rates nor the test set's size is in these."
    )
    return pd.DataFrame(lines).to_string(index=False) + "\n" + reading
