"""The page of the claims: a summary in words first, then contrasts, and nothing that was not judged."""

from __future__ import annotations

import pytest

from lowrank.analysis.claims import judge
from lowrank.analysis.evidence import by_track
from lowrank.analysis.ledger import read_ledger
from lowrank.parquet import read_table
from lowrank.plot import claims, verdicts


@pytest.fixture(scope="module")
def judged(tables):
    known = {path.stem: read_table(path) for path in tables.glob("*.parquet")}
    tracks = {"language": "language", "small-images": "images"}
    return judge(read_ledger("config/claims.yaml"), known, scale="synthetic", tracks=tracks)


def test_the_summary_comes_first_with_every_claim_that_was_judged(judged):
    lines = verdicts.page(judged).markdown().splitlines()
    assert lines[0] == "# The paper's claims at the synthetic scale"
    assert lines[2] == "| claim | verdicts | evidence |"
    overall = judged[(judged["level"] == "claim") & (judged["verdict"] != "not run")]
    for line, row in zip(lines[4:], overall.itertuples(), strict=False):
        tracks = by_track(judged[judged["claim"] == row.claim])
        assert tracks and line.startswith(f"| {row.statement} | {tracks} | ")
    assert len(overall) > 5


def test_the_page_has_no_templates_ids_or_tracks_that_were_not_configured(judged):
    text = verdicts.page(judged).markdown()
    assert "{" not in text and "large-images" not in text and "not run" not in text
    for claim in read_ledger("config/claims.yaml").claims:
        assert claim.sentence in text
        assert claim.id in ("direction", "frobenius", "efficiency") or claim.id not in text


def test_every_contrast_stands_under_its_claim(judged):
    page = verdicts.page(judged)
    ran = judged[(judged["level"] == "member") & (judged["verdict"] != "not run")]
    shown = {part.heading: part.table for part in page.parts if part.table}
    for statement, contrasts in ran.groupby("statement"):
        assert len(shown[statement].numbers) == len(contrasts)
    assert len(page.table.numbers) == len(ran)
    assert page.latex().count(r"\\") == len(ran) + 1
    assert len(page.csv().splitlines()) == len(judged) + 1


def test_the_page_is_html_that_names_refuted_beside_the_p_against(judged):
    html = verdicts.page(judged).html("claims")
    assert html.count("<h2>") == html.count("</h2>") > 5
    refuted = [row for row in html.split("<tr>") if ">refuted<" in row and "against " in row]
    assert refuted and not [
        row for row in html.split("<tr>") if ">refuted<" in row and ">for " in row
    ]


def test_what_was_not_judged_is_one_line_after_the_summary(judged):
    lines = [line for line in verdicts.page(judged).markdown().splitlines() if "Not tested" in line]
    assert len(lines) <= 1
    nothing = verdicts.page(
        judge(
            read_ledger("config/claims.yaml"),
            {},
            scale="synthetic",
            tracks={"language": "language"},
        )
    )
    assert nothing.markdown().count("Not tested: ") == 1
    assert nothing.table.numbers.empty and "%" in nothing.latex()


def test_the_notebook_shows_the_page(judged, tmp_path):
    judged.to_parquet(tmp_path / "claims.parquet")
    assert "<h2>How to read</h2>" in claims.draw(claims.read(tmp_path))[1]._repr_html_()
