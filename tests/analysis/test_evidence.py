"""Verdicts in words: the numbers of the table, none prettier than it is."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from lowrank.analysis import evidence
from lowrank.analysis.claims import COLUMNS, COUNTS, judge
from lowrank.analysis.ledger import read_ledger
from lowrank.analysis.measures import measure, number
from lowrank.analysis.settled import resolution

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
        "smallest_settled": 0.05,
        "verdict": "refuted",
        "control": False,
        "against": None,
        "note": "",
    } | values


def of_members(*members: dict) -> dict:
    """A test's counts."""
    verdicts = [row["verdict"] for row in members if row["verdict"] not in ("not run", "left out")]
    counts = {word: verdicts.count(word) for word in ("supported", "refuted")}
    return {"ran": len(verdicts), **counts}


def a_test(*members: dict, verdict: str = "refuted", **values) -> list[dict]:
    """The rows of a test: its members', then its own."""
    own = {
        "level": "test",
        "verdict": verdict,
        "arm": "x-r{rank}",
        **of_members(*members),
        **values,
    }
    return [*members, member(estimate=np.nan, pairs=pd.NA) | own]


def table(*members: dict, test: str = "refuted", claim: str = "refuted", more=()) -> pd.DataFrame:
    common = {"claim": "sky", "statement": STATEMENT, "note": "", "control": False}
    rows = [
        *a_test(*members, verdict=test),
        *more,
        {**common, "level": "claim", "track": "all", "verdict": claim, **of_members(*members)},
    ]
    return pd.DataFrame(rows, columns=COLUMNS).astype(dict.fromkeys(COUNTS, "Int64"))


def row_of(*members: dict, **values):
    """A test's row as a figure's code sees it."""
    return next(pd.DataFrame(a_test(*members, **values)[-1:]).itertuples())


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


@pytest.mark.parametrize(
    ("ends", "shown"),
    [
        ((-0.00021, 0.00015), "−0.00003 [−0.00021, 0.00015]"),
        ((-0.004, 0.006), "0.00 [0.00, 0.01]"),
        ((2.0, 2.0), "2.00 [2.00, 2.00]"),
        ((2.0, 2.0 + 1e-15), "2.00 [2.00, 2.00]"),
    ],
)
def test_an_interval_that_rounding_would_empty_has_the_decimals_that_it_needs(ends, shown):
    low, high = ends
    mean = (low + high) / 2
    row = member(metric="effective_rank", estimate=mean, low=low, high=high, margin=np.nan)
    text = evidence.contrast_text(next(pd.DataFrame([row]).itertuples()))
    assert f"effective rank {shown}, no margin" in text


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
    assert lines == [f"{claim.sentence}: not run" for claim in ledger.claims]
    assert evidence.verdict_lines(table(member())) == [
        f"{STATEMENT}: language not reproduced (1 of 1)"
    ]


def test_the_resolution_names_what_the_seeds_of_undecided_tests_settle():
    undecided = {"test": "inconclusive", "claim": "inconclusive"}
    row = member(verdict="inconclusive")
    near = a_test(row, verdict="inconclusive", track="a-track", smallest_settled=0.02)
    assert resolution(table(row, **undecided, more=near)) == (
        "This scale cannot tell: the smallest effect that its seeds settle with a power of four in five, "
        "against the margin, is language 0.050 nats/token against 0.025. The seeds settle less than the "
        "margin, so the effect lies near it: a-track 0.020 nats/token against 0.025."
    )
    assert resolution(table(member())) == "", "it was decided"
    nothing = a_test(row, verdict="inconclusive", smallest_settled=1e9)
    assert resolution(table(member(), more=nothing)) == "", "an effect beyond all measure is none"
    control = a_test(row, verdict="inconclusive", control=True)
    assert resolution(table(member(), more=control)) == ""


@pytest.mark.parametrize(
    ("verdicts", "verdict", "setting", "shown"),
    [
        ("ss", "supported", "reduced", "supported (2 of 2)"),
        ("sri", "mixed", "reduced", "mixed (1 of 3)"),
        ("ri", "refuted", "reduced", "not reproduced (1 of 2)"),
        ("ri", "refuted", "paper", "refuted (1 of 2)"),
        ("rsx", "mixed", "paper", "mixed (1 of 2)"),
        ("sri", "supported", "reduced", "shown at 1 of 3 (one is enough: spectral-r0.5)"),
        ("sx", "supported", "reduced", "supported (1 of 1)"),
    ],
)
def test_a_verdict_says_at_how_many_of_those_that_ran(verdicts, verdict, setting, shown):
    words = {"s": "supported", "r": "refuted", "i": "inconclusive", "x": "left out"}
    members = [member(verdict=words[letter]) for letter in verdicts]
    rows = pd.DataFrame(a_test(*members, verdict=verdict, setting=setting))
    rows = rows.astype(dict.fromkeys(COUNTS, "Int64"))
    (row,) = evidence.deciding_tests(rows).itertuples()
    assert evidence.told(row) == shown


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ({}, "cannot tell (settles 0.050 nats/token, margin 0.025)"),
        ({"smallest_settled": np.inf}, "cannot tell (no power, margin 0.025)"),
        (
            {"smallest_settled": 1.86e9, "metric": "step_seconds", "unit": "factor", "margin": 2.0},
            "cannot tell (no power, margin 2.00)",
        ),
        ({"smallest_settled": 0.02}, "inconclusive"),
        ({"margin": np.nan}, "inconclusive"),
    ],
)
def test_an_undecided_test_whose_seeds_settle_more_than_its_margin_cannot_tell(values, shown):
    row = row_of(member(verdict="inconclusive"), verdict="inconclusive", **values)
    assert evidence.told(row) == shown


