"""The figure of the claims draws what was judged, whatever ran and whatever did not."""

from __future__ import annotations

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


def test_missing_claims_are_told(tmp_path):
    with pytest.raises(LowrankError, match="judge the claims first"):
        claims.read(tmp_path)


def test_a_figure_without_contrasts_says_so(tmp_path):
    write_table(tmp_path / "claims.parquet", judge(load("config/claims.yaml"), {}))
    figure, page = claims.draw(claims.read(tmp_path))
    assert "No claim has a contrast that ran" in [text.get_text() for text in figure.texts]
    assert "Not tested: " in page.markdown() and len(page.numbers)
