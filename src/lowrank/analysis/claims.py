"""From tables of results to a verdict on every claim of the ledger.

**Three levels.** A *member* is one contrast (one rank, one switch, ...). A *test* is the family of
all members of one test on one track, and a *claim* is all its tests on all tracks. A *control* is a test
that is reported beside its claim and does not decide it.

**A member's verdict.** Let d be the paired difference, turned so that positive means that the arm
does what the claim says is good, and m the margin (0 where there is none). Every kind asks two
one-sided questions with the same threshold, so a member cannot be both supported and refuted:

| kind | supported if d is significantly | refuted if d is significantly |
|---|---|---|
| better, lower, higher | above m | below m |
| ratio_at_least | (log ratio) above log m | below log m |
| not_worse | above -m | below -m |
| equivalence ("as well as") | within (-m, m) by TOST, or above 0 | below -m |
| equivalence, better_counts: false | within (-m, m) by TOST | below -m or above m |

and inconclusive otherwise. It follows that a failed difference test supports nothing; that an arm significantly
worse but within the margin supports "as well as" (the note says so), because the margin is what counts as a
difference; and that worse by more than nothing but not surely by more than the margin is inconclusive, not refuted.
"Above 0" adds no false support to TOST: both reject only where non-inferiority would, so the error stays alpha.

An *interaction* (`against`) asks the same of a difference of differences, paired by seed over all four arms. Where
the difference that it is compared with is a `premise` and not itself significantly above m (one-sided, at alpha), the
contrast is inconclusive; where that is significantly below m, there is nothing to explain, and the note says so.

**Errors.** alpha is 1 - confidence. Margin kinds (equivalence, not_worse) use one-sided p values
and show the 1 - 2 alpha interval, as is usual for TOST; the others two-sided ones and the 1 - alpha interval.
p values for and against are each Holm-corrected over the test's family, and a verdict reads the corrected ones;
intervals are not corrected. They are of seeds alone: neither what the choice of the learning rate (a few rates and
seeds) nor what the finite test set adds is in them.

**What could be settled.** `smallest_settled` is the smallest effect that the seeds settle with a power
of four in five at alpha over the size of the family, Holm's first step: for margin kinds the smallest
margin within which no true difference would be found to lie, for the others the smallest distance from the
threshold that would be found (`lowrank.analysis.power`). Where it is larger than the margin, an
inconclusive contrast's note says that the scale cannot tell. A test has the median of its contrasts.

**Units.** absolute: arm - reference. relative: arm / reference - 1, tested on paired log ratios, so that a reference's
own noise is not ignored, with threshold log(1 + m). factor: the ratio by which the arm is better, tested on logs.

**Aggregation.** A test is supported if all its members that ran are, mixed if some are, refuted if some
are refuted and none is supported, else inconclusive; it says at how many of how many. any ("up to"):
supported if one is, refuted if all are, else inconclusive. A claim is judged so from its tests (a mixed
test makes it mixed), and always shown by track. Holm makes "supported" harder than it need be (all
members at alpha would do), which is the price of verdicts that agree across levels; docs/method.md says what each
family is, and why. Where the setting is not the paper's (`setting` of the configuration), what is called refuted in
these columns is worded "not reproduced at this scale".

**What is missing.** Absent cells, tables or metrics are "not run", with the reason. A contrast with a
factorised side that keeps as many parameters as the dense model, or more, is no compression and is "left out"
(unless the test says `compressed: false`). A diverged run is not a missing value but the worst one: dropping its pair
flatters its side, so no verdict in favour of the side that diverged stands; it becomes inconclusive. Members without
a variance (one pair, or differences that do not vary) are inconclusive, unless the test says the metric is exact.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from lowrank.analysis.compare import compare, in_unit, seconds_a_pair, seconds_a_run
from lowrank.analysis.described import of_cells
from lowrank.analysis.ledger import Claim, ClaimTest, Ledger, Margin
from lowrank.analysis.matching import Member, NotRun, members, of_track
from lowrank.analysis.notes import CANNOT_TELL, NOTHING, add_note
from lowrank.analysis.power import pairs_needed, smallest_settled
from lowrank.analysis.stats import holm
from lowrank.experiment.config import Config
from lowrank.experiment.metrics import PAPER_METRICS, metric

__all__ = ["COLUMNS", "VERDICTS", "Ledger", "judge", "judge_scale"]

VERDICTS = ("supported", "refuted", "mixed", "inconclusive", "not run", "left out")
"""Of members all but `mixed`; of tests and claims all but `left out`."""
COUNTS = ("ran", "supported", "refuted")
COLUMNS = [
    *("level", "claim", "statement", "track", "scale", "setting", "control"),
    *("arm", "reference", "against", "metric", "kind"),
    *("estimate", "low", "high", "p", "p_corrected", "p_against", "margin", "unit"),
    *("standard_deviation", "pairs", "dropped", "smallest_settled", "verdict", *COUNTS),
    *("pairs_needed", "seconds_a_pair"),
    *("paper_value", "note", "arm_facts", "reference_facts", "against_facts"),
]

Row = dict[str, Any]


def judge(
    claims: Ledger,
    tables: Mapping[str, pd.DataFrame],
    confidence: float = 0.95,
    *,
    scale: str = "",
    setting: str = "reduced",
    tracks: Mapping[str, str],
) -> pd.DataFrame:
    """Evaluate every claim on whatever results exist; one row a member, test and claim.

    tables: by name (`runs`, `posthoc`, `barriers`, ...), each with seed and either cell or track; the facts
    by which cells are chosen are columns of `runs`. tracks: the task of each track by its name; a test
    has rows of those of its tasks.
    Columns are `COLUMNS`; p is for the claim, p_corrected its Holm correction,
    p_against the corrected p for the opposite; pairs and dropped are counts; estimate, low, high,
    margin and smallest_settled are in `unit`, standard_deviation is of the paired differences that
    are tested (of logarithms, unless the unit is absolute); `COUNTS` are of a test's or claim's
    members; pairs_needed would settle an undecided contrast of seeds with a power of four in five if the
    true difference is the estimated one, and seconds_a_pair is what one costs (processor time of the runs of
    its cells; missing where `runs` does not say); facts are JSON: what was asked for, with the values found in place of placeholders.
    """
    runs = tables.get("runs")
    asked = {"runs"} | {rows.table for c in claims.claims for t in c.tests for rows in t.sides}
    known = {name: of_cells(table, runs) for name, table in tables.items() if name in asked}
    seconds = seconds_a_run(runs)
    on = {track: of_track(known, track) for track in tracks}
    rows: list[Row] = []
    for claim in claims.claims:
        tests: list[Row] = []  # those that decide
        for test in claim.tests:
            for track in (name for name, task in tracks.items() if task in test.tasks):
                judged = _judge_test(claims, claim, test, track, on[track], seconds, 1 - confidence)
                tests += judged[-1:] if not test.control else []
                rows += judged
        rows.append(_summary(claim, tests))
    sentences = {claim.id: claim.sentence for claim in claims.claims}
    common = {"scale": scale, "setting": setting}
    rows = [{**common, "statement": sentences[row["claim"]], **row} for row in rows]
    table = pd.DataFrame(rows, columns=COLUMNS)
    return table.astype(dict.fromkeys(("pairs", "dropped", "pairs_needed", *COUNTS), "Int64"))


def judge_scale(claims: Ledger, config: Config, tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """The claims judged on a scale's tables."""
    return judge(claims, tables, scale=config.scale, setting=config.setting, tracks=config.tasks)


