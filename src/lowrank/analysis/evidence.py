"""Verdicts in words: what the table `claims` says, as sentences for page, report and terminal.

One wording for all of them. A claim's line of evidence counts its contrasts by verdict and quotes one
of those that say what the claim's verdict says: the least sure one, that with the largest p, so that
no line looks better than what it stands for.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from lowrank.experiment import metrics

NONE = "–"


@dataclass(frozen=True)
class Measure:
    """A metric in words, and how its differences are shown."""

    name: str
    unit: str
    factor: float
    """From the table's unit to the one shown."""
    digits: int
    pairs: str = "seed"
    """What its pairs are of."""

    def number(self, value: float) -> str:
        """A value of the table, in the unit shown."""
        return number(self.factor * value, self.digits)

    def interval(self, low: float, high: float) -> str:
        """`[−0.020, −0.004]`, or a dash without both ends."""
        if not (math.isfinite(low) and math.isfinite(high)):
            return NONE
        return f"[{self.number(low)}, {self.number(high)}]"

    @property
    def heading(self) -> str:
        """`test loss (nats/token)`."""
        return f"{self.name} ({self.unit})" if self.unit else self.name


def measure(name: str, unit: str = "absolute") -> Measure:
    """How the differences of a metric are shown, in the unit of their test: `absolute` (the
    metric's own), `relative` (per cent) or `factor` (times)."""
    known = metrics.metric(name)
    shown = known.unit if known.difference is None else known.difference
    own = Measure(known.label, shown, known.factor, known.digits, known.pairs)
    if unit == "relative":
        return replace(own, unit="%", factor=100.0, digits=1)
    return replace(own, unit="×", factor=1.0, digits=2) if unit == "factor" else own


def number(value: float, digits: int) -> str:
    """Rounded to `digits` decimals, with a true minus sign and no negative zero."""
    if not math.isfinite(value):
        return NONE
    if abs(value) >= 1e6:
        return significant(value)
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")


def significant(value: float, digits: int = 3) -> str:
    """Rounded to significant digits: `0.00123`, `2.73e8`."""
    if not math.isfinite(value):
        return NONE
    text = f"{value:.{digits}g}".replace("-", "−", int(value < 0))
    return text.replace("e+0", "e").replace("e+", "e").replace("e-0", "e-").replace("e-", "e−")


def counted(count: int, word: str) -> str:
    """`1 seed`, `3 seeds`."""
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


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
    text = measure(row.metric, row.unit).number(row.margin)
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


def contrast_text(row: Any) -> str:
    """A contrast in one clause: sides, estimate with interval, margin, seeds and p."""
    shown = measure(row.metric, row.unit)
    sides = f"{side_text(row, 'arm')} against {side_text(row, 'reference')} on {row.track}: {shown.name}"
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
    """The contrasts among a table's rows that were judged."""
    return rows[(rows["level"] == "member") & (rows["verdict"] != "not run")]


def least_sure(rows: pd.DataFrame) -> Any:
    """Of the contrasts that say what their claim's verdict says, the one with the largest p; None
    if nothing ran."""
    verdict = rows.loc[rows["level"] == "claim", "verdict"].item()
    ran = judged(rows)
    said = ran[ran["verdict"] == verdict].itertuples(index=False)

    def p(row: Any) -> float:
        return -1.0 if math.isnan(deciding(row)[1]) else deciding(row)[1]

    return max(said, key=p, default=None)


def evidence(rows: pd.DataFrame) -> str:
    """A claim's evidence in one line, from its rows; empty if nothing ran."""
    least = least_sure(rows)
    if least is None:
        return ""
    verdict, ran = least.verdict, judged(rows)
    others = [
        f"{count} {word}"
        for word, count in ran["verdict"].value_counts().items()
        if word != verdict
    ]
    share = f"{(ran['verdict'] == verdict).sum()} of {counted(len(ran), 'contrast')} {verdict}"
    tally = f"{share} ({', '.join(others)})" if others else share
    several = (ran["verdict"] == verdict).sum() > 1
    return f"{tally}{', the least sure' if several else ''}: {contrast_text(least)}"


def by_track(rows: pd.DataFrame) -> str:
    """The verdicts of a claim's tests on each track: `language refuted; small-images supported`."""
    tests = rows[(rows["level"] == "test") & (rows["verdict"] != "not run")]
    return "; ".join(
        f"{track} {', '.join(dict.fromkeys(group['verdict']))}"
        for track, group in tests.groupby("track", sort=False)
    )


@dataclass(frozen=True)
class Verdict:
    """A claim that was judged: its id, its sentence, the verdict and one line of evidence."""

    claim: str
    statement: str
    verdict: str
    evidence: str
    tracks: str


def verdicts(claims: pd.DataFrame) -> list[Verdict]:
    """What was found of each claim of which something ran, from the table `claims`."""
    found = []
    for name, rows in claims.groupby("claim", sort=False):
        overall = rows[rows["level"] == "claim"].iloc[0]
        if overall["verdict"] != "not run":
            words = overall["statement"], overall["verdict"], evidence(rows), by_track(rows)
            found.append(Verdict(str(name), *words))
    return found


def not_run(claims: pd.DataFrame) -> str:
    """What was not judged, in one line: tests, and contrasts without a partner; empty if nothing."""
    tests = claims[(claims["level"] == "test") & (claims["verdict"] == "not run")]
    alone = claims[(claims["level"] == "member") & (claims["verdict"] == "not run")]
    tested = claims.loc[claims["level"] == "test", "claim"]
    absent = claims[(claims["level"] == "claim") & ~claims["claim"].isin(tested)]
    parts = [
        f"{statement} ({_listed(dict.fromkeys(group['track']))})"
        for statement, group in tests.groupby("statement", sort=False)
    ]
    parts += [f"{statement} (other tracks)" for statement in absent["statement"]]
    line = f"Not tested: {'; '.join(parts)}." if parts else ""
    if len(alone):
        line += f" {counted(len(alone), 'contrast')} had no partner to be compared with."
    return line.strip()


def verdict_lines(claims: pd.DataFrame) -> list[str]:
    """The verdicts as plain text for a terminal, a line a claim, and one on what was not run."""
    lines = [
        f"{found.verdict:<13} {found.statement} ({found.tracks})" for found in verdicts(claims)
    ]
    absent = claims.loc[(claims["level"] == "claim") & (claims["verdict"] == "not run"), "claim"]
    return lines + ([f"{'not run':<13} {_listed(absent)}"] if len(absent) else [])


def resolution(rows: pd.DataFrame) -> str:
    """How small a difference the seeds could have shown, against the margin, for the absolute
    margins of a claim's tests; empty where there are none."""
    ran = judged(rows)
    parts = []
    known = ran[(ran["unit"] == "absolute") & ran["margin"].notna()]
    for (track, metric), group in known.groupby(["track", "metric"], sort=False):
        smallest = group["smallest_detectable"].median()
        if math.isfinite(smallest):
            shown = measure(str(metric))
            margin = shown.number(group["margin"].iloc[0])
            parts.append(f"{track} {shown.number(smallest)} against {margin} {shown.unit}".strip())
    if not parts:
        return ""
    return (
        "Smallest difference that the seeds would have shown with a power of four in five (median "
        f"of the contrasts), against the margin: {'; '.join(parts)}."
    )


def _listed(words: Iterable[str]) -> str:
    return ", ".join(words)
