"""Verdicts in words: what the table `claims` says, as sentences for page, report and terminal.

One wording for all of them. A claim's line of evidence counts its contrasts by verdict and quotes one
of those that say what the claim's verdict says: the least sure one, that with the largest p, so that
no line looks better than what it stands for.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

import pandas as pd

from lowrank.analysis.ledger import PLACEHOLDER
from lowrank.analysis.measures import NONE, counted, measure, significant
from lowrank.analysis.notes import NOTHING

# One contrast


def deciding(row: Any) -> tuple[str, float]:
    """Which corrected p a contrast's verdict rests on, `for` or `against` the claim, and the p: of an
    undecided one the smaller, which came nearer to deciding it."""
    sides = {"for": row.p_corrected, "against": row.p_against}
    if row.verdict in ("supported", "refuted"):
        side = "for" if row.verdict == "supported" else "against"
    else:
        side = min(sides, key=lambda key: math.inf if math.isnan(sides[key]) else sides[key])
    return side, sides[side]


def p_text(row: Any) -> str:
    """`against <0.001`: the corrected p of the side that decided; a dash where there is none."""
    side, p = deciding(row)
    if not math.isfinite(p):
        return NONE
    return f"{side} {'<0.001' if p < 0.001 else significant(p)}"


def margin_text(row: Any) -> str:
    """The margin in the unit shown: `±0.025` where differences within it count as none."""
    if not math.isfinite(row.margin):
        return NONE
    text = measure(row.metric, row.unit).margin(row.margin)
    return f"±{text}" if row.kind == "equivalence" else text


def facts(row: Any, side: str) -> dict[str, Any]:
    """The facts by which `arm` or `reference` of a row were chosen, and their `table`."""
    found = getattr(row, f"{side}_facts", None)
    return json.loads(found) if isinstance(found, str) else {}


def side_text(row: Any, side: str) -> str:
    """The name of `arm` or `reference`; what was truncated in words: `whitened truncation, rank 0.25`."""
    found = facts(row, side)
    if found.get("table") == "posthoc":
        return f"{found['method']} truncation, rank {found['rank_fraction']:g}"
    return str(getattr(row, side))


def contrast_sides(row: Any) -> str:
    """`spectral-r0.5 against he-r0.5`, and what an interaction compares that with."""
    own = f"{side_text(row, 'arm')} against {side_text(row, 'reference')}"
    if not isinstance(row.against, str):
        return own
    return f"{own}, less that of {row.against.replace(' less ', ' against ')},"


def contrast_text(row: Any) -> str:
    """A contrast in one clause: sides, estimate with interval, margin, seeds and p."""
    shown = measure(row.metric, row.unit).telling(row.low, row.high)
    sides = f"{contrast_sides(row)} on {row.track}: {shown.name}"
    if not math.isfinite(row.estimate):
        return f"{sides} has {row.note or 'no estimate'}"
    parts = [f"{sides} {shown.number(row.estimate)} {shown.unit}".strip()]
    if (interval := shown.interval(row.low, row.high)) != NONE:
        parts[0] += f" {interval}"
    parts.append("no margin" if margin_text(row) == NONE else f"margin {margin_text(row)}")
    parts.append(counted(int(row.pairs), shown.pairs))
    if (p := p_text(row)) != NONE:
        parts.append(f"corrected p {p}")
    return ", ".join(parts)


# A claim


def judged(rows: pd.DataFrame) -> pd.DataFrame:
    """The contrasts among a table's rows that were judged, those of controls too."""
    return rows[(rows["level"] == "member") & ~rows["verdict"].isin(["not run", "left out"])]


def deciders(rows: pd.DataFrame) -> pd.DataFrame:
    """The contrasts that were judged and decide their claim."""
    ran = judged(rows)
    return ran[~_control(ran)]