def _summary(claim: Claim, tests: list[Row]) -> Row:
    return {
        "level": "claim",
        "claim": claim.id,
        "track": "all",
        "control": False,
        "verdict": _aggregate([row["verdict"] for row in tests], "every"),
        **{name: sum(row[name] for row in tests) for name in COUNTS},
        "paper_value": _joined(tests),
        "note": _tally([row["verdict"] for row in tests], "test"),
    }


def _judge_test(
    ledger: Ledger,
    claim: Claim,
    test: ClaimTest,
    track: str,
    tables: Mapping[str, pd.DataFrame],
    seconds: Mapping[str, float],
    alpha: float,
) -> list[Row]:
    """The rows of one test on one track: its members, then the test itself."""
    margin = ledger.margin(test)
    common: Row = {
        "claim": claim.id,
        "track": track,
        "control": test.control,
        "metric": test.metric,
        "kind": test.kind,
        "margin": margin.value if margin else math.nan,
        "unit": margin.unit if margin else "absolute",
    }
    rows = []
    try:
        for member in members(test, track, tables):
            row = {**common, "level": "member", **_named(test, member)}
            row |= compare(test, margin, member, alpha)
            row["seconds_a_pair"] = seconds_a_pair(member, track, seconds)
            row["paper_value"] = _paper(ledger, test.metric, track, member)
            rows.append(row)
        reason = ""
    except NotRun as absent:
        reason = str(absent)
    for raw, corrected in (("p", "p_corrected"), ("p_against", "p_against")):
        for row, p in zip(rows, holm([row.get(raw, math.nan) for row in rows]), strict=True):
            row[corrected] = p
    family = sum(not math.isnan(row.get("p", math.nan)) for row in rows)
    for row in rows:
        _decide(row, test, margin, alpha, alpha / max(1, family))
    verdicts = [row["verdict"] for row in rows]
    ran = [row for row in rows if row["verdict"] not in ("not run", "left out")]
    idle = [NOTHING] if ran and all(NOTHING in row["note"] for row in ran) else []
    summary = {
        **common,
        "level": "test",
        **_named(test),
        "verdict": _aggregate(verdicts, test.aggregate),
        "smallest_settled": _median(row.get("smallest_settled", math.nan) for row in rows),
        "ran": len(ran),
        **{name: verdicts.count(name) for name in COUNTS[1:]},
        "paper_value": _joined(rows),
        "note": reason or "; ".join([_tally(verdicts, "contrast"), *idle]),
    }
    return [*rows, summary]


