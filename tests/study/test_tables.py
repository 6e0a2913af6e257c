"""Published tables as the ground: old ones can be read, and what differs is said."""

from __future__ import annotations

import pandas as pd
import pytest

from lowrank.files import write_manifest
from lowrank.study.publish import load
from lowrank.study.tables import say_what_differs


def runs(cells, **facts):
    """One run a cell, of the versions and data given."""
    columns = {"training_version": 1, "evaluation_version": 1, "data_digest": "a", **facts}
    rows = [{"cell": cell, "track": cell.split("/")[0], **columns} for cell in cells]
    return pd.DataFrame(rows)


def test_runs_published_without_versions_of_parts_are_of_the_first(tmp_path):
    old = runs(["language/dense"]).drop(columns="evaluation_version")
    old = old.rename(columns={"training_version": "method_version"})
    old.to_parquet(tmp_path / "runs.parquet")
    write_manifest(tmp_path, ["runs.parquet"])
    found = load(tmp_path)["runs"]
    assert found[["training_version", "evaluation_version"]].to_numpy().tolist() == [[1, 1]]
    assert "method_version" not in found


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
    published = runs(["language/dense", "language/he-r0.5", "small-images/dense"], source="old")
    say_what_differs(published, runs(["language/he-r0.5"], **fresh))
    error = capsys.readouterr().err
    assert error.count("\n") == len(said)
    assert all(part in error for part in said)


def test_nothing_is_said_where_nothing_is_retrained_or_nothing_old_stays(capsys):
    published = runs(["language/dense"])
    say_what_differs(published, published.iloc[:0])
    say_what_differs(published, runs(["language/dense"], training_version=2))
    assert capsys.readouterr().err == ""
