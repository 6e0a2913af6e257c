"""Groups of arms that tests cannot tell apart, and arms that none beats on every count."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from lowrank.analysis.groups import groups, pareto
from lowrank.analysis.stats import paired_contrasts

SEEDS = range(5)


def runs_of(**values) -> pd.DataFrame:
    """Losses of each arm: a mean of its own, a part that all share by seed, and noise of its own."""
    rng = np.random.default_rng(0)
    shared = rng.normal(size=len(SEEDS))
    return pd.DataFrame(
        [
            {"cell": cell, "seed": seed, "loss": mean + shared[seed] + noise * rng.normal()}
            for cell, (mean, noise) in values.items()
            for seed in SEEDS
        ]
    )


def test_what_is_not_told_from_the_best_stands_with_it_and_the_rest_likewise():
    runs = runs_of(a=(1.0, 0.01), b=(1.0, 0.01), c=(2.0, 0.01), d=(2.005, 0.01), e=(3.0, 0.01))
    found = groups(runs, list("edcba"), "loss", -1)
    assert found == {"a": 1, "b": 1, "c": 2, "d": 2, "e": 3}
    better = groups(runs, list("abcde"), "loss", 1)
    assert better == {"e": 1, "c": 2, "d": 2, "a": 3, "b": 3}


def test_a_noisy_arm_stands_with_the_best_though_a_better_one_does_not():
    """It is not found worse, which is not to say that it is as good."""
    runs = runs_of(a=(1.0, 0.001), b=(1.1, 0.001), c=(1.3, 2.0))
    assert groups(runs, list("abc"), "loss", -1) == {"a": 1, "b": 2, "c": 1}


def test_seeds_are_paired_and_p_is_corrected_over_all_that_is_compared():
    """The shared part is a hundred times the difference; without pairs nothing would be told apart."""
    runs = runs_of(a=(1.0, 0.002), b=(1.01, 0.002))
    assert groups(runs, ["a", "b"], "loss", -1) == {"a": 1, "b": 2}
    p = paired_contrasts(runs, [("b", "a")], "loss")["p"].item()
    assert 0.05 / 20 < p < 0.05
    others = {f"x{n}": (1.0, 0.002) for n in range(20)}
    many = pd.concat([runs, runs_of(**others)])
    assert set(groups(many, ["a", "b", *others], "loss", -1).values()) == {1}


def test_p_is_corrected_over_all_pairs_because_the_best_is_chosen_by_the_same_runs():
    """Four comparisons with the best would find one; ten pairs do not."""
    pattern = np.array([-2.0, -1.0, 0.0, 1.0, 2.0])
    values = {
        "a": 0 * pattern,
        "b": 3.5 + pattern,
        **{name: 0.1 + 99 * np.roll(pattern, n) for n, name in enumerate("cde")},
    }
    runs = pd.DataFrame(
        {"cell": name, "seed": seed, "loss": loss}
        for name, losses in values.items()
        for seed, loss in zip(SEEDS, losses, strict=True)
    )
    tests = paired_contrasts(runs, [(name, "a") for name in "bcde"], "loss")
    assert tests["p_corrected"].min() < 0.05 < 10 / 4 * tests["p_corrected"].min()
    assert groups(runs, list(values), "loss", -1) == dict.fromkeys(values, 1)
    assert groups(runs, ["a", "b"], "loss", -1) == {"a": 1, "b": 2}


@pytest.mark.parametrize("better", [-1, 1])
def test_an_arm_found_worse_on_shared_seeds_stands_below_though_further_seeds_better_its_mean(
    better,
):
    """Five seeds of both, at which a is the worse one, and five of a alone that put its mean first."""
    both = runs_of(a=(2.0, 0.01), b=(1.0, 0.01), c=(1.5, 0.01))
    further = pd.DataFrame({"cell": "a", "seed": range(5, 10), "loss": -9.0})
    runs = pd.concat([both, further])
    runs["loss"] *= -better
    assert groups(runs, list("abc"), "loss", better) == {"b": 1, "c": 2, "a": 3}


def test_where_better_goes_in_a_circle_the_mean_decides_who_comes_first():
    """Each two share seeds that the third lacks."""
    pairs = {0: {"a": 1.0, "b": 2.0}, 5: {"b": 1.0, "c": 1.9}, 10: {"c": 1.0, "a": 2.1}}
    rng = np.random.default_rng(0)
    runs = pd.DataFrame(
        {"cell": cell, "seed": first + n, "loss": loss + rng.normal(0, 0.01)}
        for first, losses in pairs.items()
        for cell, loss in losses.items()
        for n in range(5)
    )
    assert groups(runs, list("abc"), "loss", -1) == {"c": 1, "b": 1, "a": 2}


def test_an_arm_with_a_diverged_run_has_no_group_and_one_seed_tells_nothing():
    runs = runs_of(a=(1.0, 0.01), b=(2.0, 0.01), c=(0.5, 0.01)).assign(diverged=False)
    runs.loc[(runs["cell"] == "c") & (runs["seed"] == 0), ["diverged", "loss"]] = True, np.nan
    assert groups(runs, list("abc"), "loss", -1) == {"a": 1, "b": 2}
    assert groups(runs[runs["seed"] == 1], list("ab"), "loss", -1) == {"a": 1, "b": 1}
    assert groups(runs, [], "loss", -1) == {}


@pytest.mark.parametrize(
    ("costs", "expected"),
    [
        ([[1, 3], [2, 2], [3, 1], [3, 3]], [True, True, True, False]),
        ([[1, 1], [1, 1], [1, 2]], [True, True, False]),
        ([[1, np.nan], [2, 2]], [False, True]),
    ],
)
def test_an_arm_is_on_the_front_where_none_is_at_most_as_costly_and_less_in_something(
    costs, expected
):
    assert pareto(costs).tolist() == expected
