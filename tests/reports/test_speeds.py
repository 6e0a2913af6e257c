"""Hours of a plan: the speeds of published runs that are most like the planned ones."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from lowrank.analysis.publish import read_published
from lowrank.experiment import config
from lowrank.experiment.cell import Cell
from lowrank.experiment.expand import expand
from lowrank.files import read_json
from lowrank.reports import speeds
from lowrank.reports.plan import make_plan, show
from lowrank.reports.speeds import Speed, nearest, published_speeds

pytestmark = pytest.mark.filterwarnings("ignore:At their rank")
PUBLISHED = Path(__file__).parents[2] / "published"


@pytest.fixture(scope="module")
def known() -> list[Speed]:
    return published_speeds(PUBLISHED)


def test_a_plan_of_the_published_scale_takes_as_long_as_its_runs_did(known):
    """By track: the time of the published runs, if as many were made as are planned."""
    settings = config.parse(read_json(PUBLISHED / "laptop/config.json"))
    plan = make_plan(settings, known).set_index("cell")
    runs = read_published(PUBLISHED / "laptop")["runs"]
    took = runs.groupby(["track", "cell"])["train_seconds"].mean().reset_index()
    took["planned"] = took["cell"].map(plan["hours"] * 3600)
    took["took"] = took["train_seconds"] * took["cell"].map(plan["runs"])
    totals = took.groupby("track")[["planned", "took"]].sum()
    assert set(totals.index) == set(settings.tracks)
    ratios = totals["planned"] / totals["took"]
    assert ratios.between(1 / 1.5, 1.5).all(), ratios.to_dict()


def test_it_does_so_without_any_cells_own_speed(known):
    """As if each arm were new: from the others of its track, whose factors are larger or smaller."""
    settings = config.parse(read_json(PUBLISHED / "laptop/config.json"))
    runs = read_published(PUBLISHED / "laptop")["runs"]
    spent = runs.groupby("cell")[["training_flops", "train_seconds"]].sum()
    rows = []
    for name, cell in expand(settings).cells.items():
        flops, took = spent.loc[name]
        own = [s for s in known if s.cell == name and s.scale == "laptop"]
        like = nearest([s for s in known if s not in own], "laptop", cell, own[0].kept_flops)
        assert like is not None
        rows.append({"track": cell.track, "planned": flops / like.flops_per_second, "took": took})
    totals = pd.DataFrame(rows).groupby("track").sum()
    ratios = totals["planned"] / totals["took"]
    assert ratios.between(1 / 1.5, 1.5).all(), ratios.to_dict()


def test_runs_of_a_cell_count_together_and_those_that_diverged_not(monkeypatch, tmp_path):
    rows = {
        "track": "language", "cell": "language/dense", "family": "gpt2", "width": 16.0,
        "kept_flops": 1.0, "training_flops": 8.0, "diverged": False, "processor": "A",
    }  # fmt: skip
    tables = {
        "one": [{"train_seconds": 1.0}, {"train_seconds": 3.0}],
        "two": [{"train_seconds": 1.0, "processor": "B"}, {"train_seconds": 9.0, "diverged": True}],
    }
    for name in tables:
        (tmp_path / name).mkdir()
    (tmp_path / "note.txt").touch()
    monkeypatch.setattr(
        speeds,
        "read_published",
        lambda folder, judged: {
            "runs": pd.DataFrame([{**rows, **row} for row in tables[folder.name]])
        },
    )
    found = {(s.scale, s.processor): s.flops_per_second for s in published_speeds(tmp_path)}
    assert found == {("one", "A"): 4.0, ("two", "B"): 8.0}
    assert published_speeds(tmp_path / "none") == []


def speed(name: str, **others) -> Speed:
    """One that differs from that of the planned cell in what its name says."""
    same = {
        "scale": "mine", "track": "language", "cell": "language/spectral-r0.5", "family": "gpt2",
        "width": 16, "kept_flops": 0.5, "processor": name, "runs": 1, "flops_per_second": 1e6,
    }  # fmt: skip
    return Speed(**{**same, **others})


NEAREST_FIRST = [
    speed("the same of more runs", runs=5),
    speed("the same"),
    speed("another cell", cell="language/he-r0.5"),
    speed("another rank", cell="language/he-r0.1", kept_flops=0.2),
    speed("another track", track="code"),
    speed("another scale", scale="laptop"),
    speed("twice the width", width=32),
    speed("an eighth of the width", width=2),
    speed("another family", family="llama"),
    speed("another task", family="wide_resnet", track="small-images"),
]


def text(scale: str = "mine", width: int = 16) -> config.Config:
    track = {
        "data": {"kind": "text", "vocabulary": 300},
        "model": {"family": "gpt2", "width": width, "depth": 1, "heads": 2, "context": 16},
        "training": {"steps": 10, "batch": 4},
        "factors": {"rank_fraction": 0.5, "rank_multiple": 1},
        "sweep": {"rates": [0.01, 0.02]},
        "studies": {"initialisation": {"ranks": [0.5], "inits": ["spectral"]}},
    }
    return config.parse({"scale": scale, "seeds": [0], "tracks": {"language": track}})


def test_the_nearest_is_of_the_same_model_then_of_the_same_scale_track_and_cell():
    cell: Cell = expand(text()).cells["language/spectral-r0.5"]
    for place, expected in enumerate(NEAREST_FIRST):
        left = NEAREST_FIRST[place:]
        assert nearest(left, "mine", cell, 0.5) == expected
        assert nearest(left[::-1], "mine", cell, 0.5) == expected
    assert nearest([], "mine", cell, 0.5) is None


def test_hours_are_those_of_the_nearest_and_a_stand_in_is_said():
    own = speed("A, AVX2", flops_per_second=1e6)
    dense = speed("A, AVX2", cell="language/dense", kept_flops=1.0, flops_per_second=4e6)
    plan = make_plan(text(), [own, dense]).set_index("cell")
    flops = plan["training_flops"]
    for cell, rate in (("spectral-r0.5", 1e6), ("spectral-r0.5-sweep", 1e6), ("dense", 4e6)):
        name = f"language/{cell}"
        assert plan.loc[name, "hours"] == pytest.approx(flops[name] / rate / 3600)
    assert plan.loc["language/dense-sweep", "speed_of"] == "mine: language/dense"
    *_, last = show(plan.reset_index()).splitlines()
    assert last.endswith("device-hours as on A, AVX2")
    *_, total, said = show(make_plan(text("other", 32), [own, dense])).splitlines()
    assert total.endswith("device-hours as on A, AVX2")
    assert said == (
        "No published run is of gpt2 of width 32: hours of language at that width are at the speed of gpt2 of "
        "width 16 (mine, language)."
    )


def test_without_published_runs_there_are_no_hours():
    assert "--peak" in show(make_plan(text(), []))
