"""Scales side by side: every claim, every track, in the words that all pages use."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from lowrank.analysis.evidence import told
from lowrank.analysis.ledger import read_ledger
from lowrank.analysis.publish import read_published
from lowrank.analysis.stats import mean_interval
from lowrank.reports.scales import (
    controls_side_by_side,
    judged_now,
    published_scales,
    side_by_side,
)

ROOT = Path(__file__).parents[2]
PUBLISHED = ROOT / "published/laptop"
LEDGER = read_ledger(ROOT / "config/claims.yaml")


@pytest.fixture(scope="module")
def laptop() -> pd.DataFrame:
    return judged_now(PUBLISHED, LEDGER)


def test_a_scale_without_published_tables_is_none(tmp_path):
    assert judged_now(tmp_path, LEDGER) is None
    assert published_scales(tmp_path, LEDGER) == []


def test_what_the_readme_says_beside_its_pictures_is_so_in_the_published_tables():
    tables = read_published(PUBLISHED)
    runs, truncated, grams = (
        tables[name][tables[name]["track"] == "language"]
        for name in ("runs", "posthoc", "baselines")
    )
    grams = grams.set_index("model")["test_loss"]
    shown = runs[runs["studies"].str.contains("initialisation") & (runs["init"] != "dense")]
    ends = shown.groupby(["init", "arm"])["test_loss"].agg(lambda x: mean_interval(x).high)
    clearly = ends < grams["bigram"]
    assert set(clearly[~clearly].index.get_level_values(0)) == {"he"}
    assert not clearly["he"].any()
    assert (shown.groupby("arm")["test_loss"].mean() > grams["trigram"]).all()

    tuned = truncated[truncated["fine_tune_steps"] > 0]
    largest = tuned["rank_fraction"].max()
    trained = runs.loc[runs["arm"] == f"spectral-r{largest:g}", "test_loss"]
    for (rank, _), rows in tuned.groupby(["rank_fraction", "method"]):
        found = mean_interval(rows["test_loss"])
        if rank < largest:
            assert found.low > grams["bigram"]
        else:
            assert found.high < mean_interval(trained).low


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


def test_a_track_of_which_nothing_was_judged_has_no_column(laptop):
    waiting = laptop["track"].eq("small-images")
    other = laptop.assign(verdict=laptop["verdict"].mask(waiting, "not run"))
    columns = list(side_by_side([other]))[1:]
    assert columns == ["laptop: language", "laptop: large-images"]


def test_every_contrast_of_every_control_stands_with_its_difference(laptop):
    other = laptop[laptop["track"].isin(["language", "all"])].assign(scale="other")
    table = controls_side_by_side([laptop, other]).set_index("control")
    assert list(table.index) == [
        "random_spectral against spectral",
        "he_scaled against he",
        "spectral against he_scaled",
        "half the learning rate against the arm's own",
    ]
    ran = laptop["control"].eq(True) & laptop["level"].eq("member") & laptop["estimate"].notna()
    assert ran.sum() > 12
    for row in laptop[ran].itertuples():
        cells = table[f"laptop: {row.track}"]
        (found,) = [
            text
            for cell in cells
            for text in cell.split("; ")
            if f"{row.arm} " in text and shown(row) in text
        ]
        assert found.endswith("points" if row.track.endswith("images") else "nats/token")
    assert (table["other: language"] == table["laptop: language"]).all()
    assert controls_side_by_side([laptop[laptop["control"].ne(True)]]).empty


def shown(row) -> str:
    percent = row.track.endswith("images")
    return f"{row.estimate * (100 if percent else 1):.{2 if percent else 3}f}".replace(
        "-", "\u2212"
    )