def _named(test: ClaimTest, member: Member | None = None) -> Row:
    """All sides by name and facts: what the test asks for where there is no member."""
    names, facts = [str(rows) for rows in test.sides], [rows.facts for rows in test.sides]
    for index, side in enumerate(member.sides if member else ()):
        names[index], facts[index] = side.name, side.facts
    texts = [
        json.dumps({"table": rows.table, **own})
        for rows, own in zip(test.sides, facts, strict=True)
    ]
    found: Row = {"arm": names[0], "reference": names[1], "against": None}
    found |= {"arm_facts": texts[0], "reference_facts": texts[1], "against_facts": "[]"}
    if test.against:
        found["against"] = f"{names[2]} less {names[3]}"
        found["against_facts"] = f"[{texts[2]}, {texts[3]}]"
    return found


# From numbers to words


def _decide(row: Row, test: ClaimTest, margin: Margin | None, alpha: float, each: float) -> None:
    """Set a member's verdict from its corrected p values, and what it could have settled at the level of
    `each` test of the family."""
    spoilt, tested = row.pop("spoilt", ()), row.pop("tested", math.nan)
    idle = row.pop("idle", "")
    if "verdict" in row:
        return
    unit = row["unit"]
    smallest = smallest_settled(test.kind, row["standard_deviation"], row["pairs"], each)
    row["smallest_settled"] = in_unit(smallest, unit)
    row["verdict"] = "inconclusive"
    if row["p_corrected"] < alpha:
        row["verdict"] = "supported"
    elif row["p_against"] < alpha:
        row["verdict"] = "refuted"
    if row["verdict"] in spoilt:
        add_note(row, f"would be {row['verdict']} without the diverged runs")
        row["verdict"] = "inconclusive"
    if idle:
        add_note(row, idle)
        row["verdict"] = "inconclusive"
    elif row["verdict"] == "inconclusive":
        m = margin.threshold if margin else 0.0
        if margin and smallest > m:
            add_note(row, CANNOT_TELL)
        if metric(test.metric).pairs == "seed":
            # How far the estimate lies from what it would have to pass.
            far = {"not_worse": abs(tested + m), "equivalence": abs(m - abs(tested))}
            effect = far.get(test.kind, abs(tested - m))
            row["pairs_needed"] = pairs_needed(test.kind, effect, row["standard_deviation"], each)


def _aggregate(verdicts: Iterable[str], rule: str) -> str:
    ran = {verdict for verdict in verdicts if verdict not in ("not run", "left out")}
    if not ran:
        return "not run"
    if rule == "any":
        if "supported" in ran:
            return "supported"
        return "refuted" if ran == {"refuted"} else "inconclusive"
    if ran == {"supported"}:
        return "supported"
    if ran & {"supported", "mixed"}:
        return "mixed"
    return "refuted" if "refuted" in ran else "inconclusive"


def _median(values: Iterable[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return float(np.median(known)) if known else math.nan


def _tally(verdicts: list[str], what: str) -> str:
    counts = [f"{verdicts.count(v)} {v}" for v in VERDICTS if v in verdicts]
    plural = "" if len(verdicts) == 1 else "s"
    return f"{len(verdicts)} {what}{plural}: {', '.join(counts)}"


def _paper(ledger: Ledger, judged: str, track: str, member: Member) -> str:
    """The paper's own numbers of both arms, where it gives both in the metric of the test."""
    known = {
        number.arm: str(number)
        for number in ledger.paper
        if number.track == track and PAPER_METRICS[number.metric].judged == judged
    }
    sides = (member.arm.name, member.reference.name if member.reference else "")
    return "; ".join(known[arm] for arm in sides) if all(arm in known for arm in sides) else ""


def _joined(rows: list[Row]) -> str:
    return "; ".join(dict.fromkeys(row["paper_value"] for row in rows if row["paper_value"]))
