"""The figure of the claims draws what was judged, whatever ran and whatever did not."""

from __future__ import annotations

import pandas as pd
import pytest

from lowrank.errors import LowrankError
from lowrank.files import read_table, write_table
from lowrank.plot import claims
from lowrank.study.claims import judge, load


@pytest.fixture(scope="module")
def judged(tables, tmp_path_factory):
    """A folder with the verdicts on the synthetic tables."""
    folder = tmp_path_factory.mktemp("claims")
    known = {path.stem: read_table(path) for path in tables.glob("*.parquet")}
    ledger = load("config/claims.yaml")
    write_table(folder / "claims.parquet", judge(ledger, known, scale="synthetic"))
    return folder


def test_every_contrast_that_ran_is_drawn_in_the_colour_of_its_verdict(judged):
    table = claims.read(judged)
    figure, _ = claims.draw(table)
    ran = table[(table["level"] == "member") & table["estimate"].notna()]
    drawn = [
        line.get_color()
        for ax in figure.axes
        for line in ax.lines
        if line.get_marker() not in ("None", None, "")
    ]
    wanted = ran["verdict"].map(lambda verdict: claims.LOOKS[verdict].color)
    assert sorted(drawn) == sorted(wanted) and len(drawn) > 10


def test_labels_within_a_panel_differ(judged):
    figure, _ = claims.draw(claims.read(judged))
    for ax in figure.axes:
        labels = [text.get_text() for text in ax.get_yticklabels() if ax.axison]
        assert len(labels) == len(set(labels)), labels


def test_tests_that_did_not_run_stay_in_the_table(judged):
    table = claims.read(judged)
    shown = claims.draw(table)[1].shown()
    absent = table[(table["level"] == "test") & (table["verdict"] == "not run")]
    assert len(absent) and (shown["test"] == "not run").sum() >= len(absent)
    assert set(shown["claim"]) == set(table["claim"])


def test_missing_or_empty_claims_are_told(tmp_path, judged):
    with pytest.raises(LowrankError, match="judge the claims first"):
        claims.read(tmp_path)
    nothing = claims.read(judged).assign(estimate=float("nan"))
    with pytest.raises(LowrankError, match="nothing to draw"):
        claims.draw(pd.DataFrame(nothing))
