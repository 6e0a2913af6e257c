"""A family of tests errs no more often than it says, where nothing is true that a verdict could say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.special import stdtr

from lowrank.analysis import compare
from lowrank.analysis.claims import _aggregate
from lowrank.analysis.groups import groups
from lowrank.analysis.ledger import ClaimTest, read_ledger
from lowrank.analysis.stats import Difference, holm

ROOT = Path(__file__).parents[2]
ALPHA, MARGIN, SEEDS, TRIALS = 0.05, 1.0, 5, 1500
MOST = ALPHA + 3 * (ALPHA * (1 - ALPHA) / TRIALS) ** 0.5
"""What a share of ALPHA is below in all but one of a thousand such simulations."""


def test_of(kind: str, **others: object) -> ClaimTest:
    """A test of this kind; which arms it is about is of no account here."""
    sides = {"arm": {"init": "he"}, "reference": {"init": "spectral"}}
    margin = {} if kind in ("better", "lower") else {"margin": "m"}
    values = {"tasks": ["language"], "metric": "test_loss", "kind": kind, **sides, **margin}
    return ClaimTest.model_validate({**values, **others})


test_of.__test__ = False  # type: ignore[attr-defined]


def verdicts(
    test: ClaimTest,
    truth: list[float],
    correct: Callable[[Sequence[float]], np.ndarray] = holm,
) -> list[list[str]]:
    """The verdicts on contrasts whose true differences are these, in many studies; the contrasts of a study share
    a part of their noise, as those that share an arm do."""
    rng = np.random.default_rng(0)
    own = rng.normal(size=(TRIALS, len(truth), SEEDS)) + 0.5 * rng.normal(size=(TRIALS, 1, SEEDS))
    found = []
    for study in own + np.array(truth)[:, None]:
        means, spreads = study.mean(1), study.std(1, ddof=1)
        raw = [
            compare.p_values(
                test, Difference(m, m, m, s, SEEDS, 1.0), MARGIN if test.margin else 0.0
            )
            for m, s in zip(means, spreads, strict=True)
        ]
        support, against = (correct(p) for p in zip(*raw, strict=True))
        found.append(
            [
                "supported" if p < ALPHA else "refuted" if q < ALPHA else "inconclusive"
                for p, q in zip(support, against, strict=True)
            ]
        )
    return found


def share(studies: list[list[str]], verdict: str) -> float:
    """In how many studies one contrast or more has a verdict."""
    return float(np.mean([verdict in study for study in studies]))


KINDS = {
    "better": (test_of("better"), 0.0),
    "not worse": (test_of("not_worse"), -MARGIN),
    "as well as": (test_of("equivalence"), -MARGIN),
    "equivalent": (test_of("equivalence", better_counts=False), -MARGIN),
    "equivalent, at the other end": (test_of("equivalence", better_counts=False), MARGIN),
}
"""Each with the true difference at which it most easily errs."""


@pytest.mark.parametrize("kind", KINDS)
def test_no_contrast_of_a_family_is_falsely_supported_or_refuted_more_often_than_alpha(kind):
    test, edge = KINDS[kind]
    studies = verdicts(test, [edge] * 4)
    assert share(studies, "supported") <= MOST
    assert share(studies, "refuted") <= MOST


def test_nor_where_other_contrasts_of_the_family_are_truly_as_the_claim_says():
    test, edge = KINDS["better"]
    studies = verdicts(test, [9.0, 9.0, edge, edge])
    assert share(studies, "supported") > 0.99
    assert share([study[2:] for study in studies], "supported") <= MOST


def uncorrected(rule: str, truth: list[float]) -> float:
    """How often a test without correction says supported."""
    studies = verdicts(KINDS["better"][0], truth, np.asarray)
    return float(np.mean([_aggregate(study, rule) == "supported" for study in studies]))


def test_that_all_hold_needs_no_correction_and_that_one_does_needs_it():
    """A claim about every contrast is true or false by its worst, one about any by chance of the best."""
    edge = KINDS["better"][1]
    assert 0.01 < uncorrected("every", [9.0, 9.0, 9.0, edge]) <= MOST
    assert uncorrected("any", [edge] * 4) > 1.3 * MOST


def p_values(differences: np.ndarray) -> np.ndarray:
    """Two-sided p of each row of paired differences."""
    n = differences.shape[-1]
    return 2 * stdtr(n - 1, -abs(differences.mean(-1)) / differences.std(-1, ddof=1) * n**0.5)


def test_a_second_look_errs_as_often_as_the_manual_says():
    differences = np.random.default_rng(0).normal(size=(100_000, 10))
    first, second = p_values(differences[:, :5]) < ALPHA, p_values(differences) < ALPHA
    assert (first | second).mean() == pytest.approx(0.0865, abs=0.002)


def test_equal_arms_are_told_apart_no_more_often_than_alpha_though_the_best_is_chosen_by_the_same_runs():
    """At an alpha of 20 %, which few studies suffice for; comparisons with the best alone err in over 27 %."""
    studies, alpha = 250, 0.2
    rng = np.random.default_rng(0)
    names = list("abcdef")
    index = pd.MultiIndex.from_product([names, range(SEEDS)], names=["cell", "seed"])
    runs = index.to_frame(index=False)
    apart = sum(
        max(groups(runs.assign(loss=losses), names, "loss", -1, alpha).values()) > 1
        for losses in rng.normal(size=(studies, len(runs)))
    )
    assert 0 < apart / studies <= alpha


@pytest.mark.parametrize("ledger", ["claims", "field"])
def test_the_manual_says_of_every_claim_what_its_family_is(ledger):
    text = (ROOT / "docs/method.md").read_text(encoding="utf-8")
    families = text[text.index("## Families of tests") :]
    for claim in read_ledger(ROOT / f"config/{ledger}.yaml").claims:
        assert f"| `{claim.id}` |" in families, claim.id
