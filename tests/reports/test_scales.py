"""Scales side by side: every claim, every track, in the words that all pages use."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from lowrank.analysis.evidence import told
from lowrank.analysis.ledger import read_ledger
from lowrank.reports.scales import judged_now, published_scales, side_by_side

ROOT = Path(__file__).parents[2]
LEDGER = read_ledger(ROOT / "config/claims.yaml")


@pytest.fixture(scope="module")
def laptop() -> pd.DataFrame:
    return judged_now(ROOT / "published/laptop", LEDGER)


def test_a_scale_without_published_tables_is_none(tmp_path):
    assert judged_now(tmp_path, LEDGER) is None
    assert published_scales(tmp_path, LEDGER) == []


def test_every_claim_stands_once_with_its_verdict_on_every_track_of_every_scale(laptop):
    other = laptop.assign(scale="other")
    other = other[other["track"].isin(["language", "all"])]
    table = side_by_side([laptop, other])
    assert list(table["claim"]) == [claim.sentence for claim in LEDGER.claims]
    tracks = ("language", "small-images", "large-images")
    assert list(table)[1:] == [*(f"laptop: {track}" for track in tracks), "other: language"]
    tests = laptop[(laptop["claim"] == "direction") & (laptop["level"] == "test")]
    row = next(tests[tests["track"] == "language"].itertuples())
    assert table.loc[0, "laptop: language"] == told(row) == table.loc[0, "other: language"]
    vision = table["claim"].str.contains("vision models")
    assert table.loc[vision, "laptop: language"].item() == "–"
