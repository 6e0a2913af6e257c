"""The leaderboard: which arms are on which board, in which order, and what stands beside them."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from lowrank.analysis.groups import groups
from lowrank.plot import leaderboard, read_results


@pytest.fixture(scope="module")
def board(tables):
    """The numbers of the language track."""
    results = read_results(tables, "language")
    return results, leaderboard.draw(results)[1]


def test_each_budget_and_rank_is_a_board_with_dense_on_it(board):
    _, table = board
    shown = table.numbers.groupby(["board_budget", "board_rank"], sort=False)
    assert list(shown.groups) == [("steps", 0.25), ("steps", 0.5), ("flops", 0.25)]
    for (budget, rank), rows in shown:
        assert (rows["init"] == "dense").sum() == 1
        low = rows[rows["init"] != "dense"]
        assert set(low["budget"]) == {budget} and set(low["rank_fraction"]) == {rank}


def test_rows_stand_by_group_then_by_quality_and_diverged_arms_last(board):
    results, table = board
    for _, rows in table.numbers.groupby(["board_budget", "board_rank"], sort=False):
        found = groups(results.study("methods"), list(rows["cell"]), "test_loss", -1)
        assert rows["group"].tolist() == pytest.approx(
            [found.get(c, np.nan) for c in rows["cell"]], nan_ok=True
        )
        assert rows["group"].isna().tolist() == sorted(rows["group"].isna())
        for _, group in rows.groupby("group"):
            assert group["test_loss"].is_monotonic_increasing
    lost = table.numbers[table.numbers["diverged"] > 0]
    assert list(lost["method"]) == ["galore"] and not lost["front"].any()


def test_costs_are_those_of_the_runs_and_the_front_follows_from_them(board):
    results, table = board
    runs = results.study("methods")
    for row in table.numbers.itertuples():
        own = runs[runs["cell"] == row.cell]
        assert row.state_bytes == own["state_bytes"].mean()
        assert row.step_seconds == pytest.approx(
            own.loc[~own["diverged"], "train_seconds"].mean() / row.steps
        )
    for _, rows in table.numbers.groupby(["board_budget", "board_rank"]):
        costs = rows[["test_loss", "state_bytes", "training_flops"]].to_numpy()
        less, at_most = ((costs[:, None] < costs).any(2), (costs[:, None] <= costs).all(2))
        beaten = (less & at_most).any(0)
        known = np.isfinite(costs).all(1) & (rows["diverged"] == 0)
        assert rows["front"].tolist() == (known & ~beaten).tolist()
        assert (known & beaten).any()
        assert rows["front"].any()


def test_methods_are_called_as_their_papers_call_them_with_what_else_is_theirs(board):
    _, table = board
    assert {"dense", "U V^T", "refactorisation", "GaLore", "self-guided", "spectral + Frobenius",
            "ReLoRA, 25 % dense first"} == set(table.numbers["label"])  # fmt: skip
    row = SimpleNamespace(init="he", method="mine_own", varied="init,method", pretraining=0.0)
    assert leaderboard.method_label(row) == "mine own, He"
    row.swept = "decay_strength"
    assert leaderboard.method_label(row) == "mine own, He, strength tuned"


def test_an_arm_far_behind_is_a_number_at_the_edge(tables):
    results = read_results(tables, "language")
    runs = results.table("runs")
    far = runs["cell"].eq("language/spectral-r0.25-refactorize")
    results._read["runs"] = runs.assign(test_loss=np.where(far, 99.0, runs["test_loss"]))
    figure, _ = leaderboard.draw(results)
    ax = figure.axes[0]
    assert [text.get_text() for text in ax.texts] == ["99.000"]
    assert ax.get_xlim()[1] < 10


def test_tables_without_measured_memory_are_drawn_with_dashes(tables):
    results = read_results(tables, "language")
    results._read["runs"] = results.table("runs").drop(columns="peak_memory_bytes")
    _, table = leaderboard.draw(results)
    shown = table.shown()
    assert isinstance(shown, pd.DataFrame) and set(shown["peak memory (MB)"]) == {"–"}
