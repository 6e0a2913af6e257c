"""The tables of a scale: every row once, fresh rows in the place of old ones, contrasts as defined."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from lowrank.analysis import tables
from lowrank.analysis.publish import as_now
from lowrank.analysis.said import diverged, mixed_processors, say_what_differs
from lowrank.analysis.stats import holm
from lowrank.errors import LowrankError
from lowrank.experiment import config
from lowrank.experiment.facts import FACTS
from lowrank.files import write_sealed
from lowrank.frames import concat
from lowrank.parquet import write_table


def settings(**studies) -> config.Config:
    """A language track with the given studies."""
    track = {
        "data": {"kind": "text"},
        "model": {"family": "gpt2", "width": 16, "depth": 1, "heads": 2, "context": 16},
        "training": {"steps": 10, "batch": 4},
        "factors": {"rank_fraction": 0.5},
        "sweep": {"rates": [0.01, 0.02]},
        "studies": studies,
    }
    return config.parse({"scale": "test", "seeds": [0, 1, 2], "tracks": {"language": track}})


def runs_of(**arms: list[float]) -> pd.DataFrame:
    """Runs of language cells, one a seed, with their validation losses."""
    return pd.DataFrame(
        {"cell": f"language/{arm.replace('_r', '-r0.')}", "track": "language", "seed": seed, "validation_loss": loss, "effective_rank": 10 * loss, "diverged": False}
        for arm, losses in arms.items()
        for seed, loss in enumerate(losses)
    )  # fmt: skip


@pytest.fixture(autouse=True)
def credulous(monkeypatch):
    """Tables of a few invented numbers do not prove themselves (see test_publish for those that do)."""
    monkeypatch.setattr(tables, "disagreement", lambda found: None)


@pytest.fixture
def made(tmp_path):
    """The files of two cells' jobs, of the track's evaluation, and of a sweep."""
    runs = runs_of(dense=[3.0, 3.1, 3.2], spectral_r5=[3.3, 3.5, 3.4])
    folders = []
    for cell, rows in runs.groupby("cell"):
        folders.append(tmp_path / "cells" / cell)
        write_table(folders[-1] / "runs.parquet", rows)
        for name in ("history", "layers", "spectra"):
            write_table(folders[-1] / f"{name}.parquet", rows[["cell", "seed"]].assign(step=1))
    test = runs[["cell", "seed"]].assign(test_loss=runs["validation_loss"] + 0.5)
    write_table(tmp_path / "test/language.parquet", test.iloc[::-1])
    rates = [
        {"learning_rate": r, "seed": 4, "validation_loss": loss}
        for r, loss in ((0.01, 3.1), (0.02, 3.0))
    ]
    sweep = {
        "group": "language/dense",
        "track": "language",
        "choice": "learning_rate",
        "learning_rate": 0.02,
        "at_edge": True,
        "rates": rates,
    }
    write_sealed(tmp_path / "rates/language/dense.json", sweep)
    return {
        "cells": folders,
        "evaluations": [tmp_path / "test/language.parquet"],
        "rates": [tmp_path / "rates/language/dense.json"],
    }


INITIALISATION = {"initialisation": {"ranks": [0.5], "inits": ["spectral"]}}


def collected(made, tmp_path, published=None, others=None) -> dict[str, pd.DataFrame]:
    output = tmp_path / "tables"
    tables.collect(settings(**INITIALISATION), *made.values(), others or {}, output, published)
    return {path.stem: pd.read_parquet(path) for path in output.glob("*.parquet")}


def test_every_run_has_its_own_test_metrics(made, tmp_path):
    runs = collected(made, tmp_path)["runs"]
    assert len(runs) == 6
    assert (runs["test_loss"] - runs["validation_loss"]).to_numpy() == pytest.approx(0.5)
    assert list(runs.columns) == [name for name in tables.COLUMNS if name in runs]


def test_cells_that_differ_in_columns_and_types_make_one_table(made, tmp_path):
    """Numbers that one cell has whole and the other does not, and columns that only one has or knows."""
    runs = runs_of(dense=[3.0, 3.1, 3.2], spectral_r5=[3.3, 3.5, 3.4])
    facts = {
        "dense": {"rank": None, "diverged_at": None, "init": "dense", "warmed": None},
        "spectral-r0.5": {"rank": [4, 4, 4], "diverged_at": [None, 7, None], "warmed": True},
    }
    parts = []
    for folder in made["cells"]:
        rows = runs[runs["cell"] == f"language/{folder.name}"].assign(**facts[folder.name])
        write_table(folder / "runs.parquet", rows)
        parts.append(pd.read_parquet(folder / "runs.parquet"))
    found = tables._of_cells(folder / "runs.parquet" for folder in made["cells"])
    for table in (expected := concat(parts), found):
        table["warmed"] = table["warmed"].eq(True)  # what is missing is None here and NaN there
    pd.testing.assert_frame_equal(found, expected, check_dtype=False)
    assert found["rank"].dtype.kind == found["diverged_at"].dtype.kind == "f"
    assert found["seed"].dtype.kind == "i" and found["diverged"].dtype == bool
    assert found["warmed"].sum() == 3 and found["diverged_at"].sum() == 7


def test_cells_without_a_row_make_an_empty_table(made):
    folder = made["cells"][0]
    write_table(folder / "spectra.parquet", pd.DataFrame())
    assert tables._of_cells([folder / "spectra.parquet"]).empty
    assert tables._of_cells([]).empty


def test_a_run_without_test_metrics_stays(made, tmp_path):
    table = pd.read_parquet(made["evaluations"][0])
    write_table(made["evaluations"][0], table[table["seed"] != 1])
    runs = collected(made, tmp_path)["runs"].set_index(["cell", "seed"])["test_loss"]
    assert len(runs) == 6
    assert runs.isna().sum() == 2
    assert math.isnan(runs["language/dense", 1])


def test_a_sweep_has_a_row_a_rate_and_says_which_was_chosen(made, tmp_path):
    rates = collected(made, tmp_path)["rates"]
    facts = ["family", "width", "method", "init", "rank_fraction", "varied", "pretraining"]
    none = ["decay", "decay_coupled"]
    assert rates[facts].drop_duplicates().fillna(0).to_numpy().tolist() == [
        ["gpt2", 16, "dense", "dense", 0, "init", 0]
    ]
    assert rates[none].isna().all(axis=None)
    assert rates.drop(columns=[*facts, *none]).to_dict("list") == {
        "group": ["language/dense"] * 2, "track": ["language"] * 2, "seed": [4, 4],
        "choice": ["learning_rate"] * 2,
        "learning_rate": [0.01, 0.02], "validation_loss": [3.1, 3.0],
        "chosen": [False, True], "at_edge": [True, True],
    }  # fmt: skip


def test_further_tables_are_put_together_by_name(made, tmp_path):
    paths = []
    for track in ("language", "small-images"):
        paths.append(tmp_path / f"posthoc-{track}.parquet")
        write_table(paths[-1], pd.DataFrame({"track": [track], "seed": [0]}))
    found = collected(made, tmp_path, others={"posthoc": paths})["posthoc"]
    assert list(found["track"]) == ["language", "small-images"]


def test_no_run_at_all_is_an_error(tmp_path):
    with pytest.raises(LowrankError, match="There is no run to make tables of"):
        tables.collect(settings(), [], [], [], {}, tmp_path)


def test_a_table_in_another_cells_folder_is_refused(made, tmp_path):
    wrong = tmp_path / "cells/language/other"
    (tmp_path / "cells/language/dense").rename(wrong)
    with pytest.raises(LowrankError, match="it is a table of language/dense"):
        collected({**made, "cells": [wrong]}, tmp_path)


@pytest.mark.parametrize("spoil", [
    lambda t: t.assign(cell="small-images/dense"),
    lambda t: t.drop(columns="seed"),
    lambda t: pd.concat([t, t.iloc[:1]]),
])  # fmt: skip
def test_an_evaluation_of_another_track_or_with_a_run_twice_is_refused(spoil, made, tmp_path):
    path = made["evaluations"][0]
    write_table(path, spoil(pd.read_parquet(path)))
    with pytest.raises(LowrankError, match="no test metrics of language, one row a run"):
        collected(made, tmp_path)


def test_runs_that_diverged_are_named_by_cell_with_their_seeds_twenty_cells_at_most():
    cells = [f"t/{number:02}" for number in range(22)]
    runs = pd.DataFrame({"cell": [*cells, "t/00", "t/a"], "seed": [0] * 22 + [3, 1]})
    assert diverged(runs) == diverged(runs.assign(diverged=False)) == ""
    runs["diverged"] = [True] * 23 + [None]
    listed = ", ".join(["t/00 (0, 3)"] + [f"{cell} (0)" for cell in cells[1:20]])
    assert diverged(runs) == (f"23 of 24 runs diverged, cell (seeds): {listed}, and 2 more cells.")
    assert diverged(runs[runs["cell"] < "t/20"]).endswith("t/19 (0).")


# On published ground


def test_rows_of_cells_made_anew_replace_published_ones_and_all_others_stay():
    """Never both: a retrained cell's old rows would count as further seeds."""
    ground = runs_of(dense=[3.0, 3.1, 3.2], spectral_r5=[3.3, 3.5, 3.4])
    fresh = runs_of(spectral_r5=[2.3, 2.5])
    found = tables.over(ground, fresh)
    assert found.groupby("cell")["validation_loss"].apply(list).to_dict() == {
        "language/dense": [3.0, 3.1, 3.2],
        "language/spectral-r0.5": [2.3, 2.5],
    }


