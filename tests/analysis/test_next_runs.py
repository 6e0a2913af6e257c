"""What would change our mind: the cheapest undecided contrast of each claim, with its price."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from test_claims_numbers import BASE, NOISE, judge, ledger, rows

from lowrank.analysis.next_runs import next_runs
from lowrank.analysis.power import pairs_needed

HARD = 3 * NOISE + 0.01


def tables(*differences: np.ndarray, seconds: float = 60.0) -> dict[str, pd.DataFrame]:
    cells = {}
    for index, difference in enumerate(differences, 1):
        cells[f"spectral-r0.{index}"] = BASE
        cells[f"spectral_ones-r0.{index}"] = BASE + difference
    table = rows(cells)["runs"]
    return {"runs": table.assign(train_seconds=seconds, threads="2")}


@pytest.mark.parametrize(
    ("kind", "unit", "effect"),
    [
        ("equivalence", "absolute", 0.02 - 0.01),
        ("not_worse", "absolute", 0.02 - 0.01),
        ("better", None, 0.01),
        ("lower", "absolute", 0.02 + 0.01),
    ],
)
def test_the_pairs_needed_settle_how_far_the_estimate_lies_from_what_it_would_have_to_pass(
    kind, unit, effect
):
    judged = judge(ledger(kind, unit), tables(HARD))
    row = judged.iloc[0]
    if row["verdict"] != "inconclusive":
        assert pd.isna(row["pairs_needed"])
        return
    expected = pairs_needed(kind, effect, HARD.std(ddof=1), 0.05)
    assert row["pairs_needed"] == expected


def test_a_pair_costs_the_processor_time_of_its_cells():
    row = judge(ledger("equivalence", "absolute"), tables(HARD)).iloc[0]
    assert row["seconds_a_pair"] == pytest.approx(2 * 2 * 60.0)
    unknown = {"runs": tables(HARD)["runs"].drop(columns="train_seconds")}
    assert math.isnan(judge(ledger("equivalence", "absolute"), unknown).iloc[0]["seconds_a_pair"])


def test_the_cheapest_undecided_contrast_of_a_claim_is_named_with_its_price():
    judged = judge(
        ledger("equivalence", "absolute"), tables(HARD, 2 * HARD - 0.01, NOISE / 10), scale="s"
    )
    undecided = judged[judged["verdict"].eq("inconclusive") & judged["level"].eq("member")]
    assert len(undecided) == 2
    found = next_runs(judged)
    row = undecided.loc[undecided["pairs_needed"].astype(int).idxmin()]
    assert list(found["contrast"]) == [f"{row['arm']} against {row['reference']}"]
    assert found.loc[0, "where"] == "s: language"
    assert (found.loc[0, "seeds"], found.loc[0, "needed"]) == (5, row["pairs_needed"])
    more = row["pairs_needed"] - 5
    assert found.loc[0, "core_minutes"] == pytest.approx(more * 240 / 60)


def test_what_is_decided_needs_no_further_run():
    assert next_runs(judge(ledger("equivalence", "absolute"), tables(NOISE / 10))).empty
    assert next_runs(judge(ledger("equivalence", "absolute"), {})).empty
