"""Tables as text: rounding, intervals, escapes."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from lowrank.plot.table import (
    Column,
    Table,
    difference,
    estimate,
    number,
    seeds,
    significant,
    words,
)


@pytest.mark.parametrize(
    ("value", "text"),
    [(3.6462, "3.646"), (-0.0123, "−0.012"), (-0.0001, "0.000"), (np.nan, "–"), (2.5e9, "2.5e9")],
)
def test_numbers_have_a_true_minus_and_no_negative_zero(value, text):
    assert number(value, 3) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0.0012345, "0.00123"), (2.734e8, "2.73e8"), (-1e-9, "−1e−9"), (12.0, "12")]
)
def test_significant_digits(value, text):
    assert significant(value) == text


def test_estimate_shows_half_the_interval_and_nothing_where_there_is_none():
    column = estimate("loss", "x", 2)
    assert column.text(SimpleNamespace(x=3.0, x_low=2.9, x_high=3.1)) == "3.00 ± 0.10"
    assert column.text(SimpleNamespace(x=3.0, x_low=np.nan, x_high=np.nan)) == "3.00"
    assert column.text(SimpleNamespace(x=np.nan, x_low=np.nan, x_high=np.nan)) == "–"


def test_difference_is_starred_where_its_corrected_p_is_below_five_per_cent():
    column = difference("d", "d", 2)
    row = {"d": -0.5, "d_low": -0.6, "d_high": -0.4}
    assert column.text(SimpleNamespace(**row, d_p=0.01)) == "−0.50 [−0.60, −0.40]*"
    assert column.text(SimpleNamespace(**row, d_p=0.2)) == "−0.50 [−0.60, −0.40]"
    assert column.text(SimpleNamespace(**row, d_p=np.nan)) == "−0.50 [−0.60, −0.40]"


def test_diverged_runs_are_counted_with_the_first_step():
    row = SimpleNamespace(seeds=2, diverged=1, diverged_at=7.0)
    assert seeds(row) == "2 (1 diverged at step 7)"
    assert seeds(SimpleNamespace(seeds=3, diverged=0, diverged_at=np.nan)) == "3"


def test_special_characters_survive_markdown_and_latex():
    table = Table(
        pd.DataFrame({"name": [r"a_b|c*d & 5 % of #1 {x} \y", "[−1, 2]"]}),
        [words("arm ± σ", "name"), Column("n", lambda row: "1")],
    )
    assert r"a\_b\|c\*d & 5 % of #1 {x} \\y" in table.markdown()
    latex = table.latex()
    assert r"a\_b$|$c*d \& 5 \% of \#1 \{x\} \textbackslash{}y & 1 \\" in latex
    assert "\n{[$-$1, 2]} & 1" in latex
    assert latex.isascii()