def test_rates_are_replaced_by_group():
    ground = pd.DataFrame({"group": ["a", "a", "b"], "learning_rate": [1.0, 2.0, 1.0]})
    fresh = pd.DataFrame({"group": ["a"], "learning_rate": [3.0]})
    found = tables.over(ground, fresh)
    assert found.to_dict("list") == {"group": ["b", "a"], "learning_rate": [1.0, 3.0]}


def test_a_sweep_made_anew_stays_out_where_the_published_runs_of_its_cell_stay():
    """It was made for a cell that shares it: published rates are shown with the runs trained at them."""
    published = runs_of(dense=[3.0], spectral_r5=[3.3])
    retrained = runs_of(spectral_r5=[3.2], he_r5=[3.4])
    groups = ["language/dense", "language/spectral-r0.5", "language/he-r0.5"]
    fresh = pd.DataFrame({"group": groups, "learning_rate": [1.0, 2.0, 3.0]})
    found = tables._beside(fresh, {"runs": published}, retrained)
    assert found["group"].tolist() == groups[1:]
    assert tables._beside(fresh[:0], {"runs": published}, retrained).empty


def test_one_side_alone_is_the_table():
    table = runs_of(dense=[3.0])
    empty = pd.DataFrame()
    for pair in ((table, None), (None, table), (table, empty), (empty, table)):
        assert tables.over(*pair).equals(table)
    assert len(tables.over(None, None)) == 0


