"""What is found out about a run once stays with it, under all that it follows from."""

from __future__ import annotations

import math
import shutil
from types import SimpleNamespace

import pytest

from lowrank.errors import LowrankError
from lowrank.files import write_manifest
from lowrank.jobs.kept import kept, kept_beside


@pytest.fixture
def run(tmp_path):
    (tmp_path / "model").write_text("weights", encoding="utf-8")
    write_manifest(tmp_path, ["model"])
    return SimpleNamespace(folder=tmp_path)


@pytest.fixture
def find():
    """Returns what is found out, another thing each time."""
    found = iter(range(9))
    return lambda: [{"loss": float(next(found)), "diverged": None}]


def test_it_is_found_out_once(run, find):
    first = [{"loss": 0.0, "diverged": None}]
    assert [kept(run, "line", {"points": 3}, find) for _ in range(2)] == [first, first]
    assert (run.folder / "line.json").is_file()


def test_another_key_or_another_run_is_found_out_anew(run, find):
    kept(run, "line", {"points": 3}, find)
    assert kept(run, "line", {"points": 4}, find)[0]["loss"] == 1
    (run.folder / "model").write_text("others", encoding="utf-8")
    write_manifest(run.folder, ["model"])
    assert kept(run, "line", {"points": 4}, find)[0]["loss"] == 2


def test_keys_beside_each_other_stay(run, find):
    for points in (3, 4, 3, 4):
        assert kept_beside([run], "line", {"points": points}, find)[0]["loss"] == points - 3
    assert len(list(run.folder.glob("line-*.json"))) == 2


def test_what_is_of_two_runs_is_found_out_anew_when_the_other_is_another(run, find, tmp_path):
    other = SimpleNamespace(folder=tmp_path / "other")
    for weights, found in (("first", 0), ("first", 0), ("second", 1)):
        other.folder.mkdir(exist_ok=True)
        (other.folder / "model").write_text(weights, encoding="utf-8")
        write_manifest(other.folder, ["model"])
        assert kept_beside([run, other], "line", {}, find)[0]["loss"] == found
    # A line to another run stays beside it.
    shutil.copytree(other.folder, tmp_path / "third")
    third = SimpleNamespace(folder=tmp_path / "third")
    for end, found in ((third, 2), (other, 1)):
        assert kept_beside([run, end], "line", {}, find)[0]["loss"] == found


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_json_has_no_word_for_is_returned_and_found_out_again(value, run):
    calls = []
    for _ in range(2):
        found = kept(run, "line", {}, lambda: calls.append(0) or {"loss": value})
        assert found["loss"] == value or math.isnan(found["loss"])
    assert len(calls) == 2 and not list(run.folder.glob("*line*"))


def test_what_was_changed_or_cannot_be_is_refused(run, find):
    kept(run, "line", {}, find)
    with pytest.raises(LowrankError, match="no model has these metrics"):
        kept(run, "line", {}, find, possible=lambda rows: rows[0]["loss"] == 7)
    path = run.folder / "line.json"
    path.write_text(path.read_text(encoding="utf-8").replace("0.0", "9.0"), encoding="utf-8")
    with pytest.raises(LowrankError, match="not what was written"):
        kept(run, "line", {}, find)
