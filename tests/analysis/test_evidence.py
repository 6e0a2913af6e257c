"""Verdicts in words: the numbers of the table, none prettier than it is."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from lowrank.analysis import evidence
from lowrank.analysis.claims import COLUMNS, judge
from lowrank.analysis.ledger import read_ledger

STATEMENT = "The sky is blue"


def member(**values) -> dict:
    return {
        "level": "member",
        "claim": "sky",
        "statement": STATEMENT,
        "track": "language",
        "arm": "spectral-r0.5",
        "reference": "he-r0.5",
        "metric": "test_loss",
        "kind": "equivalence",
        "unit": "absolute",
        "margin": 0.025,
        "estimate": -0.4044,
        "low": -0.5,
        "high": -0.3,
        "p_corrected": 1.0,
        "p_against": 0.0131,
        "pairs": 3,
        "smallest_detectable": 0.05,
        "verdict": "refuted",
        "note": "",
    } | values


def table(*members: dict, test: str = "refuted", claim: str = "refuted") -> pd.DataFrame:
    common = {"claim": "sky", "statement": STATEMENT, "note": ""}
    rows = [
        *members,
        {**common, "level": "test", "track": "language", "verdict": test, "arm": "x-r{rank}"},
        {**common, "level": "claim", "track": "all", "verdict": claim},
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def test_a_contrast_is_quoted_with_the_p_of_the_side_that_decided():
    assert evidence.evidence(table(member())) == (
        "1 of 1 contrast refuted: spectral-r0.5 against he-r0.5 on language: test loss −0.404 "
        "nats/token [−0.500, −0.300], margin ±0.025, 3 seeds, corrected p against 0.0131"
    )


@pytest.mark.parametrize(
    ("verdict", "p_for", "p_against", "shown"),
    [
        ("refuted", 1.0, 0.0496, "against 0.0496"),
        ("supported", 0.00002, 1.0, "for <0.001"),
        ("inconclusive", 0.3, 0.9, "for 0.3"),
        ("inconclusive", 0.9, 0.3, "against 0.3"),
        ("inconclusive", np.nan, 0.3, "against 0.3"),
        ("inconclusive", np.nan, np.nan, "–"),
    ],
)
def test_the_p_shown_is_that_of_the_verdict(verdict, p_for, p_against, shown):
    row = member(verdict=verdict, p_corrected=p_for, p_against=p_against)
    assert evidence.p_text(next(pd.DataFrame([row]).itertuples())) == shown


def test_the_least_sure_of_the_contrasts_that_carry_the_verdict_is_quoted():
    line = evidence.evidence(
        table(
            member(arm="sure", p_against=0.001),
            member(arm="less", p_against=0.04),
            member(arm="other", verdict="inconclusive", p_against=0.2),
            member(arm="alone", verdict="not run", estimate=np.nan),
        )
    )
    assert line.startswith(
        "2 of 3 contrasts refuted (1 inconclusive), the least sure: less against"
    )


def test_one_seed_shows_neither_interval_nor_p():
    nothing = dict.fromkeys(("low", "high", "p_corrected", "p_against"), np.nan)
    alone = member(verdict="inconclusive", pairs=1, **nothing)
    line = evidence.evidence(table(alone, test="inconclusive", claim="inconclusive"))
    assert line.endswith("test loss −0.404 nats/token, margin ±0.025, 1 seed")


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        (
            {"metric": "test_accuracy", "estimate": -0.004, "low": -0.01, "high": 0.002},
            "test top-1 −0.40 points [−1.00, 0.20], margin 0.50, 3 seeds",
        ),
        (
            {"metric": "state_bytes", "unit": "relative", "margin": 0.05, "estimate": -0.612}
            | {"low": -0.612, "high": -0.612},
            "bytes of state −61.2 % [−61.2, −61.2], margin 5.0, 3 rounds",
        ),
        (
            {"metric": "step_seconds", "unit": "factor", "margin": 2.0, "estimate": 1.35}
            | {"low": 1.3, "high": 1.41},
            "speed of a step 1.35 × [1.30, 1.41], margin 2.00, 3 rounds",
        ),
        (
            {"metric": "my_own", "margin": np.nan, "estimate": 2.0, "low": 1.0, "high": 3.0},
            "my own 2.000 [1.000, 3.000], no margin, 3 seeds",
        ),
    ],
)
def test_every_measure_is_shown_in_its_own_unit(values, shown):
    row = member(kind="lower", **{"margin": 0.005} | values)
    assert shown in evidence.contrast_text(next(pd.DataFrame([row]).itertuples()))


def test_truncations_are_named_in_words():
    facts = (
        '{"table": "posthoc", "method": "whitened", "rank_fraction": 0.25, "fine_tune_steps": 0}'
    )
    row = next(pd.DataFrame([member(reference_facts=facts)]).itertuples())
    assert evidence.side_text(row, "reference") == "whitened truncation, rank 0.25"
    assert evidence.side_text(row, "arm") == "spectral-r0.5"


def test_what_was_not_run_is_one_line_without_templates():
    claims = table(test="not run", claim="not run")
    assert evidence.verdicts(claims) == []
    assert evidence.not_run(claims) == f"Not tested: {STATEMENT} (language)."
    alone = member(verdict="not run", estimate=np.nan, pairs=pd.NA)
    assert evidence.not_run(table(member(), alone)) == (
        "1 contrast had no partner to be compared with."
    )
    assert evidence.not_run(table(member())) == ""


def test_verdict_lines_name_every_claim_of_the_ledger_once():
    ledger = read_ledger("config/claims.yaml")
    lines = evidence.verdict_lines(judge(ledger, {}, tracks={"language": "language"}))
    assert lines == ["not run       " + ", ".join(claim.id for claim in ledger.claims)]
    assert evidence.verdict_lines(table(member())) == [
        f"refuted       {STATEMENT} (language refuted)"
    ]


def test_the_resolution_names_what_the_seeds_could_have_shown():
    rows = table(member(smallest_detectable=0.04), member(smallest_detectable=0.06))
    assert evidence.resolution(rows).endswith("margin: language 0.050 against 0.025 nats/token.")
    assert evidence.resolution(table(member(unit="relative"))) == ""
    assert evidence.resolution(table(member(smallest_detectable=np.inf))) == ""
    two = table(member(smallest_detectable=0.04), member(track="a-track", smallest_detectable=0.06))
    assert evidence.resolution(two).endswith(
        "margin: language 0.040 against 0.025 nats/token; a-track 0.060 against 0.025 nats/token."
    )


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (999_999.4, "999999.4"),
        (1_000_000.0, "1e6"),
        (-2_500_000.0, "−2.5e6"),
        (-0.04, "0.0"),
        (-0.06, "−0.1"),
        (np.inf, "–"),
        (np.nan, "–"),
    ],
)
def test_numbers_have_their_decimals_up_to_a_million_and_a_true_minus(value, shown):
    assert evidence.number(value, 1) == shown