@pytest.mark.parametrize(
    ("members", "values", "shown"),
    [
        ([{}], {}, "inconclusive (−0.404 [−0.500, −0.300] nats/token, margin ±0.025)"),
        (
            [{}],
            {"kind": "superiority"},
            "inconclusive (−0.404 [−0.500, −0.300] nats/token, margin 0.025)",
        ),
        ([{}], {"margin": np.nan}, "inconclusive (−0.404 [−0.500, −0.300] nats/token)"),
        (
            [{}, {"verdict": "not run", "estimate": np.nan}],
            {"margin": np.nan},
            "inconclusive (−0.404 [−0.500, −0.300] nats/token)",
        ),
        ([{}, {"estimate": 0.1}], {}, "inconclusive"),
        ([{"estimate": np.nan}], {}, "inconclusive"),
        ([{}], {"smallest_settled": 0.05}, "cannot tell (settles 0.050 nats/token, margin 0.025)"),
        ([{}], {"verdict": "supported", "ran": 1, "supported": 1}, "supported (1 of 1)"),
    ],
)
def test_an_undecided_test_of_one_contrast_says_what_it_found(members, values, shown):
    rows = [member(**({"verdict": "inconclusive"} | own)) for own in members]
    test = a_test(*rows, **({"verdict": "inconclusive", "smallest_settled": 0.02} | values))
    before = a_test(member(estimate=7.0, low=6.0, high=8.0), member(), smallest_settled=0.02)
    of_all = table(member(), more=[*before, *test])
    told = evidence.deciding_tests(of_all).iloc[-1]
    assert evidence.told(told) == shown
    assert (
        evidence.told(told, brief=True) == shown.partition(" (")[0] or told.verdict == "supported"
    )


def test_several_tests_of_a_track_are_told_apart():
    facts = '{"table": "runs", "decay": "l2", "coupled": "{c}", "swept": "decay_strength"}'
    other = '{"table": "runs", "decay": "none"}'
    tests = [row_of(member(), reference_facts=text) for text in (facts, other)]
    assert evidence.apart(tests) == ["not reproduced (1 of 1)"] * 2
    tests[1] = row_of(member(verdict="supported"), verdict="supported", reference_facts=other)
    assert evidence.apart(tests) == [
        "against decay l2 not reproduced (1 of 1)",
        "against decay none supported (1 of 1)",
    ]
    speed = row_of(member(verdict="supported"), verdict="supported", metric="step_seconds")
    assert evidence.apart([tests[0], speed]) == [
        "test loss not reproduced (1 of 1)",
        "speed of a step supported (1 of 1)",
    ]


def test_a_mixed_claim_quotes_the_least_sure_of_either_side():
    rows = [
        member(arm="good", verdict="supported", p_corrected=0.04, p_against=1.0),
        member(arm="sure", verdict="supported", p_corrected=0.01, p_against=1.0),
        member(arm="bad"),
        member(verdict="left out", estimate=np.nan),
    ]
    line = evidence.evidence(table(*rows, test="mixed", claim="mixed"))
    assert line.startswith("2 of 3 contrasts supported (1 refuted), the least sure: good against")
    assert "corrected p for 0.04; refuted: bad against he-r0.5 on language" in line


def test_controls_stand_at_the_end_of_the_evidence_and_are_not_counted():
    ranks = ['{"table": "runs", "rank_fraction": 0.62}', '{"table": "runs", "rank_fraction": 0.25}']
    scaled = [
        member(arm=f"scaled-{index}", control=True, verdict="supported", arm_facts=text)
        for index, text in enumerate(ranks)
    ]
    claims = table(member(), more=a_test(*scaled, verdict="supported", control=True))
    line = evidence.evidence(claims)
    assert line.startswith("1 of 1 contrast refuted: spectral-r0.5 against he-r0.5")
    assert line.count("control: ") == 1 and "control: scaled-0 against he-r0.5 on language" in line
    assert evidence.by_track(claims) == "language not reproduced (1 of 1)"


def test_an_interaction_says_what_its_difference_is_compared_with():
    row = member(against="frobenius-r0.5 less spectral-r0.5")
    assert (
        ", less that of frobenius-r0.5 against spectral-r0.5, on language: test loss"
        in evidence.contrast_text(next(pd.DataFrame([row]).itertuples()))
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
    assert number(value, 1) == shown


@pytest.mark.parametrize(
    ("metric", "unit", "margin", "shown"),
    [
        ("test_loss", "absolute", 0.0125, "0.0125"),
        ("test_loss", "absolute", 0.025, "0.025"),
        ("test_accuracy", "absolute", 0.005, "0.50"),
        ("test_accuracy", "absolute", 0.00125, "0.125"),
        ("test_loss", "relative", 0.01, "1.0"),
        ("step_seconds", "factor", 2.0, "2.00"),
        ("test_loss", "absolute", 5e-5, "5e−5"),
        ("test_loss", "absolute", float("nan"), "–"),
    ],
)
def test_a_margin_is_shown_with_every_digit_that_it_was_set_to(metric, unit, margin, shown):
    assert measure(metric, unit).margin(margin) == shown
