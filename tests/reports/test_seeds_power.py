"""What seeds would settle, before a run: from published spreads, or from one that is given."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner

from lowrank.analysis.ledger import read_ledger
from lowrank.analysis.power import pairs_needed, power_within, smallest_settled
from lowrank.cli import main
from lowrank.errors import LowrankError
from lowrank.experiment.config import read_config
from lowrank.reports.power import power_table, show
from lowrank.reports.scales import judged_now

ROOT = Path(__file__).parents[2]
LEDGER = read_ledger(ROOT / "config/claims.yaml")


@pytest.fixture(scope="module")
def laptop():
    return read_config(ROOT / "published/laptop/config.json")


@pytest.fixture(scope="module")
def published():
    return judged_now(ROOT / "published/laptop", LEDGER)


def of(table: pd.DataFrame, claim: str, track: str, kind: str) -> pd.Series:
    rows = table[(table["claim"] == claim) & (table["track"] == track) & (table["kind"] == kind)]
    return rows[~rows["control"].astype(bool)].iloc[0]


def test_without_results_the_spread_is_the_one_given_and_the_family_the_planned_one(laptop):
    table = power_table(LEDGER, laptop, spreads={"test_loss": 0.02}, seeds=7)
    row = of(table, "direction", "language", "equivalence")
    ranks = len(laptop.tracks["language"].studies.initialisation.ranks)
    each = 0.05 / ranks
    assert (row["contrasts"], row["seeds"], row["source"]) == (ranks, 7, "given")
    assert row["settles"] == pytest.approx(smallest_settled("equivalence", 0.02, 7, each))
    assert row["power"] == pytest.approx(power_within("equivalence", 0.025, 0.02, 7, each))
    assert row["needed"] == pairs_needed("equivalence", 0.025, 0.02, each)
    images = of(table, "direction", "small-images", "equivalence")
    assert math.isnan(images["settles"]) and "–" in show(table)


def test_seeds_are_the_configurations_unless_others_are_asked_for(laptop):
    table = power_table(LEDGER, laptop)
    assert dict(zip(table["track"], table["seeds"], strict=True)) == {
        track: len(laptop.seeds_of(track)) for track in laptop.tracks
    }


def test_the_spread_of_a_published_test_is_the_median_of_its_own_contrasts(laptop, published):
    table = power_table(LEDGER, laptop, published)
    own = published[
        (published["claim"] == "direction")
        & (published["level"] == "member")
        & (published["track"] == "language")
        & (published["control"] == False)  # noqa: E712
    ]
    row = of(table, "direction", "language", "equivalence")
    assert row["standard_deviation"] == pytest.approx(own["standard_deviation"].median())
    assert (row["source"], row["contrasts"]) == ("its own contrasts", len(own))
    posthoc = of(table, "post-hoc", "language", "better")
    ran = published[(published["claim"] == "post-hoc") & (published["level"] == "test")]
    assert posthoc["contrasts"] == ran.loc[ran["track"] == "language", "ran"].item()


def test_what_the_configuration_does_not_ask_is_not_listed_though_it_is_published(
    laptop, published
):
    track = laptop.tracks["small-images"]
    decay = track.studies.decay.model_copy(update={"rate_factors": (1.0,)})
    studies = track.studies.model_copy(update={"posthoc": None, "decay": decay})
    less = track.model_copy(update={"studies": studies})
    smaller = laptop.model_copy(update={"tracks": {**laptop.tracks, "small-images": less}})
    before, after = (
        set(zip(table["claim"], table["track"], strict=True))
        for table in (power_table(LEDGER, one, published) for one in (laptop, smaller))
    )
    assert before - after == {("post-hoc", "small-images"), ("step-size", "small-images")}


def test_a_test_that_was_not_run_takes_the_spread_of_its_metric(laptop, published):
    kept = published[published["claim"] == "direction"]
    table = power_table(LEDGER, laptop, kept)
    like = kept[(kept["level"] == "member") & (kept["track"] == "language")]
    spread = like["standard_deviation"].median()
    row = of(table, "spectral-parity", "language", "equivalence")
    assert row["source"] == "contrasts of this metric"
    assert row["standard_deviation"] == pytest.approx(spread)
    interaction = of(table, "step-size", "language", "not_worse")
    assert interaction["standard_deviation"] == pytest.approx(math.sqrt(2) * spread)


def test_a_spread_of_no_metric_names_the_nearest(laptop):
    with pytest.raises(LowrankError, match="did you mean 'test_loss'"):
        power_table(LEDGER, laptop, spreads={"tets_loss": 0.1})


def test_the_command_prints_a_line_a_test_and_how_to_read_it(monkeypatch):
    monkeypatch.chdir(ROOT)
    options = ["power", "--scale", "smoke", "--seeds", "4", "--sd", "test_loss", "0.02"]
    done = CliRunner().invoke(main, options, catch_exceptions=False)
    assert done.exit_code == 0
    lines = done.output.splitlines()
    assert lines[0].split()[:3] == ["claim", "track", "sides"]
    assert any(" given " in line for line in lines[1:-1]) and lines[-1].startswith("settles: ")
    bad = CliRunner().invoke(main, ["power", "--scale", "smoke", "--seeds", "1"])
    assert bad.exit_code == 2