# Contrasts


def test_contrasts_are_paired_differences_with_holm_within_study_and_metric():
    study = {"initialisation": {"ranks": [0.5], "inits": ["spectral", "he"]}}
    runs = runs_of(dense=[3.0, 3.1, 3.3], spectral_r5=[3.3, 3.5, 3.4], he_r5=[3.6, 3.8, 3.9])
    runs["test_loss"] = runs["validation_loss"]
    found = tables.all_contrasts(settings(**study), {"runs": runs})
    loss = found[found["metric"] == "test_loss"]
    named = [
        (a.split("/")[1], b.split("/")[1])
        for a, b in zip(loss["arm"], loss["reference"], strict=True)
    ]
    assert named == [
        ("spectral-r0.5", "dense"),
        ("he-r0.5", "dense"),
        ("he-r0.5", "spectral-r0.5"),
    ]
    assert loss["estimate"].to_numpy() == pytest.approx([0.8 / 3, 1.9 / 3, 1.1 / 3])
    assert loss["p_corrected"].to_numpy() == pytest.approx(holm(loss["p"]))
    assert set(found["study"]) == {"initialisation"}
    assert set(found["track"]) == {"language"}
    assert set(found["metric"]) == {"test_loss", "effective_rank"}


def test_contrasts_whose_cells_are_not_there_are_left_out():
    study = {"initialisation": {"ranks": [0.5], "inits": ["spectral", "he"]}}
    runs = runs_of(dense=[3.0, 3.1, 3.3], he_r5=[3.6, 3.8, 3.9]).assign(test_loss=1.0)
    found = tables.all_contrasts(settings(**study), {"runs": runs})
    assert set(zip(found["arm"], found["reference"], strict=True)) == {
        ("language/he-r0.5", "language/dense")
    }


