"""The statistics tell the truth on simulated data whose truth is known."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower
from statsmodels.stats.weightstats import ttost_paired

from lowrank.analysis import stats
from lowrank.errors import LowrankError

SIMULATIONS = 3000


def monte_carlo(rate: float, simulations: int = SIMULATIONS) -> float:
    """Four standard deviations of a simulated rate: one honest test in 15,000 falls outside."""
    return 4 * math.sqrt(rate * (1 - rate) / simulations)


def paired_samples(difference: float, pairs: int, seed: int, spread: float = 1.0):
    """Pairs that share a large seed effect, as runs of one seed do; differences have `spread`."""
    rng = np.random.default_rng(seed)
    shared = 10 * rng.standard_normal((SIMULATIONS, pairs))
    noise = spread / math.sqrt(2) * rng.standard_normal((2, SIMULATIONS, pairs))
    return shared + difference + noise[0], shared + noise[1]


@pytest.mark.parametrize("pairs", [2, 3, 8])
@pytest.mark.parametrize("confidence", [0.9, 0.95])
def test_the_interval_covers_the_true_difference_as_often_as_it_says(pairs, confidence):
    a, b = paired_samples(0.7, pairs, seed=pairs)
    found = [stats.paired_difference(x, y, confidence) for x, y in zip(a, b, strict=True)]
    covered = np.mean([d.low <= 0.7 <= d.high for d in found])
    assert abs(covered - confidence) < monte_carlo(confidence)


def test_the_difference_test_has_its_size_and_the_power_of_the_noncentral_t():
    rates = {}
    for truth in (0.0, 1.2):
        a, b = paired_samples(truth, 5, seed=11)
        p = [stats.paired_difference(x, y).p for x, y in zip(a, b, strict=True)]
        rates[truth] = np.mean(np.array(p) < 0.05)
    power = TTestPower().power(1.2, 5, 0.05)
    assert abs(rates[0.0] - 0.05) < monte_carlo(0.05)
    assert abs(rates[1.2] - power) < monte_carlo(power)


def test_the_difference_agrees_with_scipy():
    a, b = paired_samples(0.4, 6, seed=3)
    ours = stats.paired_difference(a[0], b[0])
    theirs = scipy_stats.ttest_rel(a[0], b[0])
    interval = theirs.confidence_interval(0.95)
    assert ours.p == pytest.approx(theirs.pvalue)
    assert (ours.low, ours.high) == pytest.approx((interval.low, interval.high))
    one_sided = scipy_stats.ttest_rel(a[0], b[0], alternative="greater").pvalue
    assert ours.p_above(0.0) == pytest.approx(one_sided)
    assert ours.p_below(0.0) == pytest.approx(1 - one_sided)


def p_within(a, b, margin: float) -> np.ndarray:
    """TOST's p of every simulated study."""
    pairs = zip(a, b, strict=True)
    return np.array([stats.paired_difference(x, y).p_within(margin) for x, y in pairs])


@pytest.mark.parametrize("sign", [-1, 1])
def test_equivalence_is_found_at_the_margin_only_as_often_as_alpha(sign):
    # Far from the other margin TOST has its full size; a truth beyond the margin is found less.
    a, b = paired_samples(sign * 4.0, 5, seed=21)
    assert abs((p_within(a, b, 4.0) < 0.05).mean() - 0.05) < monte_carlo(0.05)


def test_equivalence_is_never_claimed_too_often_when_the_margin_is_narrow():
    a, b = paired_samples(0.5, 5, seed=22)
    assert (p_within(a, b, 0.5) < 0.05).mean() < 0.05 + monte_carlo(0.05)


def test_equivalence_has_power_when_the_truth_is_well_inside_the_margin():
    a, b = paired_samples(0.0, 6, seed=23)
    p = p_within(a, b, 2.0)
    assert (p < 0.05).mean() > 0.9
    for x, y, value in zip(a[:200], b[:200], p, strict=False):
        found = stats.paired_difference(x, y, 0.9)  # the 1 - 2 alpha interval says the same
        assert (value < 0.05) == (found.low > -2.0 and found.high < 2.0)


def test_equivalence_agrees_with_statsmodels():
    a, b = paired_samples(0.3, 6, seed=24)
    theirs = ttost_paired(a[0], b[0], -1.5, 1.5)[0]
    assert stats.paired_difference(a[0], b[0]).p_within(1.5) == pytest.approx(theirs)


