"""A difference of differences is judged only where there is a difference to explain."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pandas as pd
import pytest
from named_arms import facts

from lowrank.analysis import claims
from lowrank.analysis.evidence import deciding_tests, told
from lowrank.analysis.notes import CANNOT_TELL, NOTHING, UNSURE

judge = partial(claims.judge, tracks={"language": "language", "small-images": "images"})
NOISE = np.array([0.004, -0.006, 0.001, 0.003, -0.002])
MARGIN = 0.02


def ledger(premise: bool) -> claims.Ledger:
    """Whether what Frobenius decay gains over L2 (a loss that is lower) is as much at half the rate."""
    plain = {"init": "spectral", "rank_fraction": "{rank}"}
    sides = {"arm": {**plain, "decay": "frobenius"}, "reference": {**plain, "decay": "l2"}}
    half = {name: {**side, "rate_factor": 0.5} for name, side in sides.items()}
    test = {
        **{"tasks": ["language"], "metric": "test_loss", "kind": "not_worse", "margin": "near"},
        **half,
        "against": {**sides, "premise": premise},
    }
    margins = {"near": {"value": MARGIN, "unit": "absolute", "reason": "for a test"}}
    claim = {"id": "c", "statement": "s", "verified": True, "tests": [test]}
    return claims.Ledger.model_validate({"margins": margins, "paper": [], "claims": [claim]})


def tables(full: float, half: float, noise: float = 1.0) -> dict[str, pd.DataFrame]:
    """Four arms of five seeds: what Frobenius gains over L2 at the full rate, and at half."""
    base = 3 + np.array([0.02, -0.03, 0.05, 0.0, 0.01])
    arms = {
        "spectral-r0.5": base,
        "spectral-r0.5-halfrate": base + 0.1,
        "spectral-r0.5-frobenius": base - full + noise * NOISE,
        "spectral-r0.5-frobenius-halfrate": base + 0.1 - half - noise * NOISE,
    }
    rows = [
        pd.DataFrame(
            {"cell": f"language/{arm}", "track": "language", **facts(arm, "l2")}
            | {"seed": range(5), "test_loss": values}
        )
        for arm, values in arms.items()
    ]
    return {"runs": pd.concat(rows)}


def judged(premise: bool, *gains: float) -> tuple[Any, str]:
    """The one contrast, and the test in words."""
    table = judge(ledger(premise), tables(*gains))
    (member,) = table[table["level"] == "member"].itertuples()
    (test,) = deciding_tests(table).itertuples()
    return member, told(test)


@pytest.mark.parametrize(
    ("gains", "verdict", "note"),
    [
        ((0.10, 0.10), "supported", ""),
        ((0.10, 0.00), "refuted", "on its own significantly worse"),
        ((0.004, 0.00), "inconclusive", NOTHING),  # all is lost, and less than the margin
        ((0.00, 0.10), "inconclusive", NOTHING),
        ((-0.10, -0.20), "inconclusive", NOTHING),  # what there is not cannot shrink
        ((MARGIN, MARGIN), "inconclusive", UNSURE),
        ((0.021, 0.10), "inconclusive", UNSURE),
    ],
)
def test_without_an_advantage_above_the_margin_nothing_is_decided(gains, verdict, note):
    member, words = judged(True, *gains)
    assert member.verdict == verdict and note in member.note
    assert (words == "nothing to explain") == (note == NOTHING)
    assert CANNOT_TELL not in member.note


def test_unless_it_is_a_premise_the_other_difference_may_be_anything():
    member, words = judged(False, 0.004, 0.0)
    assert member.verdict == "supported" and NOTHING not in member.note
    assert words == "supported (1 of 1)"


def test_a_premise_without_a_variance_is_open():
    member, _ = judged(True, 0.1, 0.1, 0.0)
    assert member.verdict == "inconclusive" and UNSURE in member.note
