"""The numbers of figures: means over seeds that count, references of the right row, laws and spectra."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from lowrank.experiment.metrics import TASKS
from lowrank.parquet import write_table
from lowrank.plot import decay, scaling, spectra, summary, table
from lowrank.plot.results import Results, quality

LANGUAGE, IMAGES = quality(TASKS["language"]), quality(TASKS["images"])


def row(**fields) -> SimpleNamespace:
    return SimpleNamespace(**fields)


def text_of(column: table.Column, **fields) -> str:
    return column.text(row(**fields))


# Summaries


RUNS = pd.DataFrame(
    {
        "cell": ["t/a", "t/a", "t/a", "t/b"],
        "arm": ["a", "a", "a", "b"],
        "seed": [0, 1, 2, 0],
        "loss": [1.0, 3.0, np.nan, 5.0],
        "train_seconds": [10.0, 20.0, 90.0, 7.0],
        "kept_parameters": [0.5, 0.5, 0.5, 1.0],
        "training_flops": [8.0, 8.0, 2.0, 9.0],
        "diverged": [False, False, True, None],
        "diverged_at": [np.nan, np.nan, 4.0, np.nan],
    }
)


def test_a_summary_has_a_row_a_cell_in_the_order_of_the_runs():
    """Costs are means over all runs; seconds and metrics over those that did not diverge."""
    found = summary.summarise(RUNS.iloc[::-1], ["loss", "absent"])
    assert list(found["cell"]) == ["t/b", "t/a"]
    a = found.set_index("cell").loc["t/a"]
    assert (a["seeds"], a["diverged"], a["diverged_at"]) == (2, 1, 4.0)
    assert a["loss"] == 2.0
    assert a["loss_high"] == pytest.approx(14.7062047)
    assert a["loss_low"] == 0.0  # a loss is not negative
    assert math.isnan(a["absent"])
    assert a["train_seconds"] == 15.0
    assert a["training_flops"] == 6.0
    assert a["kept_parameters"] == 0.5
    b = found.set_index("cell").loc["t/b"]
    assert (b["seeds"], b["diverged"], b["loss"]) == (1, 0, 5.0)
    assert math.isnan(b["loss_low"]) and math.isnan(b["loss_high"])


@pytest.mark.parametrize(
    ("metric", "least", "most"),
    [("x", -10.7062047, 14.7062047), ("test_loss", 0.0, 14.7062047), ("test_accuracy", 0.0, 1.0)],
)
def test_an_interval_ends_where_its_metric_does(metric, least, most):
    assert summary.interval([1.0, 3.0], metric) == pytest.approx((2.0, least, most))


def test_a_summary_may_be_of_other_groups():
    runs = RUNS.assign(method=["x", "y", "x", "y"])
    found = summary.summarise(runs, ["loss"], keys=["method"])
    assert list(found["method"]) == ["x", "y"]
    assert found["loss"].tolist() == [1.0, 4.0]


@pytest.fixture
def results(tmp_path):
    """A folder of contrasts of two studies, metrics and widths."""
    rows = [
        ("init", "test_loss", "language/low", "language/dense", 0.1, 0.01),
        ("init", "test_loss", "language/low-w8", "language/dense-w8", 0.2, 0.02),
        ("init", "test_loss", "language/low-w8", "language/dense", 0.3, 0.03),
        ("init", "effective_rank", "language/low", "language/dense", 9.0, 0.9),
        ("other", "test_loss", "language/low", "language/dense", 7.0, 0.7),
    ]
    contrasts = pd.DataFrame(
        [
            {"track": "language", "study": study, "metric": metric, "arm": arm, "reference": reference, "estimate": value, "low": value - 1, "high": value + 1, "p": 0.5, "p_corrected": p}
            for study, metric, arm, reference, value, p in rows
        ]
    )  # fmt: skip
    write_table(tmp_path / "contrasts.parquet", contrasts)
    runs = pd.DataFrame({"track": ["language"], "family": ["gpt2"]})
    write_table(tmp_path / "runs.parquet", runs)
    return Results(tmp_path, "language")


CELLS = pd.DataFrame(
    {
        "cell": [f"language/{arm}" for arm in ("dense", "low", "dense-w8", "low-w8")],
        "init": ["dense", "spectral"] * 2,
        "width": [16, 16, 8, 8],
    }
)


def compared(results, **options) -> pd.DataFrame:
    found = summary.compare(CELLS, results, "init", "gap", lambda r: r.init == "dense", **options)
    return found.set_index("cell")[["gap", "gap_low", "gap_high", "gap_p"]]


def test_a_difference_is_the_contrast_of_that_study_metric_and_reference(results):
    found = compared(results, within="width")
    assert found.loc["language/low"].tolist() == pytest.approx([0.1, -0.9, 1.1, 0.01])
    assert found.loc["language/low-w8"].tolist() == pytest.approx([0.2, -0.8, 1.2, 0.02])
    assert found.loc["language/dense"].isna().all()
    other = compared(results, within="width", metric="effective_rank")
    assert other.loc["language/low", "gap"] == 9.0
    assert other.loc["language/low-w8"].isna().all()


def test_a_reference_may_belong_to_another_study(results):
    among = CELLS[CELLS["cell"] == "language/dense"]
    found = compared(results, among=among)
    assert found.loc["language/low-w8", "gap"] == pytest.approx(0.3)


def test_where_nothing_was_compared_there_is_no_number(tmp_path):
    found = compared(Results(tmp_path, "language"))
    assert found.isna().all(axis=None)


def test_a_course_has_the_mean_and_interval_over_seeds_at_each_step():
    rows = pd.DataFrame(
        {"step": [1, 1, 5, 5, 5], "seed": [0, 1, 0, 1, 1], "x": [1.0, 3.0, 2.0, 8.0, np.inf]}
    )
    steps, mean, low, high = summary.trajectory(rows, "x")
    assert steps.tolist() == [1.0, 5.0]
    assert mean.tolist() == [2.0, 5.0]
    assert (high - mean).tolist() == pytest.approx([12.7062047, 3 * 12.7062047], rel=1e-6)
    assert (mean - low).tolist() == pytest.approx((high - mean).tolist())
    rows["x"] = [1.0, 4.0, 2.0, 8.0, 0.0]
    _, mean, low, high = summary.trajectory(rows, "x", geometric=True)
    assert mean.tolist() == pytest.approx([2.0, 4.0])
    assert (np.log(high) - np.log(mean)).tolist() == pytest.approx(
        (np.log(mean) - np.log(low)).tolist()
    )


def test_decays_stand_in_the_order_of_their_colours_the_full_rate_before_lower_ones():
    arms = [("l2", 0.5), ("none", 1.0), ("frobenius", 1.0), ("l2", 1.0)]
    runs = pd.DataFrame(
        {
            "cell": [f"t/low-{decay}-{rate:g}" for decay, rate in arms],
            "arm": [f"low-{decay}" for decay, _ in arms],
            "seed": 0,
            "decay": [decay for decay, _ in arms],
            "decay_coupled": False,
            "decay_strength": None,
            "rate_factor": [rate for _, rate in arms],
            "test_loss": [1.0, 2.0, 3.0, 4.0],
            "effective_rank": [5.0, 6.0, 7.0, 8.0],
        }
    )
    named = [summary.decay_label(row) for row in runs.itertuples()]
    order = dict.fromkeys([named[2], named[0], named[1]])
    given = SimpleNamespace(quality=LANGUAGE, decays=order, study=lambda name: runs)
    found = summary.decays(given)
    assert found["test_loss"].tolist() == [3.0, 4.0, 1.0, 2.0]
    assert found["effective_rank"].tolist() == [7.0, 8.0, 5.0, 6.0]
    assert found["label"].tolist() == [named[i] for i in (2, 0, 0, 1)]
    assert list(found.index) == [0, 1, 2, 3]
    assert next(iter(found.columns)) == "label"
    assert "place" not in found


# Fields


@pytest.mark.parametrize(
    ("value", "digits", "shown"),
    [(1.25, 1, "1.2"), (-0.004, 2, "0.00"), (-1.5, 1, "−1.5"), (1e6, 2, "1e6"), (999999.4, 0, "999999"), (math.nan, 2, "–"), (math.inf, 2, "–"), (-2.5e7, 1, "−2.5e7")],
)  # fmt: skip
def test_numbers(value, digits, shown):
    assert table.number(value, digits) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.00123, "0.00123"), (2.734e8, "2.73e8"), (-1.5e-7, "−1.5e−7"), (0.0, "0"), (math.nan, "–"), (1.5e-12, "1.5e−12")],
)  # fmt: skip
def test_significant_digits(value, shown):
    assert table.significant(value) == shown


def test_an_estimate_shows_half_of_its_interval_in_the_shown_unit():
    column = table.estimate("accuracy", "a", 1, factor=100.0)
    assert text_of(column, a=0.5, a_low=0.45, a_high=0.55) == "50.0 ± 5.0"
    assert text_of(column, a=0.5, a_low=math.nan, a_high=math.nan) == "50.0"
    assert text_of(table.estimate("loss", "a"), a=0.5, a_low=0.45, a_high=0.55) == "0.500 ± 0.050"


def test_a_difference_is_starred_below_five_per_cent():
    column = table.difference("gap", "g", 2, factor=100.0)
    fields = {"g": -0.012, "g_low": -0.02, "g_high": -0.004}
    assert text_of(column, **fields, g_p=0.049) == "−1.20 [−2.00, −0.40]*"
    assert text_of(column, **fields, g_p=0.05) == "−1.20 [−2.00, −0.40]"
    assert text_of(table.difference("gap", "g"), **fields, g_p=1.0) == "−0.012 [−0.020, −0.004]"
    assert text_of(column, g=0.5, g_low=-math.inf, g_high=math.inf, g_p=math.nan) == "50.00"
    assert text_of(column, g=math.nan, g_low=0.0, g_high=0.0, g_p=0.0) == "–"
    for ends in ((-math.inf, 1.0), (0.0, math.inf)):
        fields = {"g": 0.5, "g_low": ends[0], "g_high": ends[1]}
        assert text_of(column, **fields, g_p=math.nan) == "50.00"


def test_counts_orders_and_plain_numbers():
    assert text_of(table.count("n", "n"), n=1234567.0) == "1,234,567"
    assert text_of(table.count("n", "n"), n=math.nan) == "–"
    assert text_of(table.order("n", "n"), n=1234567.0) == "1.23e6"
    assert text_of(table.plain("n", "n", 1, 100.0), n=0.123) == "12.3"
    assert text_of(table.plain("n", "n"), n=0.12345) == "0.12"
    assert text_of(table.words("w", "w"), w=None) == "–"
    assert text_of(table.words("w", lambda r: r.w + "!"), w="a") == "a!"


def test_diverged_seeds_are_told_apart_with_the_first_step():
    assert table.seeds(row(seeds=3, diverged=0, diverged_at=math.nan)) == "3"
    assert table.seeds(row(seeds=2, diverged=1, diverged_at=7.0)) == "2 (1 diverged at step 7)"
    assert table.seeds(row(seeds=2, diverged=1, diverged_at=math.nan)) == "2 (1 diverged)"


# Scaling


def test_laws_are_fitted_to_losses_and_to_shares_of_errors():
    values = pd.Series([0.25, 0.75])
    assert scaling._fitted(LANGUAGE, values).tolist() == [0.25, 0.75]
    assert scaling._fitted(IMAGES, values).tolist() == [0.75, 0.25]


@pytest.mark.parametrize("quality", [LANGUAGE, IMAGES])
def test_a_law_needs_four_widths_and_finds_the_exponent(quality):
    x = np.array([1.0, 2.0, 4.0, 8.0])
    y = 0.8 * x**-0.3
    arms = pd.DataFrame(
        {"group": "low", "training_flops": x, quality.metric: y if quality is LANGUAGE else 1 - y}
    )
    laws = scaling._laws(arms, quality, "training_flops")
    assert laws["low"].exponent == pytest.approx(-0.3)
    assert laws["low"](3.0) == pytest.approx(0.8 * 3.0**-0.3)
    assert scaling._laws(arms.iloc[:3], quality, "training_flops") == {}
    for value in (np.nan, math.inf, -math.inf, 0.0 if quality is LANGUAGE else 1.0):
        lost = arms.assign(**{quality.metric: [*arms[quality.metric][:3], value]})
        assert scaling._laws(lost, quality, "training_flops") == {}


# Decay


def test_step_sizes_are_geometric_means_over_the_second_half_of_training():
    layers = pd.DataFrame(
        {
            "cell": "t/a",
            "seed": 0,
            "step": [1, 10, 11, 20],
            "effective_step_size": [100.0, 100.0, 1.0, 4.0],
            "relative_update": [9.0, 9.0, 2.0, 8.0],
            "product_norm": [9.0, 9.0, 3.0, 5.0],
        }
    )
    (found,) = decay._measured(layers).to_dict("records")
    assert found["effective_step_size"] == pytest.approx(2.0)
    assert found["relative_update"] == pytest.approx(4.0)
    assert found["product_norm"] == pytest.approx(4.0)


# Spectra


class Spectra:
    """Runs and spectra of one cell, its one layer of four values out of a side of eight."""

    def __init__(self, values: dict[int, list[float]], diverged: dict[int, bool]) -> None:
        seeds = list(values)
        self.runs = pd.DataFrame(
            {"cell": "t/a", "seed": seeds, "width": 16, "diverged": [diverged[s] for s in seeds]}
        )
        self.spectra = pd.DataFrame(
            {"cell": "t/a", "seed": seed, "layer": "l", "index": index, "singular_value": value}
            for seed, one in values.items()
            for index, value in enumerate(one, 1)
        )

    def table(self, name):
        return self.runs

    def of(self, name, cells):
        return self.spectra


def test_a_spectrum_is_relative_to_its_largest_value_over_shares_of_the_side():
    """Geometric means over seeds; runs that diverged are left out."""
    given = Spectra(
        {0: [8.0, 4.0, 2.0, 1.0], 1: [2.0, 1.0, 0.5, 0.25], 2: [9.0, 9.0, 9.0, 9.0]},
        {0: False, 1: False, 2: True},
    )
    x, mean, *_ = spectra._spectrum(given, "t/a", {(16, "l"): 8.0})
    assert x.min() >= 1 / 8 - 1e-9
    assert x.max() <= 4 / 8 + 1e-9
    expected = 2.0 ** -(8 * x - 1)
    assert mean == pytest.approx(expected, rel=1e-9)


def test_a_side_that_is_not_known_is_the_number_of_values():
    given = Spectra({0: [8.0, 4.0, 2.0, 1.0]}, {0: False})
    x, mean, *_ = spectra._spectrum(given, "t/a", {})
    assert x.max() == pytest.approx(1.0)
    assert mean == pytest.approx(2.0 ** -(4 * x - 1), rel=1e-9)
    assert spectra._spectrum(Spectra({0: [1.0]}, {0: True}), "t/a", {}) is None