@pytest.mark.parametrize("sign", [-1, 1])
def test_noninferiority_has_its_size_at_the_margin_and_power_without_a_loss(sign):
    rates = {}
    for truth in (1.5 * sign, 0.0):
        a, b = paired_samples(truth, 6, seed=31)
        found = [stats.paired_difference(x, y) for x, y in zip(a, b, strict=True)]
        p = [d.p_below(1.5) if sign > 0 else d.p_above(-1.5) for d in found]
        rates[truth == 0] = np.mean(np.array(p) < 0.05)
    assert abs(rates[False] - 0.05) < monte_carlo(0.05)
    assert rates[True] > 0.9


def test_a_known_difference_is_decided_without_a_variance():
    known = stats.Known(**vars(stats.paired_difference([3.0, 4.0], [2.0, 3.0])))
    assert (known.p_above(0.5), known.p_below(0.5)) == (0.0, 1.0)
    assert (known.p_above(1.0), known.p_below(1.0)) == (1.0, 1.0), "beyond means more than equal"
    assert (known.p_within(1.5), known.p_within(1.0)) == (0.0, 1.0)


@pytest.mark.parametrize("true_nulls", [4, 2])
def test_holm_holds_the_family_wise_error_and_beats_bonferroni(true_nulls):
    rng = np.random.default_rng(41)
    # Contrasts that share a reference are correlated; Holm assumes nothing about that.
    z = (rng.standard_normal((SIMULATIONS, 4)) + rng.standard_normal((SIMULATIONS, 1))) / 2**0.5
    z[:, true_nulls:] += 3.0
    p = 2 * scipy_stats.norm.sf(np.abs(z))
    corrected = np.array([stats.holm(row) for row in p])
    wrong = (corrected[:, :true_nulls] < 0.05).any(axis=1).mean()
    assert wrong < 0.05 + monte_carlo(0.05)
    assert (corrected >= p).all()
    assert (corrected <= np.minimum(1, 4 * p) + 1e-12).all()


def test_holm_agrees_with_statsmodels():
    rng = np.random.default_rng(42)
    for size in (1, 2, 5, 9):
        p = rng.uniform(0, 0.1, size)
        assert stats.holm(p) == pytest.approx(multipletests(p, method="holm")[1])


def test_holm_leaves_what_was_not_tested_out_of_the_family():
    corrected = stats.holm([0.01, np.nan, 0.04])
    assert corrected[[0, 2]] == pytest.approx([0.02, 0.04])
    assert np.isnan(corrected[1])
    assert np.isnan(stats.holm([np.nan])).all()
    assert stats.holm([]).shape == (0,)


@pytest.mark.parametrize("pairs", [2, 3, 5, 20])
def test_the_smallest_detectable_effect_agrees_with_statsmodels(pairs):
    ours = stats.smallest_detectable(0.3, pairs)
    power = TTestPower().power(ours / 0.3, pairs, 0.05)
    assert power == pytest.approx(0.8, abs=1e-6)


@pytest.mark.parametrize(("alpha", "power"), [(0.01, 0.99), (0.4, 0.45), (0.3, 0.9)])
def test_effects_are_detectable_at_any_level_and_power(alpha, power):
    """Also where less than a standard error is enough."""
    ours = stats.smallest_detectable(0.3, 6, alpha=alpha, power=power)
    assert TTestPower().power(ours / 0.3, 6, alpha) == pytest.approx(power, abs=1e-6)


def test_the_smallest_detectable_effect_is_detected_four_times_in_five():
    effect = stats.smallest_detectable(1.0, 4)
    a, b = paired_samples(effect, 4, seed=51)
    found = np.mean([stats.paired_difference(x, y).p < 0.05 for x, y in zip(a, b, strict=True)])
    assert abs(found - 0.8) < monte_carlo(0.8)


def test_one_pair_has_an_estimate_and_claims_nothing_else():
    d = stats.paired_difference([3.0], [2.5])
    assert (d.estimate, d.low, d.high, d.pairs) == (0.5, -math.inf, math.inf, 1)
    assert math.isnan(d.p)
    assert math.isnan(d.standard_deviation)
    assert math.isnan(d.p_within(1.0))
    assert stats.smallest_detectable(math.nan, 1) == math.inf


@pytest.mark.parametrize("difference", [0.0, 0.1])
def test_equal_differences_are_not_taken_for_certainty(difference):
    b = np.array([0.91, 1.7, 3.3])
    d = stats.paired_difference(b + difference, b)  # equal only up to rounding
    assert d.standard_deviation == 0
    assert (d.low, d.high) == (-math.inf, math.inf)
    assert math.isnan(d.p)
    assert math.isnan(d.p_above(-1.0))
    assert math.isnan(d.p_within(1.0))
    assert math.isnan(stats.smallest_detectable(0.0, 3))