def deciding_tests(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of the tests that decide their claims, those of a single contrast with what it estimates; `shown_by`
    are the arms of which it is supported."""
    tests = rows[(rows["level"] == "test") & ~_control(rows)].copy()
    number = (rows["level"] == "test")[::-1].cumsum()  # a test comes after its contrasts
    ran = judged(rows)
    alone = ran[~number[ran.index].duplicated(keep=False)]
    for column in ("estimate", "low", "high"):
        found = dict(zip(number[alone.index], alone[column], strict=True))
        tests[column] = number[tests.index].map(found)
    supported = ran[ran["verdict"] == "supported"]
    arms = supported["arm"].astype(str).groupby(number[supported.index]).agg(", ".join)
    return tests.assign(shown_by=number[tests.index].map(arms))


def _control(rows: pd.DataFrame) -> pd.Series:
    return rows["control"].eq(True)


def word(row: Any) -> str:
    """The verdict of a test or claim in words: where the setting is not the paper's, one that failed is
    `not reproduced`."""
    reduced = getattr(row, "setting", "reduced") != "paper"
    return "not reproduced" if row.verdict == "refuted" and reduced else str(row.verdict)


def share(row: Any) -> str:
    """At how many contrasts of how many a test or claim says what its verdict says: `2 of 3`; empty
    where none decides."""
    if row.verdict not in ("supported", "mixed", "refuted"):
        return ""
    return f"{row.refuted if row.verdict == 'refuted' else row.supported} of {row.ran}"


def told(row: Any, brief: bool = False) -> str:
    """The verdict of a test with what it rests on: `mixed (2 of 3)`; where one contrast is enough and not all
    show it, `shown at 1 of 14 (one is enough: spectral-r0.12-w1024)`; of a test that could not decide, how little it can settle:
    `cannot tell (settles 0.060 nats/token, margin 0.025)`, or where that is enough and it has a single contrast, how
    near the margin this lies: `inconclusive (-0.58 [-0.79, -0.37] points, margin ±0.50)`; in brief without numbers.
    Of an interaction whose premise does not hold: `nothing to explain`."""
    if row.verdict == "inconclusive" and NOTHING in str(row.note):
        return "nothing to explain"
    if row.verdict == "inconclusive" and row.smallest_settled > row.margin:
        if brief:
            return "cannot tell"
        shown = measure(row.metric, row.unit)
        settled = shown.effect(row.smallest_settled)
        settled = f"settles {settled}" if settled else "no power"
        return f"cannot tell ({settled}, margin {shown.margin(row.margin)})"
    if row.verdict == "supported" and row.supported < row.ran:  # its rule is `any`
        return f"shown at {share(row)} (one is enough{'' if brief else f': {row.shown_by}'})"
    if row.verdict == "inconclusive" and math.isfinite(row.estimate) and not brief:
        shown = measure(row.metric, row.unit).telling(row.low, row.high)
        found = f"{shown.number(row.estimate)} {shown.interval(row.low, row.high)} {shown.unit}"
        margin = f", margin {margin_text(row)}" if math.isfinite(row.margin) else ""
        return f"{word(row)} ({found}{margin})"
    return f"{word(row)} ({share(row)})" if share(row) else word(row)


def least_sure(rows: pd.DataFrame, verdict: str) -> Any:
    """Of the contrasts with a verdict that decide a claim, the one with the largest p; None if none has it."""
    ran = deciders(rows)
    said = ran[ran["verdict"] == verdict].itertuples(index=False)

    def p(row: Any) -> float:
        return -1.0 if math.isnan(deciding(row)[1]) else deciding(row)[1]

    return max(said, key=p, default=None)


def quoted(rows: pd.DataFrame) -> list[Any]:
    """The contrasts that stand for a claim: the least sure of those that say what its verdict says; of a
    mixed one that of each side."""
    verdict = rows.loc[rows["level"] == "claim", "verdict"].item()
    sides = ("supported", "refuted") if verdict == "mixed" else (verdict,)
    return [row for side in sides if (row := least_sure(rows, side)) is not None]


def evidence(rows: pd.DataFrame) -> str:
    """A claim's evidence in one line, from its rows: its contrasts by verdict, those that stand for it, and
    its controls; empty if nothing ran."""
    ran, chosen = deciders(rows), quoted(rows)
    if not chosen:
        return ""
    first = chosen[0].verdict
    counts = ran["verdict"].value_counts()
    others = [f"{count} {other}" for other, count in counts.items() if other != first]
    tally = f"{counts[first]} of {counted(len(ran), 'contrast')} {first}"
    line = f"{tally} ({', '.join(others)})" if others else tally
    for row in chosen:
        which = ", the least sure" if counts[row.verdict] > 1 else ""
        line += (
            f"{which}: {contrast_text(row)}"
            if row is chosen[0]
            else (f"; {row.verdict}{which}: {contrast_text(row)}")
        )
    return "; ".join([line, *controls(rows)])


def controls(rows: pd.DataFrame) -> list[str]:
    """What a claim's controls gave, a clause each, at the largest rank of each test."""
    clauses, members = [], []
    for row in _rows(rows[rows["level"] != "claim"]):  # a test comes after its contrasts
        if row.level == "member":
            members += [row] if math.isfinite(row.estimate) else []
            continue
        if row.control and members:
            largest = max(members, key=lambda row: facts(row, "arm").get("rank_fraction", 0))
            clauses.append(f"control: {contrast_text(largest)}")
        members = []
    return clauses


def by_track(rows: pd.DataFrame) -> str:
    """The verdicts of a claim's tests on each track: `language not reproduced (2 of 3); small-images
    supported (3 of 3)`; where there are several, with what tells them apart."""
    tests = deciding_tests(rows)
    tests = tests[tests["verdict"] != "not run"]
    return "; ".join(
        f"{track} {', '.join(dict.fromkeys(apart(_rows(group))))}"
        for track, group in tests.groupby("track", sort=False)
    )


def apart(tests: list[Any]) -> list[str]:
    """Verdicts of one track's tests, told apart by what they measure or are against, if there are several."""
    if len({told(row) for row in tests}) == 1:
        return [told(row) for row in tests]
    if len({row.metric for row in tests}) > 1:
        return [f"{measure(row.metric).name} {told(row)}" for row in tests]
    sides = [
        {
            f"{fact} {value}"
            for fact, value in facts(row, "reference").items()
            if fact != "swept" and not PLACEHOLDER.fullmatch(str(value))
        }
        for row in tests
    ]
    shared = set.intersection(*sides)
    own = [", ".join(sorted(side - shared)) for side in sides]
    return [
        f"against {words} {told(row)}" if words else told(row)
        for words, row in zip(own, tests, strict=True)
    ]


def _rows(table: pd.DataFrame) -> list[Any]:
    return list(table.itertuples(index=False))


@dataclass(frozen=True)
class Verdict:
    """A claim that was judged: its id, its sentence, the verdict in words and one line of evidence."""

    claim: str
    statement: str
    verdict: str
    evidence: str
    tracks: str


def verdicts(claims: pd.DataFrame) -> list[Verdict]:
    """What was found of each claim of which something ran, from the table `claims`."""
    found = []
    for name, rows in claims.groupby("claim", sort=False):
        overall = _rows(rows[rows["level"] == "claim"])[0]
        if overall.verdict != "not run":
            words = overall.statement, word(overall), evidence(rows), by_track(rows)
            found.append(Verdict(str(name), *words))
    return found


def not_run(claims: pd.DataFrame) -> str:
    """What was not judged, in one line: tests, and contrasts without a partner; empty if nothing."""
    tests = claims[(claims["level"] == "test") & (claims["verdict"] == "not run")]
    alone = claims[(claims["level"] == "member") & (claims["verdict"] == "not run")]
    tested = claims.loc[claims["level"] == "test", "claim"]
    absent = claims[(claims["level"] == "claim") & ~claims["claim"].isin(tested)]
    parts = [
        f"{statement} ({', '.join(dict.fromkeys(group['track']))})"
        for statement, group in tests.groupby("statement", sort=False)
    ]
    parts += [f"{statement} (other tracks)" for statement in absent["statement"]]
    line = f"Not tested: {'; '.join(parts)}." if parts else ""
    if len(alone):
        line += f" {counted(len(alone), 'contrast')} had no partner to be compared with."
    return line.strip()


def verdict_lines(claims: pd.DataFrame) -> list[str]:
    """The verdicts as plain text for a terminal, a line a claim, those that were not run last."""
    lines = [f"{found.statement}: {found.tracks}" for found in verdicts(claims)]
    absent = (claims["level"] == "claim") & (claims["verdict"] == "not run")
    return lines + [f"{statement}: not run" for statement in claims.loc[absent, "statement"]]
