"""A loss of power at any moment leaves the old or the new whole, and what a job finished stays."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from disk import LOST, Disk
from faulty import LOW, Track

from lowrank import durable
from lowrank.files import (
    MANIFEST,
    atomic_dir,
    sha256,
    write_json,
    write_manifest,
    write_sealed,
    write_text,
)
from lowrank.parquet import write_table


def folder(path: Path, version: int) -> None:
    with atomic_dir(path) as new:
        write_text(new / "inner" / "a", f"a {version}")
        (new / "b").write_text(f"b {version}", encoding="utf-8")
        write_manifest(new, ["b"])


WRITERS: dict[str, Callable[[Path, int], None]] = {
    "text": lambda path, version: write_text(path, f"{version}"),
    "json": lambda path, version: write_json(path, {"version": version}),
    "sealed": lambda path, version: write_sealed(path, {"version": version}),
    "table": lambda path, version: write_table(path, pd.DataFrame({"version": [version]})),
    "folder": folder,
}


def below(name: str, found: dict[str, str]) -> dict[str, str]:
    return {path: at for path, at in found.items() if path.split("/")[0] == name}


def present(root: Path, name: str) -> dict[str, str]:
    paths = [path for path in (root / name, *(root / name).rglob("*")) if path.is_file()]
    return {path.relative_to(root).as_posix(): sha256(path) for path in paths}


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("first", [True, False], ids=["first", "replacing"])
def test_a_crash_at_any_step_leaves_the_old_or_the_new_whole(writer, first, tmp_path, monkeypatch):
    write, root, scrap = WRITERS[writer], tmp_path / "disk", tmp_path / "scrap"
    root.mkdir()
    if not first:
        write(root / "it", 1)
    old = present(root, "it")
    write(scrap / "it", 2)
    new = present(scrap, "it")
    if writer == "sealed":  # its seal says where it lies
        new = {}

    def check(disk: Disk) -> None:
        for found in disk.after_a_crash(root):
            state = below("it", found)
            assert LOST not in state.values(), disk.steps
            assert state in (old, new) or (not new and len(state) == 1), disk.steps

    disk = Disk(root, monkeypatch, check)
    write(root / "it", 2)
    check(disk)
    assert all(
        below("it", found) == present(root, "it") != old for found in disk.after_a_crash(root)
    )
    assert {step[0] for step in disk.steps} >= {"fsync"}
    disk.close()


def test_new_folders_are_safe_with_the_file_that_they_were_made_for(tmp_path, monkeypatch):
    disk = Disk(tmp_path, monkeypatch)
    write_text(tmp_path / "a/b/c", "text")
    assert all("a/b/c" in found for found in disk.after_a_crash(tmp_path))
    disk.close()


def test_a_folder_is_replaced_in_one_step_and_in_two_only_where_there_is_no_such_step(
    tmp_path, monkeypatch
):
    folder(tmp_path / "it", 1)
    calls = []
    monkeypatch.setattr(os, "rename", lambda *paths: calls.append(paths))
    folder(tmp_path / "it", 2)
    assert calls == [] and (tmp_path / "it/b").read_text(encoding="utf-8") == "b 2"
    monkeypatch.undo()
    monkeypatch.setattr(durable, "_exchange", lambda one, other: False)
    folder(tmp_path / "it", 3)
    assert (tmp_path / "it/b").read_text(encoding="utf-8") == "b 3"
    assert [path.name for path in tmp_path.iterdir()] == ["it"]


def test_a_file_system_that_cannot_sync_folders_is_written_to_all_the_same(tmp_path, monkeypatch):
    def refuse(descriptor: int) -> None:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "fsync", refuse)
    write_text(tmp_path / "it", "text")
    assert (tmp_path / "it").read_text(encoding="utf-8") == "text"


def test_a_disk_that_fails_while_it_is_synced_is_one_sentence_and_the_old_stays(
    tmp_path, monkeypatch
):
    from lowrank.errors import LowrankError

    write_text(tmp_path / "it", "old")

    def fail(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(LowrankError, match=r"^Could not write .*it: Input/output error\.$"):
        write_text(tmp_path / "it", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["it"]
    assert (tmp_path / "it").read_text(encoding="utf-8") == "old"


def test_what_jobs_wrote_is_safe_and_no_manifest_names_what_could_be_lost(
    whole, tmp_path, monkeypatch
):
    track = Track(tmp_path / "results/tiny")
    track.begin()
    manifests: dict[str, dict[str, str]] = {}

    def check(disk: Disk) -> None:
        if disk.steps[-1][0] == "fsync":  # it changes nothing that a reader sees
            return
        for found in disk.after_a_crash(track.root):
            for name, content in found.items():
                place, _, last = name.rpartition("/")
                if last != MANIFEST or ".part/" in name:
                    continue
                assert content != LOST, (name, disk.steps[-1])
                if content not in manifests:
                    manifest = json.loads((track.root / name).read_text(encoding="utf-8"))
                    manifests[content] = manifest["files"]
                for file, expected in manifests[content].items():
                    assert found[f"{place}/{file}"] == expected, disk.steps[-1]

    disk = Disk(track.root, monkeypatch, check)
    for job in (
        track.prepare(),
        track.sweep(LOW),
        track.train(LOW),
        whole.publish(track.root / "published"),
    ):
        before = len(disk.steps)
        assert track.run(job) == (0, "")
        # A sweep is two runs of six steps, each of which leaves a checkpoint.
        assert sum(step[0] == "fsync" for step in disk.steps[before:]) < 130
        safe = list(disk.after_a_crash(track.root))
        for path in track.root.rglob("*"):
            name = path.relative_to(track.root).as_posix()
            if path.is_file() and path.name != "lock":
                assert all(found[name] == sha256(path) for found in safe), name
    assert len(manifests) > 3
    disk.close()