def test_no_pairs_at_all_give_nothing():
    d = stats.paired_difference([], [])
    assert d.pairs == 0
    assert math.isnan(d.estimate)
    assert math.isnan(d.p)


def test_the_mean_interval_covers_the_mean():
    values = np.random.default_rng(61).normal(2.0, 0.5, size=(SIMULATIONS, 4))
    found = [stats.mean_interval(row) for row in values]
    covered = np.mean([i.low <= 2.0 <= i.high for i in found])
    assert abs(covered - 0.95) < monte_carlo(0.95)
    assert stats.mean_interval([1.0]).high == math.inf


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: stats.paired_difference([1.0, 2.0], [1.0]), "not 2 and 1"),
        (lambda: stats.paired_difference([1.0, math.nan], [1.0, 2.0]), "first values"),
        (lambda: stats.paired_difference([1.0], [1.0], confidence=95), "not 95"),
        (lambda: stats.paired_difference([1.0], [1.0], confidence=1.0), r"not 1\.0"),
        (lambda: stats.mean_interval([1.0, 2.0], confidence=0.0), r"not 0\.0"),
        (lambda: stats.paired_difference([1.0, 2.0], [1.0, math.inf]), "second values"),
        (lambda: stats.mean_interval([[1.0, 2.0]]), "given values must be one row"),
        (lambda: stats.smallest_detectable(1.0, 3, power=0.01), "power 0.01"),
        (lambda: stats.smallest_detectable(1.0, 3, power=0.05), "power 0.05"),
        (lambda: stats.smallest_detectable(1.0, 3, power=1.0), "power 1.0"),
        (lambda: stats.smallest_detectable(1.0, 3, alpha=0.0), "alpha 0.0"),
    ],
)
def test_wrong_input_is_named(call, message):
    with pytest.raises(LowrankError, match=message):
        call()


def runs_table() -> pd.DataFrame:
    rows = [
        ("t/dense", 0, 3.0, False),
        ("t/dense", 1, 3.1, False),
        ("t/dense", 2, 3.3, False),
        ("t/dense", 3, 3.2, False),
        ("t/low", 3, 9.9, True),  # diverged, yet finite
        ("t/low", 2, 3.5, False),
        ("t/low", 0, 3.1, False),
        ("t/low", 1, np.nan, False),
        ("t/low", 7, 3.3, False),  # no partner
        ("t/other", 0, 3.2, False),
        ("t/other", 1, 3.2, False),
        ("t/other", 2, 3.2, False),
    ]
    return pd.DataFrame(rows, columns=["cell", "seed", "test_loss", "diverged"])


def test_contrasts_are_paired_by_seed_whatever_the_order_and_drops_are_counted():
    table = stats.paired_contrasts(
        runs_table(), [("t/low", "t/dense"), ("t/other", "t/dense")], "test_loss"
    )
    assert list(table["pairs"]) == [2, 3]
    assert list(table["dropped"]) == [3, 1]
    low = stats.paired_difference([3.1, 3.5], [3.0, 3.3])
    assert table.loc[0, "estimate"] == pytest.approx(low.estimate)
    assert table.loc[0, "p"] == pytest.approx(low.p)
    assert list(table["p_corrected"]) == pytest.approx(list(stats.holm(table["p"])))
    assert table.loc[0, "smallest_detectable"] == pytest.approx(
        stats.smallest_detectable(low.standard_deviation, 2)
    )


@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_contrasts_have_the_interval_and_the_power_of_their_confidence(confidence):
    table = stats.paired_contrasts(
        runs_table(), [("t/low", "t/dense")], "test_loss", confidence
    ).iloc[0]
    d = stats.paired_difference([3.1, 3.5], [3.0, 3.3], confidence)
    assert (table["low"], table["high"]) == pytest.approx((d.low, d.high))
    assert table["smallest_detectable"] == pytest.approx(
        stats.smallest_detectable(d.standard_deviation, 2, alpha=1 - confidence)
    )
    assert (table["arm"], table["reference"], table["metric"]) == ("t/low", "t/dense", "test_loss")
    assert table["standard_deviation"] == pytest.approx(np.std([0.1, 0.2], ddof=1))


