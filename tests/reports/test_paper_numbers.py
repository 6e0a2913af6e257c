"""The numbers of the report: ours beside the paper's, in the paper's unit and with the right sign."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pytest
from scipy.stats import t as student

from lowrank.analysis.ledger import Ledger, read_ledger
from lowrank.parquet import write_table
from lowrank.reports import paper
from lowrank.reports.numbers import at_edges, beside, beside_counted, percentages

ROOT = Path(__file__).parents[2]


def ledger(*numbers: tuple[str, str, str, float]) -> Ledger:
    keys = ("track", "arm", "metric", "value")
    test = {
        "tasks": ["language"],
        "metric": "test_loss",
        "kind": "lower",
        "arm": {"init": "a"},
        "reference": {"init": "b"},
    }
    claim = {"id": "c", "statement": "s", "verified": True, "tests": [test]}
    entries = [dict(zip(keys, number, strict=True)) for number in numbers]
    return Ledger.model_validate({"margins": {}, "paper": entries, "claims": [claim]})


def runs(track: str, **values) -> pd.DataFrame:
    """Three seeds of a dense and of a low-rank arm."""
    column = "test_perplexity" if track == "language" else "test_accuracy"
    return pd.DataFrame(
        {"track": track, "arm": arm.replace("low", "spectral-r0.5"), "seed": seed, column: value}
        for arm, entries in values.items()
        for seed, value in enumerate(entries)
    )


def test_a_higher_perplexity_than_dense_is_a_gap_above_zero_in_nats():
    numbers = ledger(
        ("language", "dense", "perplexity", 40.0), ("language", "spectral-r0.5", "perplexity", 44.0)
    )
    table = runs("language", dense=[20.0, 21.0, 22.0], low=[30.0, 33.0, 36.0])
    dense, low = beside(numbers, table)
    assert (dense["gap"], dense["our_gap"]) == (None, None)
    assert low["gap"] == pytest.approx(math.log(44 / 40))
    assert (low["unit"], low["digits"]) == ("nats", 3)
    ours = [math.log(x) for x in (30, 33, 36)]
    base = [math.log(x) for x in (20, 21, 22)]
    assert low["our_gap"] == pytest.approx(sum(ours) / 3 - sum(base) / 3)
    assert low["our_gap"] > 0
    half = student.ppf(0.975, 2) * pd.Series(ours).std() / math.sqrt(3)
    mean = sum(ours) / 3
    assert low["ours"] == pytest.approx([math.exp(x) for x in (mean, mean - half, mean + half)])


def test_a_lower_accuracy_than_dense_is_a_gap_below_zero_in_points():
    numbers = ledger(
        ("large-images", "dense", "top-1 (%)", 76.0),
        ("large-images", "spectral-r0.5", "top-1 (%)", 75.5),
    )
    table = runs("large-images", dense=[0.9, 0.8, 0.85], low=[0.7, 0.75, 0.77])
    _, low = beside(numbers, table)
    assert low["gap"] == pytest.approx(-0.5)
    assert (low["unit"], low["digits"]) == ("points", 2)
    assert low["our_gap"] == pytest.approx(74 - 85)
    assert low["ours"][0] == pytest.approx(74)
    assert low["ours"][1] < 74 < low["ours"][2]


def test_an_interval_of_a_mean_ends_where_the_metric_does_and_one_seed_has_none():
    numbers = ledger(("large-images", "dense", "top-1 (%)", 76.0))
    [dense] = beside(numbers, runs("large-images", dense=[0.2, 0.98, 0.9]))
    assert dense["ours"][1:] == [0.0, 100.0]
    [dense] = beside(numbers, runs("large-images", dense=[0.5]))
    assert dense["ours"][0] == 50.0 and all(map(math.isnan, dense["ours"][1:]))


def test_margins_are_in_the_unit_of_the_metric_that_they_are_asked_of():
    read = read_ledger(ROOT / "config/claims.yaml")
    assert {name: paper.margin_words(read, name) for name in read.margins} == {
        "language-loss": "0.025 nats/token",
        "vision-accuracy": "0.5 points",
        "language-interaction": "0.0125 nats/token",
        "vision-interaction": "0.25 points",
        "memory": "5 %",
        "twice": "2 ×",
    }


def test_differences_to_dense_in_per_cent_stand_beside_the_papers():
    numbers = ledger(
        ("language", "dense", "perplexity", 40.0),
        ("language", "spectral-r0.5", "perplexity", 42.0),
    )
    scales = {
        "small": runs("language", dense=[20.0, 22.0], low=[30.0, 33.0]),
        "none": runs("language", dense=[20.0, 22.0], low=[]),
    }
    (row,) = percentages(numbers, scales).to_dict("records")
    assert row["the paper"] == "+5.0 %"
    assert (row["small"], row["none"]) == ("+50.0 %", "–")
    accuracy = ledger(
        ("large-images", "dense", "top-1 (%)", 80.0),
        ("large-images", "spectral-r0.5", "top-1 (%)", 76.0),
    )
    table = runs("large-images", dense=[0.8, 0.8], low=[0.6, 0.6])
    (row,) = percentages(accuracy, {"small": table}).to_dict("records")
    assert (row["the paper"], row["small"]) == ("−5.0 %", "−25.0 %")


def test_a_gap_needs_a_dense_model_of_the_same_track_and_runs_that_ended():
    numbers = ledger(
        ("language", "dense", "perplexity", 40.0),
        ("large-images", "spectral-r0.5", "top-1 (%)", 75.5),
    )
    _, low = beside(numbers, runs("large-images", low=[0.7, math.nan, 0.8]))
    assert low["gap"] is None
    assert low["our_gap"] is None
    assert low["ours"][0] == pytest.approx(75)
    both = ledger(
        ("language", "dense", "perplexity", 40.0), ("language", "spectral-r0.5", "perplexity", 44.0)
    )
    _, alone = beside(both, runs("language", low=[30.0, 31.0]))
    assert alone["gap"] == pytest.approx(math.log(1.1)) and alone["our_gap"] is None
    dense, low = beside(numbers, runs("language", low=[30.0]))
    assert dense["ours"] is low["ours"] is None


def test_a_tracks_facts_are_its_runs_and_its_dense_models():
    table = pd.DataFrame(
        {
            "track": ["language"] * 3 + ["small-images"],
            "arm": ["dense", "dense", "he-r0.5", "dense"],
            "cell": ["language/dense"] * 2 + ["language/he-r0.5", "small-images/dense"],
            "seed": [0, 1, 0, 0],
            "diverged": [False, True, None, False],
            "train_seconds": [2.0, 4.0, 10.0, 100.0],
            "training_flops": [1.0, 3.0, 20.0, 300.0],
            "parameters": [7, 7, 5, 9],
            "dense_parameters": [7, 7, 7, 9],
            "data_digest": ["b", "a", "b", "c"],
            "device": ["x", "x", "y", None],
            "finished_at": [
                "2020-01-02T00:00:00",
                "2021-03-04T05:06:07",
                "2020-01-01",
                "2019-01-01",
            ],
        }
    )
    facts = paper._track(table, "language")
    assert facts == {
        "runs": 3,
        "seconds": 16.0,
        "parameters": 7,
        "training_flops": 2.0,
        "run_seconds": 3.0,
        "digests": ["a", "b"],
    }
    low_rank_alone = table[table["arm"] == "he-r0.5"]
    assert paper._track(low_rank_alone, "language")["parameters"] == 7
    assert paper._track(low_rank_alone, "small-images") == {
        **dict.fromkeys(("parameters", "training_flops", "run_seconds")),
        "runs": 0,
        "seconds": 0.0,
        "digests": [],
    }
    summary = paper._summary(table)
    assert {key: summary[key] for key in ("count", "cells", "seeds", "diverged", "seconds", "flops")} == {
        "count": 4, "cells": 3, "seeds": 2, "diverged": 1, "seconds": 116.0, "flops": 324.0,
    }  # fmt: skip
    assert summary["finished"] == "2021-03-04"
    assert summary["device"] == ["x", "y"]
    assert summary["torch"] == []


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"kind": "l2", "coupled": True, "strength": None}, "l2 coupled"),
        ({"kind": "frobenius", "coupled": False, "strength": 0.05}, "frobenius 0.05"),
        ([{"kind": "none", "coupled": True}, {"kind": "l2"}], "none coupled, l2"),
        ((0.1, 2), "0.1, 2"),
        ((), "none"),
        (True, "yes"),
        (False, "no"),
        (1e-05, "1e-05"),
        (128, "128"),
    ],
)
def test_settings_are_said_in_words(value, text):
    assert paper._text(value) == text


def test_what_is_missing_or_not_finite_is_null():
    values = {"a": [1.0, math.nan, (math.inf,)], "b": pd.NA, "c": pd.Series([3]).iloc[0], "d": "x"}
    assert paper._plain(values) == {"a": [1.0, None, [None]], "b": None, "c": 3, "d": "x"}


def test_n_grams_stand_beside_the_arms_that_are_worse_than_bigrams():
    arms = {"dense": 3.0, "low": 3.4, "he": 3.6, **{f"x{k}": 3.7 + k for k in range(5)}}
    text = pd.DataFrame(
        {"track": "language", "arm": arm, "test_loss": [loss - 0.1, loss + 0.1]}
        for arm, loss in arms.items()
    ).explode("test_loss")
    text["test_loss"] = text["test_loss"].astype(float)
    few = text[~text["arm"].str.startswith("x")]
    images = pd.DataFrame({"track": "small-images", "arm": ["low"], "test_loss": [9.0]})
    counted = pd.DataFrame(
        {"track": "language", "model": ["unigram", "bigram"], "test_loss": [5.0, 3.5]}
    )
    scales = {"a": pd.concat([few, images]), "b": text, "none": images}
    first, second = beside_counted(scales, {"a": counted, "b": counted}).to_dict("records")
    assert first == {
        **{"scale": "a", "track": "language", "dense": "3.000", "unigram": "5.000"},
        **{"bigram": "3.500", "arms worse than bigrams": "1 of 3 (he)"},
    }
    assert second["arms worse than bigrams"] == "6 of 8"
    assert beside_counted(scales, {}).empty


def test_choices_at_an_edge_are_counted_by_sweep(tmp_path):
    rates = pd.DataFrame(
        {"group": ["a", "a", "b", "b", "c"], "at_edge": [True, True, False, False, True]}
    )
    paths = {name: tmp_path / f"{name}.parquet" for name in ("one", "sound", "empty", "gone")}
    write_table(paths["one"], rates)
    write_table(paths["sound"], rates[rates["group"] == "b"])
    write_table(paths["empty"], pd.DataFrame())
    assert at_edges(paths) == (
        "Choices at an edge of what their sweep tried, beyond which better may lie: one 2 of 3."
    )
    assert at_edges({"sound": paths["sound"]}) == ""
