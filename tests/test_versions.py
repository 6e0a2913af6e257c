"""Versions of the parts decide which results are used; the source's digest only says what made them."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

import lowrank
from lowrank.data.images import load_images, prepare_images
from lowrank.data.images_spec import ImageSpec
from lowrank.data.spec import TextSpec
from lowrank.data.text import load_text, prepare_text
from lowrank.errors import LowrankError
from lowrank.jobs import train as jobs
from lowrank.train import result
from lowrank.train.run import ensure_run
from lowrank.versions import VERSIONS, source_digest

sys.path.insert(0, str(Path(__file__).parent / "train"))
from runs import EVALUATION, RUNS

SOURCE = Path(lowrank.__file__).parent


def test_the_digest_of_the_source_is_of_names_and_contents_alone(tmp_path):
    copy = tmp_path / "copy"
    for path in sorted(SOURCE.rglob("*.py"), reverse=True):
        target = copy / path.relative_to(SOURCE)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    (copy / "__pycache__").mkdir()
    (copy / "__pycache__/x.pyc").write_bytes(b"compiled")
    assert source_digest(copy) == source_digest()
    moved = shutil.move(copy / "versions.py", copy / "train/versions.py")
    assert source_digest(copy) != source_digest()
    shutil.move(moved, copy / "versions.py")
    assert source_digest(copy) == source_digest()
    (copy / "versions.py").write_text("VERSIONS = {}\n", encoding="utf-8")
    assert source_digest(copy) != source_digest()


def test_moved_code_leaves_finished_runs_and_their_test_metrics_in_use(
    text_folder, tmp_path, monkeypatch
):
    run = ensure_run(RUNS["dense"], text_folder, tmp_path, "cpu")
    metrics = jobs.test_metrics(run, EVALUATION, text_folder, "cpu")
    written = {path: path.stat().st_mtime_ns for path in run.folder.glob("*.*")}
    monkeypatch.setattr(result, "SOURCE", "another source")
    again = ensure_run(RUNS["dense"], text_folder, tmp_path, "cpu")
    assert again.result["source"] == source_digest()
    assert jobs.test_metrics(again, EVALUATION, text_folder, "cpu") == metrics
    assert {path: path.stat().st_mtime_ns for path in again.folder.glob("*.*")} == written


def test_a_raised_version_of_training_is_another_run(monkeypatch):
    before = RUNS["dense"].identity("data")
    for part in VERSIONS:
        monkeypatch.setitem(VERSIONS, part, VERSIONS[part] + 1)
        assert (RUNS["dense"].identity("data") != before) == (part == "training")
        monkeypatch.undo()


def test_a_raised_version_of_evaluation_reads_the_test_set_again(
    text_folder, tmp_path, monkeypatch
):
    run = ensure_run(RUNS["dense"], text_folder, tmp_path, "cpu")
    expected = jobs.test_metrics(run, EVALUATION, text_folder, "cpu")
    kept = (run.folder / "test.json").read_text(encoding="utf-8")
    monkeypatch.setitem(VERSIONS, "evaluation", VERSIONS["evaluation"] + 1)
    assert jobs.test_metrics(run, EVALUATION, text_folder, "cpu") == expected
    assert (run.folder / "test.json").read_text(encoding="utf-8") != kept


PREPARE = {
    "text": (TextSpec(vocabulary=300, max_characters=100_000), prepare_text, load_text),
    "images": (ImageSpec(), prepare_images, load_images),
}


@pytest.mark.parametrize("part", PREPARE)
def test_a_raised_version_refuses_old_data_and_finds_the_runs_of_equal_new_ones(
    part, tmp_path, monkeypatch
):
    spec, prepare, load = PREPARE[part]
    folder = tmp_path / "data"
    prepare(spec, folder)
    before = load(folder).manifest["digest"]
    monkeypatch.setitem(VERSIONS, part, VERSIONS[part] + 1)
    with pytest.raises(
        LowrankError, match=f"prepared by version .* of {part}, .* prepare it again"
    ):
        load(folder)
    prepare(spec, folder)
    assert load(folder).manifest["digest"] == before