def test_a_run_of_which_nothing_is_known_has_not_diverged():
    a = pd.DataFrame({"seed": [0, 1], "x": [1.0, 2.0], "diverged": [None, True]})
    paired = stats.pair(a, a.drop(columns="diverged"), "x")
    assert (paired.seeds, paired.diverged_a, paired.diverged_b) == ((0,), 1, 0)


def test_values_are_paired_by_seed_though_neither_side_rises_with_it():
    a = pd.DataFrame({"seed": [2, 0, 5], "x": [1.0, 3.0, 2.0]})
    b = pd.DataFrame({"seed": [5, 2, 0], "x": [7.0, 9.0, 8.0]})
    paired = stats.pair(a, b, "x")
    assert paired.seeds == (0, 2, 5)
    assert (paired.a.tolist(), paired.b.tolist()) == ([3.0, 1.0, 2.0], [8.0, 9.0, 7.0])


def test_a_pair_says_which_side_diverged():
    cells = dict(tuple(runs_table().groupby("cell")))
    paired = stats.pair(cells["t/low"], cells["t/dense"], "test_loss")
    assert paired.seeds == (0, 2)
    assert (paired.a.tolist(), paired.b.tolist()) == ([3.1, 3.5], [3.0, 3.3])
    assert (paired.missing, paired.diverged_a, paired.diverged_b, paired.dropped) == (1, 2, 0, 3)


def test_contrasts_of_unknown_cells_metrics_and_doubled_seeds_are_errors():
    runs = runs_table()
    with pytest.raises(LowrankError, match="did you mean 't/dense'"):
        stats.paired_contrasts(runs, [("t/low", "t/dens")], "test_loss")
    with pytest.raises(LowrankError, match="did you mean 'test_loss'"):
        stats.paired_contrasts(runs, [("t/low", "t/dense")], "test_los")
    with pytest.raises(LowrankError, match="Seed 0 has more than one row"):
        stats.paired_contrasts(pd.concat([runs, runs[:1]]), [("t/low", "t/dense")], "test_loss")


def test_a_row_of_no_seed_or_cell_is_no_run():
    runs = pd.DataFrame(
        {"cell": ["a", "a", "b", "b"], "seed": [0, 1, 0, 1], "loss": [1.0, 2, 3, 5]}
    )
    strange = pd.DataFrame({"cell": ["a", None], "seed": [math.nan, 1], "loss": [50.0, 70.0]})
    for rows in (runs, pd.concat([runs, strange]), pd.concat([strange, runs])):
        (row,) = stats.paired_contrasts(rows, [("a", "b")], "loss").to_dict("records")
        assert (row["estimate"], row["pairs"], row["dropped"]) == (-2.5, 2, 0)


def test_no_contrasts_make_an_empty_table_with_the_same_columns():
    table = stats.paired_contrasts(runs_table(), [], "test_loss")
    assert list(table.columns) == stats.CONTRAST_COLUMNS
    assert table.empty


def test_both_sides_of_a_pair_count_their_diverged_seeds():
    sides = [
        pd.DataFrame({"seed": range(5), "x": values})
        for values in ([1, np.nan, 2, 3, 4], [np.nan, 1, np.inf, np.nan, 5])
    ]
    paired = stats.pair(*sides, "x")
    assert (paired.diverged_a, paired.diverged_b, paired.dropped, paired.seeds) == (1, 3, 4, (4,))


def test_seeds_that_either_side_lacks_are_missing():
    a, b = (pd.DataFrame({"seed": s, "x": 1.0}) for s in ([0, 1, 2], [2, 3]))
    for sides in ((a, b), (b, a)):
        paired = stats.pair(*sides, "x")
        assert (paired.missing, paired.seeds, paired.dropped) == (3, (2,), 3)


def test_a_small_spread_of_large_values_is_no_rounding():
    """A millionth of a millionth of the values is ten times what rounding makes of them."""
    found = stats.mean_interval([1e8, 1e8 + 1e-3])
    assert found.standard_deviation == pytest.approx(1e-3 / math.sqrt(2), rel=1e-4)
    assert stats.mean_interval([0.1, 0.1 + 1e-15]).standard_deviation == 0.0


def test_differences_that_are_equal_but_for_the_rounding_of_their_values_have_no_interval():
    """The difference 0.1 of values near 100,000 is known to 1e-11 alone."""
    base = np.array([100_000.3, 3.7, 0.1])
    found = stats.paired_difference(base + 0.1, base)
    assert np.ptp((base + 0.1) - base) > 0
    assert (found.standard_deviation, found.low, found.high) == (0.0, -math.inf, math.inf)
    assert math.isnan(found.p)
