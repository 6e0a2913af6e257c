"""What a claim's rows say beside their verdict: notes, tallies, units, and what the seeds could have shown."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from test_claims_numbers import BASE, NOISE, judge, ledger, rows, tables

from lowrank.analysis.claims import judge_scale
from lowrank.analysis.described import described
from lowrank.analysis.ledger import Ledger
from lowrank.analysis.power import smallest_settled
from lowrank.analysis.stats import paired_difference
from lowrank.experiment import config


def first(judged: pd.DataFrame) -> pd.Series:
    return judged.iloc[0]


@pytest.mark.parametrize(
    ("kind", "difference", "note"),
    [
        ("equivalence", 0.01, "on its own significantly worse"),
        ("equivalence", -0.01, "on its own significantly better"),
        ("not_worse", -0.01, "on its own significantly better"),
        ("equivalence", 0.0001, ""),
        ("better", 0.01, ""),
        ("lower", 0.01, ""),
    ],
)
def test_a_note_says_where_a_difference_is_significant_that_a_margin_lets_pass(
    kind, difference, note
):
    assert first(judge(ledger(kind, "absolute"), tables(difference)))["note"] == note


def test_significant_in_a_note_means_at_the_confidence_of_the_verdict():
    """p is 0.022: below 0.05, not below 0.01."""
    d = paired_difference(BASE + NOISE - 0.0055, BASE)
    assert 0.01 < d.p < 0.05
    for confidence, note in ((0.95, "on its own significantly better"), (0.99, "")):
        row = first(judge(ledger("equivalence", "absolute"), tables(-0.0055), confidence))
        assert row["note"] == note


@pytest.mark.parametrize(
    ("lost", "missing", "note"),
    [
        ({}, 0, ""),
        ({"spectral_ones-r0.5": 1}, 0, "arm diverged at 1 seed"),
        ({"spectral-r0.5": 2}, 0, "reference diverged at 2 seeds"),
        ({}, 1, "1 seed on one side only"),
        ({}, 2, "2 seeds on one side only"),
        (
            {"spectral_ones-r0.5": 2, "spectral-r0.5": 1},
            1,
            "arm diverged at 2 seeds; reference diverged at 1 seed; 1 seed on one side only",
        ),
    ],
)
def test_notes_count_the_seeds_that_make_no_pair(lost, missing, note):
    table = tables(-0.0195)["runs"].assign(diverged=False)
    for arm, count in lost.items():
        of_arm = table["cell"] == f"language/{arm}"
        table.loc[of_arm & (table["seed"] < count), "diverged"] = True
    last = (table["cell"] == "language/spectral-r0.5") & (table["seed"] >= 5 - missing)
    row = first(judge(ledger("lower", "absolute"), {"runs": table[~last]}))
    assert row["note"] == note
    assert row["pairs"] == 5 - missing - max(lost.values(), default=0)


def test_a_verdict_that_diverged_runs_forbid_is_named():
    table = tables(-0.03)["runs"].assign(diverged=False)
    table.loc[(table["cell"] == "language/spectral_ones-r0.5") & (table["seed"] == 1), "diverged"] = True  # fmt: skip
    row = first(judge(ledger("better", None), {"runs": table}))
    assert row["verdict"] == "inconclusive"
    assert row["note"] == ("arm diverged at 1 seed; would be supported without the diverged runs")


@pytest.mark.parametrize("confidence", [0.8, 0.95])
@pytest.mark.parametrize(("kind", "tails"), [("lower", 1), ("equivalence", 2)])
def test_intervals_and_what_is_settled_are_those_of_the_confidence(kind, tails, confidence):
    row = first(judge(ledger(kind, "absolute"), tables(0.01), confidence))
    alpha = 1 - confidence
    d = paired_difference(BASE + NOISE + 0.01, BASE, 1 - tails * alpha)
    assert (row["low"], row["high"]) == pytest.approx((d.low, d.high))
    assert row["smallest_settled"] == pytest.approx(
        smallest_settled(kind, d.standard_deviation, 5, alpha)
    )


def test_what_is_settled_of_a_ratio_is_a_ratio():
    row = first(judge(ledger("ratio_at_least", "factor"), tables(0.0)))
    d = paired_difference(np.log(BASE), np.log(BASE + NOISE))
    assert row["smallest_settled"] == pytest.approx(
        math.exp(smallest_settled("ratio_at_least", d.standard_deviation, 5))
    )


def test_what_is_settled_is_so_at_holms_first_step_and_a_test_has_the_median():
    cells = {}
    for rank, size in ((1, 1.0), (2, 3.0), (3, 2.0)):
        cells[f"spectral-r0.{rank}"] = BASE
        cells[f"spectral_ones-r0.{rank}"] = BASE + size * NOISE
    judged = judge(ledger("equivalence", "absolute"), rows(cells))
    each = [
        smallest_settled("equivalence", size * NOISE.std(ddof=1), 5, 0.05 / 3) for size in (1, 3, 2)
    ]
    assert list(judged["smallest_settled"][:4]) == pytest.approx([*each, each[2]])


@pytest.mark.parametrize(("size", "told"), [(1.0, False), (6.0, True)])
def test_an_inconclusive_contrast_says_where_its_scale_cannot_tell(size, told):
    """The margin is 0.02; an effect at the margin is inconclusive whatever the noise."""
    cells = {"spectral-r0.5": BASE, "spectral_ones-r0.5": BASE + size * NOISE + 0.02}
    for kind in ("equivalence", "not_worse"):
        row = first(judge(ledger(kind, "absolute"), rows(cells)))
        assert row["verdict"] == "inconclusive"
        assert ("this scale cannot tell" in row["note"]) is told
        assert bool(row["smallest_settled"] > 0.02) is told
    decided = first(judge(ledger("equivalence", "absolute"), tables(0.0)))
    assert "cannot tell" not in decided["note"]


@pytest.mark.parametrize(
    ("unit", "margin", "said"), [(None, math.nan, "absolute"), ("relative", 0.01, "relative")]
)
def test_every_row_of_a_test_says_its_margin_and_unit(unit, margin, said):
    judged = judge(ledger("lower", unit), tables(0.0), scale="small")
    member, test, claim = (judged.iloc[place] for place in range(3))
    for row in (member, test):
        assert row["margin"] == pytest.approx(margin, nan_ok=True)
        assert (row["unit"], row["kind"], row["metric"]) == (said, "lower", "test_loss")
    assert test["arm"] == "init spectral_ones, rank_fraction {rank}"
    assert test["reference"] == "init spectral, rank_fraction {rank}"
    assert (claim["track"], claim["statement"], claim["scale"]) == ("all", "s", "small")
    assert list(judged["level"]) == ["member", "test", "claim"]


def test_a_test_counts_its_contrasts_and_a_claim_its_tests_by_verdict():
    cells = {}
    for rank, difference in enumerate((-0.05, -0.05, 0.05, 0.0001), 1):
        cells[f"spectral-r0.{rank}"] = BASE
        cells[f"spectral_ones-r0.{rank}"] = BASE + NOISE + difference
    for ran, (test_note, claim_note) in {
        4: ("4 contrasts: 2 supported, 1 refuted, 1 inconclusive", "1 test: 1 mixed"),
        1: ("1 contrast: 1 supported", "1 test: 1 supported"),
    }.items():
        judged = judge(ledger("better", None), rows(dict(list(cells.items())[: 2 * ran])))
        assert judged.loc[judged["level"] == "test", "note"].item() == test_note
        counts = (4, 2, 1) if ran == 4 else (1, 1, 0)
        for level in ("test", "claim"):
            row = judged[judged["level"] == level].iloc[0]
            assert (row["ran"], row["supported"], row["refuted"]) == counts
        assert judged.loc[judged["level"] == "claim", "note"].item() == claim_note


@pytest.mark.parametrize("pairs", [0, 1, 2])
def test_differences_without_a_variance_have_the_whole_line_as_their_interval(pairs):
    """Unless the metric is exact and there is a pair at all."""
    cells = {"spectral-r0.5": np.full(2, 3.0), "spectral_ones-r0.5": np.full(2, 2.5)}
    table = rows(cells)["runs"]
    arm = table["cell"] == "language/spectral_ones-r0.5"
    table.loc[arm, "seed"] += 2 - pairs
    for exact in (False, True):
        row = first(judge(ledger("lower", None, exact=exact), {"runs": table}))
        known = exact and pairs > 0
        assert row["pairs"] == pairs
        assert (row["low"], row["high"]) == ((-0.5, -0.5) if known else (-math.inf, math.inf))
        assert row["verdict"] == ("supported" if known else "inconclusive")
        assert math.isnan(row["p"]) is not known


def test_a_scale_is_judged_under_its_name_with_its_tracks_and_their_own_decay():
    """The track's own is Frobenius: `spectral-r0.5` is what the ledger asks for."""
    track = {
        "data": {"kind": "text"},
        "model": {"family": "gpt2", "width": 16, "depth": 1, "heads": 2, "context": 16},
        "training": {"steps": 10, "batch": 4},
        "factors": {"rank_fraction": 0.5, "decay": {"kind": "frobenius"}},
        "sweep": {"rates": [0.01]},
        "studies": {"decay": {"decays": [{"kind": "l2"}, {"kind": "frobenius"}]}},
    }
    settings = config.parse({"scale": "mine", "seeds": [0, 1], "tracks": {"prose": track}})
    values = ledger("better", None).model_dump(mode="json")
    arms = {"arm": "frobenius", "reference": "l2"}
    values["claims"][0]["tests"][0] |= {side: {"decay": decay} for side, decay in arms.items()}
    cells = {"spectral-r0.5": BASE, "spectral-r0.5-l2": BASE + NOISE + 0.05}
    runs = rows(cells)["runs"][["cell", "seed", "test_loss"]]
    runs = runs.assign(cell=runs["cell"].str.replace("language/", "prose/"))
    runs = described(settings, {"runs": runs})["runs"]
    judged = judge_scale(Ledger.model_validate(values), settings, {"runs": runs})
    assert set(judged["scale"]) == {"mine"}
    assert list(judged["track"]) == ["prose", "prose", "all"]
    row = first(judged)
    assert (row["arm"], row["reference"]) == ("spectral-r0.5", "spectral-r0.5-l2")
    assert set(judged["verdict"]) == {"supported"}
