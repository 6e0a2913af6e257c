"""The p values by which claims are judged, each computed again from its definition with scipy."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pandas as pd
import pytest
from named_arms import facts
from scipy.stats import t as student

from lowrank.analysis import claims
from lowrank.analysis.ledger import Ledger
from lowrank.analysis.stats import holm
from lowrank.errors import LowrankError

BASE = 3 + np.array([0.02, -0.03, 0.05, 0.0, 0.01])
NOISE = np.array([0.004, -0.006, 0.001, 0.003, -0.002])
TRACKS = {"language": "language", "small-images": "images", "large-images": "images"}
judge = partial(claims.judge, tracks=TRACKS)
UNITS = {"absolute": 0.02, "relative": 0.01, "factor": 1.005}


def ledger(kind: str, unit: str | None, metric: str = "test_loss", **options) -> Ledger:
    values = {
        "value": UNITS.get(unit or "absolute"),
        "unit": unit or "absolute",
        "reason": "for a test",
    }
    test = {
        "tasks": ["language"],
        "metric": metric,
        "kind": kind,
        "arm": {"init": "spectral_ones", "rank_fraction": "{rank}"},
        "reference": {"init": "spectral", "rank_fraction": "{rank}"},
        "margin": "m" if unit else None,
        **options,
    }
    claim = {"id": "c", "statement": "s", "verified": True, "tests": [test]}
    return Ledger.model_validate({"margins": {"m": values}, "paper": [], "claims": [claim]})


def rows(cells: dict[str, np.ndarray], metric: str = "test_loss") -> dict[str, pd.DataFrame]:
    parts = [
        pd.DataFrame(
            {"cell": f"language/{arm}", "track": "language", **facts(arm), metric: values}
        ).assign(seed=range(len(values)))
        for arm, values in cells.items()
    ]
    return {"runs": pd.concat(parts)}


def tables(difference: float, metric: str = "test_loss") -> dict[str, pd.DataFrame]:
    """Five pairs whose mean difference is given."""
    return rows({"spectral-r0.5": BASE, "spectral_ones-r0.5": BASE + NOISE + difference}, metric)


def t_of(difference: float, unit: str | None, bound: float) -> float:
    """How many standard errors the mean difference of arm and reference lies above a bound."""
    a, b = BASE + NOISE + difference, BASE
    d = a - b if unit in (None, "absolute") else np.log(a) - np.log(b)
    return (d.mean() - bound) / (d.std(ddof=1) / math.sqrt(5))


def upper(t: float) -> float:
    """P(T > t) with four degrees of freedom."""
    return float(student.sf(t, 4))


def threshold(unit: str | None) -> float:
    if unit is None:
        return 0.0
    value = UNITS[unit]
    return {"absolute": value, "relative": math.log(1 + value), "factor": math.log(value)}[unit]


DIFFERENCES = (-0.03, -0.012, -0.002, 0.0, 0.003, 0.015, 0.025)


@pytest.mark.parametrize("difference", DIFFERENCES)
@pytest.mark.parametrize("unit", [None, "absolute", "relative"])
@pytest.mark.parametrize("kind", ["better", "lower", "higher"])
def test_difference_tests_are_two_sided_for_and_against(kind, unit, difference):
    """Twice the tail beyond the margin, at most 1: a loss is better where it is lower."""
    sign = 1 if kind == "higher" else -1
    row = judge(ledger(kind, unit), tables(difference)).iloc[0]
    t = sign * t_of(difference, unit, sign * threshold(unit))
    assert row["p"] == pytest.approx(min(1, 2 * upper(t)), rel=1e-9)
    assert row["p_against"] == pytest.approx(min(1, 2 * upper(-t)), rel=1e-9)


@pytest.mark.parametrize("difference", DIFFERENCES)
def test_a_ratio_is_tested_two_sided_on_logarithms(difference):
    row = judge(ledger("ratio_at_least", "factor"), tables(difference)).iloc[0]
    t = -t_of(difference, "factor", -threshold("factor"))
    assert row["p"] == pytest.approx(min(1, 2 * upper(t)), rel=1e-9)
    assert row["p_against"] == pytest.approx(min(1, 2 * upper(-t)), rel=1e-9)
    ratio = np.exp(np.mean(np.log(BASE) - np.log(BASE + NOISE + difference)))
    assert row["estimate"] == pytest.approx(ratio, rel=1e-12)
    assert row["low"] < ratio < row["high"]


@pytest.mark.parametrize("difference", DIFFERENCES)
@pytest.mark.parametrize("unit", ["absolute", "relative"])
def test_not_worse_is_one_sided_at_the_margin(unit, difference):
    row = judge(ledger("not_worse", unit), tables(difference)).iloc[0]
    t = -t_of(difference, unit, threshold(unit))
    assert row["p"] == pytest.approx(upper(t), rel=1e-9)
    assert row["p_against"] == pytest.approx(upper(-t), rel=1e-9)


@pytest.mark.parametrize("difference", DIFFERENCES)
@pytest.mark.parametrize("unit", ["absolute", "relative"])
@pytest.mark.parametrize("better_counts", [True, False])
def test_equivalence_is_the_larger_of_two_one_sided_tests(better_counts, unit, difference):
    """Or, where better counts, a two-sided p of being better; refuted beyond the margin."""
    judged = judge(ledger("equivalence", unit, better_counts=better_counts), tables(difference))
    row, m = judged.iloc[0], threshold(unit)
    above_low, below_high = upper(t_of(difference, unit, -m)), upper(-t_of(difference, unit, m))
    tost = max(above_low, below_high)
    worse = upper(t_of(difference, unit, m))
    if better_counts:
        assert row["p"] == pytest.approx(min(tost, 2 * upper(-t_of(difference, unit, 0))), rel=1e-9)
        assert row["p_against"] == pytest.approx(worse, rel=1e-9)
    else:
        assert row["p"] == pytest.approx(tost, rel=1e-9)
        better = upper(-t_of(difference, unit, -m))
        assert row["p_against"] == pytest.approx(min(1, 2 * worse, 2 * better), rel=1e-9)


@pytest.mark.parametrize("difference", DIFFERENCES)
def test_more_is_better_turns_every_side(difference):
    """Accuracies are judged as losses of the opposite sign are."""
    for kind, unit in (("better", None), ("not_worse", "absolute"), ("equivalence", "absolute")):
        loss = judge(ledger(kind, unit), tables(difference)).iloc[0]
        cells = {"spectral-r0.5": 9 - BASE, "spectral_ones-r0.5": 9 - BASE - NOISE - difference}
        accuracy = judge(ledger(kind, unit, "test_accuracy"), rows(cells, "test_accuracy")).iloc[0]
        assert accuracy["p"] == pytest.approx(loss["p"], rel=1e-6)
        assert accuracy["p_against"] == pytest.approx(loss["p_against"], rel=1e-6)
        assert accuracy["estimate"] == pytest.approx(-loss["estimate"], abs=1e-12)
        assert accuracy["verdict"] == loss["verdict"]


@pytest.mark.parametrize(
    ("kind", "unit", "confidence"),
    [
        ("better", None, 0.95),
        ("lower", "absolute", 0.95),
        ("not_worse", "absolute", 0.9),
        ("equivalence", "absolute", 0.9),
    ],
)
def test_intervals_are_those_of_one_or_of_two_tails(kind, unit, confidence):
    """1 - 2 alpha where the test is one-sided, 1 - alpha where it has two."""
    row = judge(ledger(kind, unit), tables(0.01)).iloc[0]
    d = NOISE + 0.01
    half = student.ppf((1 + confidence) / 2, 4) * d.std(ddof=1) / math.sqrt(5)
    assert (row["estimate"], row["low"], row["high"]) == pytest.approx(
        (d.mean(), d.mean() - half, d.mean() + half)
    )


def test_relative_intervals_are_ratios_less_one():
    row = judge(ledger("lower", "relative"), tables(0.01)).iloc[0]
    logs = np.log(BASE + NOISE + 0.01) - np.log(BASE)
    half = student.ppf(0.975, 4) * logs.std(ddof=1) / math.sqrt(5)
    expected = [math.expm1(x) for x in (logs.mean(), logs.mean() - half, logs.mean() + half)]
    assert [row["estimate"], row["low"], row["high"]] == pytest.approx(expected)


def test_both_p_values_are_corrected_over_the_family_and_verdicts_read_the_corrected_ones():
    cells, differences = {}, (-0.0055, -0.0045, 0.0056, 0.02)
    for rank, difference in enumerate(differences, 1):
        cells[f"spectral-r0.{rank}"] = BASE
        cells[f"spectral_ones-r0.{rank}"] = BASE + NOISE + difference
    table = judge(ledger("better", None), rows(cells))
    members = table[table["level"] == "member"]
    raw = [min(1, 2 * upper(-t_of(d, None, 0))) for d in differences]
    against = [min(1, 2 * upper(t_of(d, None, 0))) for d in differences]
    assert members["p"].to_numpy() == pytest.approx(raw)
    assert members["p_corrected"].to_numpy() == pytest.approx(holm(raw))
    assert members["p_against"].to_numpy() == pytest.approx(holm(against))
    assert list(members["verdict"]) == ["inconclusive", "inconclusive", "inconclusive", "refuted"]
    assert against[2] < 0.05 < holm(against)[2]


@pytest.mark.parametrize(
    ("kind", "unit", "value", "verdict", "p", "against"),
    [
        ("better", None, 2.9, "supported", 0.0, 1.0),
        ("better", None, 3.1, "refuted", 1.0, 0.0),
        ("not_worse", "absolute", 3.01, "supported", 0.0, 1.0),
        ("not_worse", "absolute", 3.03, "refuted", 1.0, 0.0),
        ("equivalence", "absolute", 3.01, "supported", 0.0, 1.0),
        ("equivalence", "absolute", 2.9, "supported", 0.0, 1.0),
        ("equivalence", "absolute", 3.03, "refuted", 1.0, 0.0),
    ],
)
def test_an_exact_metric_is_known_and_not_estimated(kind, unit, value, verdict, p, against):
    cells = {"spectral-r0.5": np.full(2, 3.0), "spectral_ones-r0.5": np.full(2, value)}
    row = judge(ledger(kind, unit, exact=True), rows(cells)).iloc[0]
    assert (row["verdict"], row["p"], row["p_against"]) == (verdict, p, against)
    assert row["low"] == row["high"] == row["estimate"] == pytest.approx(value - 3)


def test_one_exact_pair_is_enough_and_no_pair_is_not():
    cells = {"spectral-r0.5": np.array([3.0]), "spectral_ones-r0.5": np.array([2.0])}
    assert judge(ledger("better", None, exact=True), rows(cells)).iloc[0]["verdict"] == "supported"
    apart = rows(cells)
    apart["runs"]["seed"] = [0, 1]
    row = judge(ledger("better", None, exact=True), apart).iloc[0]
    assert (row["verdict"], row["pairs"]) == ("inconclusive", 0)
    assert "no pair of finished runs" in row["note"]
    assert "2 seeds on one side only" in row["note"]


@pytest.mark.parametrize(
    ("kind", "options", "lost", "difference", "verdict"),
    [
        ("better", {}, "arm", -0.03, "inconclusive"),  # the arm diverged: it is not better
        ("better", {}, "reference", -0.03, "supported"),
        ("better", {}, "arm", 0.03, "refuted"),
        ("better", {}, "reference", 0.03, "inconclusive"),
        ("lower", {}, "arm", -0.03, "inconclusive"),  # no side is favoured: neither stands
        ("lower", {}, "reference", -0.03, "inconclusive"),
        ("higher", {}, "reference", -0.03, "inconclusive"),
        ("equivalence", {"better_counts": False}, "reference", 0.0, "inconclusive"),
    ],
)
def test_what_diverged_favours_nobody(kind, options, lost, difference, verdict):
    unit = "absolute" if kind == "equivalence" else None
    table = tables(difference)["runs"].assign(diverged=False)
    arm = "spectral_ones-r0.5" if lost == "arm" else "spectral-r0.5"
    table.loc[(table["cell"] == f"language/{arm}") & (table["seed"] == 1), "diverged"] = True
    row = judge(ledger(kind, unit, **options), {"runs": table}).iloc[0]
    assert row["verdict"] == verdict
    assert (row["pairs"], row["dropped"]) == (4, 1)
    assert f"{lost} diverged at 1 seed" in row["note"]


def test_what_is_settled_is_in_the_unit_of_the_table():
    rows_ = {
        unit: judge(ledger("lower", unit), tables(0.0)).iloc[0] for unit in ("absolute", "relative")
    }
    absolute, relative = (rows_[unit]["smallest_settled"] for unit in ("absolute", "relative"))
    assert absolute > 0
    assert relative == pytest.approx(absolute / 3, rel=0.05)  # losses are about 3


@pytest.mark.parametrize("arm", ["spectral-r0.5", "spectral_ones-r0.5"])
@pytest.mark.parametrize("value", [0.0, -1.0])
def test_ratios_are_of_positive_numbers_on_either_side(arm, value):
    table = tables(0.0)["runs"]
    table.loc[(table["cell"] == f"language/{arm}") & (table["seed"] == 2), "test_loss"] = value
    with pytest.raises(LowrankError, match="must be positive for a relative margin"):
        judge(ledger("lower", "relative"), {"runs": table})
