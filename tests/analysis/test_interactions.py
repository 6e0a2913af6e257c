"""Differences of differences: paired over all four sides, and judged as any difference is."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from test_claims_numbers import BASE, NOISE, judge, ledger, rows

from lowrank.analysis.stats import paired_difference

DECAY = {"init": "spectral", "rank_fraction": "{rank}"}
ARMS = ("spectral-r0.5-frobenius-halfrate", "spectral-r0.5-halfrate")
OTHERS = ("spectral-r0.5-frobenius", "spectral-r0.5")
NOISES = (NOISE, NOISE[::-1], 2 * NOISE, -NOISE)


def interaction(kind: str = "not_worse", unit: str | None = "absolute", **options):
    sides = [{**DECAY, "decay": decay} for decay in ("frobenius", "l2")]
    half = [{**side, "rate_factor": 0.5} for side in sides]
    against = {"arm": sides[0], "reference": sides[1]}
    return ledger(kind, unit, arm=half[0], reference=half[1], against=against, **options)


def cells(half: float, full: float) -> dict[str, pd.DataFrame]:
    """Mean differences of Frobenius from L2 at half the rate and at the full one."""
    shifts = (0.3 + half, 0.3, full, 0.0)
    return rows(
        {
            arm: BASE + noise + shift
            for arm, noise, shift in zip((*ARMS, *OTHERS), NOISES, shifts, strict=True)
        }
    )


def test_the_difference_of_differences_is_that_of_each_seed():
    row = judge(interaction("better", None), cells(-0.01, -0.05)).iloc[0]
    d = (NOISES[0] - NOISES[1]) - (NOISES[2] - NOISES[3]) + 0.04
    expected = paired_difference(d, np.zeros(5))
    assert (row["estimate"], row["low"], row["high"]) == pytest.approx(
        (expected.estimate, expected.low, expected.high)
    )
    assert row["standard_deviation"] == pytest.approx(expected.standard_deviation)
    assert (row["arm"], row["reference"]) == ARMS
    assert row["against"] == f"{OTHERS[0]} less {OTHERS[1]}"
    assert row["pairs"] == 5 and row["verdict"] == "refuted"  # a loss: more is worse


@pytest.mark.parametrize(
    ("half", "full", "verdict"),
    [
        (-0.05, -0.05, "supported"),  # the advantage stays
        (-0.09, -0.05, "supported"),  # it grows
        (-0.032, -0.05, "inconclusive"),  # it shrinks, perhaps by less than the margin
        (0.0, -0.05, "refuted"),
    ],
)
def test_an_advantage_that_does_not_shrink_is_judged_by_the_margin(half, full, verdict):
    assert judge(interaction(), cells(half, full)).iloc[0]["verdict"] == verdict


def test_a_relative_interaction_is_one_of_logarithms():
    row = judge(interaction("lower", "relative"), cells(-0.01, -0.05)).iloc[0]
    table = cells(-0.01, -0.05)["runs"].pivot(index="seed", columns="arm", values="test_loss")
    logs = np.log(table)
    d = (logs[ARMS[0]] - logs[ARMS[1]]) - (logs[OTHERS[0]] - logs[OTHERS[1]])
    assert row["estimate"] == pytest.approx(math.expm1(d.mean()))


def test_a_seed_counts_only_where_all_four_sides_have_it():
    table = cells(-0.05, -0.05)["runs"].assign(diverged=False)
    table = table[~((table["arm"] == OTHERS[1]) & (table["seed"] == 4))]
    table.loc[(table["arm"] == OTHERS[0]) & (table["seed"] == 0), "diverged"] = True
    row = judge(interaction(), {"runs": table}).iloc[0]
    assert (row["pairs"], row["dropped"]) == (3, 2)
    assert "the other arm diverged at 1 seed; 1 seed on one side only" in row["note"]
    assert row["verdict"] == "inconclusive", "divergence favours no side of an interaction"


def test_without_the_other_contrast_nothing_is_compared():
    table = cells(-0.05, -0.05)["runs"]
    judged = judge(interaction(), {"runs": table[table["arm"] != OTHERS[0]]})
    assert judged.iloc[0]["verdict"] == "not run"
    assert "decay frobenius" in judged.iloc[0]["note"]


def test_placeholders_mean_the_same_on_all_four_sides():
    table = cells(-0.05, -0.05)["runs"]
    other = table.assign(
        cell=table["cell"].str.replace("0.5", "0.3"),
        arm=table["arm"].str.replace("0.5", "0.3"),
        rank_fraction=0.3,
    )
    both = judge(interaction(), {"runs": pd.concat([table, other])})
    assert list(both["level"]) == ["member", "member", "test", "claim"]
    for arm, against in zip(both["arm"][:2], both["against"][:2], strict=True):
        assert against.split("-")[1] == arm.split("-")[1]
    alone = pd.concat([table, other[other["arm"].str.contains("halfrate")]])
    judged = judge(interaction(), {"runs": alone})
    assert list(judged["verdict"][:2]) == ["supported", "not run"]