def test_barriers_and_distances_are_compared_where_there_are_lines():
    study = {"interpolation": {"fractions": [0.25]}}
    arms = {"dense": [3.0, 3.1], "spectral_r5": [3.3, 3.5], "spectral_r5-pre0.25": [3.1, 3.2]}
    runs = runs_of(**arms).assign(test_loss=1.0)
    low = runs[runs["cell"] != "language/dense"]
    barriers = low[["cell", "seed"]].assign(
        barrier=[1.0, 2.0, 0.5, 0.6], distance=[3.0, 3.0, 1.0, 1.5]
    )
    found = tables.all_contrasts(settings(**study), {"runs": runs, "barriers": barriers}).set_index(
        "metric"
    )
    assert found.loc["barrier", "estimate"] == pytest.approx(-0.95)
    assert found.loc["distance", "estimate"] == pytest.approx(-1.75)
    assert found.loc["barrier", "arm"] == "language/spectral-r0.5-pre0.25"
    without = tables.all_contrasts(settings(**study), {"runs": runs})
    assert "barrier" not in set(without["metric"])


# Published with other versions


def published_runs(cells, **facts):
    """One run a cell, of the versions and data given."""
    columns = {"training_version": 1, "evaluation_version": 1, "data_digest": "a", **facts}
    rows = [{"cell": cell, "track": cell.split("/")[0], **columns} for cell in cells]
    return pd.DataFrame(rows)


def test_runs_published_without_versions_of_parts_are_of_the_first():
    old = published_runs(["language/dense"]).drop(columns="evaluation_version")
    old = old.rename(columns={"training_version": "method_version"})
    found = as_now({"runs": old}, settings(**INITIALISATION))["runs"]
    assert found[["training_version", "evaluation_version"]].to_numpy().tolist() == [[1, 1]]
    assert "method_version" not in found


def test_facts_of_runs_published_before_they_were_columns_follow_from_the_configuration():
    arms = ["dense", "spectral-r0.5", "gone-r0.5"]
    old = published_runs([f"language/{arm}" for arm in arms], rate_factor=0.7)
    found = as_now({"runs": old}, settings(**INITIALISATION))["runs"]
    assert set(FACTS) <= set(found.columns)
    assert found["init"].fillna("unknown").tolist() == ["dense", "spectral", "unknown"]
    assert found["rate_factor"].tolist() == [0.7] * 3, "what a table says stays"


@pytest.mark.parametrize(
    ("fresh", "said"),
    [
        ({"training_version": 2}, ["version 1 of training (now 2)"]),
        ({"evaluation_version": 3}, ["version 1 of evaluation (now 3)"]),
        (
            {"training_version": 2, "data_digest": "b"},
            ["version 1 of training (now 2) and other data of language:"],
        ),
        ({"source": "moved"}, []),
        ({}, []),
    ],
)
def test_published_runs_of_another_version_beside_retrained_ones_are_said_in_a_sentence(
    fresh, said, capsys
):
    published = published_runs(
        ["language/dense", "language/he-r0.5", "small-images/dense"], source="old"
    )
    say_what_differs(published, published_runs(["language/he-r0.5"], **fresh))
    error = capsys.readouterr().err
    assert error.count("\n") == len(said)
    assert all(part in error for part in said)


def test_nothing_is_said_where_nothing_is_retrained_or_nothing_old_stays(capsys):
    published = published_runs(["language/dense"])
    say_what_differs(published, published.iloc[:0])
    say_what_differs(published, published_runs(["language/dense"], training_version=2))
    assert capsys.readouterr().err == ""


def test_tracks_whose_cells_were_trained_on_several_processors_are_named():
    """By cells: runs of a cell that was made again elsewhere count on both."""
    runs = pd.DataFrame(
        {
            "track": ["a"] * 4 + ["b"] * 2,
            "cell": ["a/x", "a/y", "a/z", "a/z", "b/x", "b/y"],
            "processor": ["one", "two", "two", "two", "one", None],
        }
    )
    assert mixed_processors(runs) == (
        "Cells of a (2 on two, 1 on one) were trained on different processors: a difference between them holds that "
        "of the processors too."
    )
    assert mixed_processors(runs[runs["track"] == "b"]) == mixed_processors(runs.iloc[:1]) == ""
    assert mixed_processors(runs.drop(columns="processor")) == ""
