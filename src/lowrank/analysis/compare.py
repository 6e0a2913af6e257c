"""One contrast in numbers: its paired difference, in the unit of the test, and p for and against the claim.

What is asked of a difference by each kind of test, and in which units: `lowrank.analysis.claims`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from lowrank.analysis.ledger import ClaimTest, Margin
from lowrank.analysis.matching import Member
from lowrank.analysis.notes import NOTHING, UNSURE
from lowrank.analysis.stats import Difference, Known, Pairs, pair, paired_difference
from lowrank.errors import LowrankError
from lowrank.experiment.metrics import metric


def compare(test: ClaimTest, margin: Margin | None, member: Member, alpha: float) -> dict[str, Any]:
    """The numbers of one member: estimate, interval, raw p for and against, notes."""
    if member.reference is None:
        return {"verdict": "not run", "note": "no reference with the same placeholders"}
    if test.compressed and any(kept := [side.kept for side in member.sides if side.kept >= 1]):
        note = f"keeps {max(kept):.2f} of the dense parameters"
        return {"verdict": "left out", "note": note}
    unit = margin.unit if margin else "absolute"
    pairs, lost, against = _paired(test, member, unit)
    a, b = pairs.a, pairs.b
    sign = {"lower": -1, "higher": 1}.get(test.kind, metric(test.metric).better)
    by_margin = test.kind in ("equivalence", "not_worse")
    d = paired_difference(sign * a, sign * b, 1 - 2 * alpha if by_margin else 1 - alpha)
    low, high = d.low, d.high
    if test.exact and d.pairs and not d.standard_deviation > 0:
        low = high = d.estimate
    turn = 1 if unit == "factor" else sign
    natural = sorted(in_unit(turn * value, unit) for value in (low, high))
    threshold = margin.threshold if margin else 0.0
    support, opposite = p_values(test, d, threshold)
    idle = ""
    if test.against and test.against.premise and against is not None:
        other = paired_difference(sign * against.a, sign * against.b)
        if not other.p_above(threshold) < alpha:
            idle = NOTHING if other.p_below(threshold) < alpha else UNSURE
    return {
        "estimate": in_unit(turn * d.estimate, unit),
        "low": natural[0],
        "high": natural[1],
        "p": support,
        "p_against": opposite,
        "standard_deviation": d.standard_deviation,
        "pairs": d.pairs,
        "dropped": pairs.dropped,
        "spoilt": _spoilt(test, lost),
        "tested": d.estimate,
        "idle": idle,
        "note": "; ".join(_notes(test, d, alpha, lost, pairs.missing)),
    }


def _paired(
    test: ClaimTest, member: Member, unit: str
) -> tuple[Pairs, dict[str, int], Pairs | None]:
    """The values of both sides, for an interaction the differences on both, and the seeds at which each of
    the sides diverged; logarithms unless the unit is absolute. Last, of an interaction, the values of the difference
    that it is compared with."""

    def paired(of: Member) -> Pairs:
        assert of.reference is not None
        pairs = pair(of.arm.rows, of.reference.rows, test.metric)
        if unit == "absolute":
            return pairs
        if not ((pairs.a > 0).all() and (pairs.b > 0).all()):
            raise LowrankError(
                f"{test.metric} of {of.arm.name} and {of.reference.name} must be positive for a "
                f"{unit} margin: use an absolute one."
            )
        return replace(pairs, a=np.log(pairs.a), b=np.log(pairs.b))

    first = paired(member)
    lost = {"arm": first.diverged_a, "reference": first.diverged_b}
    if member.against is None:
        return first, lost, None
    second = paired(member.against)
    lost |= {"the other arm": second.diverged_a, "the other reference": second.diverged_b}
    own, other = (
        pd.DataFrame({"seed": pairs.seeds, test.metric: pairs.a - pairs.b})
        for pairs in (first, second)
    )
    both = pair(own, other, test.metric)
    seeds = {seed for side in member.sides for seed in side.rows["seed"]}
    missing = sum(
        any(seed not in set(side.rows["seed"]) for side in member.sides) for seed in seeds
    )
    return replace(both, missing=missing, dropped=len(seeds) - len(both.seeds)), lost, second


def seconds_a_run(runs: pd.DataFrame | None) -> dict[str, float]:
    """Mean processor time of a run of each cell, on all its threads; empty where the runs do not say."""
    if runs is None or not {"cell", "train_seconds"} <= set(runs.columns):
        return {}
    threads = pd.to_numeric(runs["threads"]) if "threads" in runs else 1
    return (runs["train_seconds"] * threads).groupby(runs["cell"]).mean().to_dict()


def seconds_a_pair(member: Member, track: str, seconds: Mapping[str, float]) -> float:
    """Processor time of one more seed: of a run of each trained side, by `seconds_a_run`."""
    cells = {f"{track}/{side.name}" for side in member.sides}
    known = [seconds[cell] for cell in sorted(cells) if cell in seconds]
    return float(pd.Series(known).sum()) if known else math.nan


def in_unit(value: float, unit: str) -> float:
    """From the scale of the test (logs for relative and factor) to the unit of the table."""
    if unit == "absolute":
        return value
    with np.errstate(over="ignore"):
        return float(np.expm1(value) if unit == "relative" else np.exp(value))


def p_values(test: ClaimTest, d: Difference, m: float) -> tuple[float, float]:
    """Raw p for and against the claim: the table in the docstring of `lowrank.analysis.claims`."""
    if not d.standard_error > 0:
        if not (test.exact and d.pairs):
            return math.nan, math.nan
        d = Known(**vars(d))
    if test.kind == "not_worse":
        return d.p_above(-m), d.p_below(-m)
    if test.kind == "equivalence":
        inside = d.p_within(m)
        if test.better_counts:
            return min(inside, 2 * d.p_above(0.0)), d.p_below(-m)
        return inside, min(1.0, 2 * d.p_below(-m), 2 * d.p_above(m))
    return min(1.0, 2 * d.p_above(m)), min(1.0, 2 * d.p_below(m))


def _spoilt(test: ClaimTest, lost: Mapping[str, int]) -> tuple[str, ...]:
    """The verdicts that diverged runs forbid: those that favour a side that diverged."""
    both_ways = test.kind in ("lower", "higher") or not test.better_counts or test.against
    if both_ways:
        return ("supported", "refuted") if any(lost.values()) else ()
    forbidden = {"supported": lost["arm"], "refuted": lost["reference"]}
    return tuple(verdict for verdict, count in forbidden.items() if count)


def _notes(
    test: ClaimTest, d: Difference, alpha: float, lost: Mapping[str, int], missing: int
) -> Iterator[str]:
    if d.pairs == 0:
        yield "no pair of finished runs"
    elif d.pairs == 1 and not test.exact:
        yield "one pair: no variance to judge by"
    elif d.standard_deviation == 0 and not test.exact:
        yield "the paired differences do not vary: no variance to judge by"
    if test.kind in ("equivalence", "not_worse") and d.p < alpha:
        yield f"on its own significantly {'better' if d.estimate > 0 else 'worse'}"
    for side, count in lost.items():
        if count:
            yield f"{side} diverged at {count} seed{'s' if count > 1 else ''}"
    if missing:
        yield f"{missing} seed{'s' if missing > 1 else ''} on one side only"
