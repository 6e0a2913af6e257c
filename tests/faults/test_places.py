"""Disks that cannot be written, users that may not, folders shared: a sentence, and nothing is lost."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from faulty import (
    DENSE,
    LOW,
    NAME,
    Track,
    assert_same_file,
    assert_same_results,
    command_in_child,
    ended,
)

from lowrank.parquet import read_table

NEW_MOUNTS = 0x20000  # CLONE_NEWNS
NOBODY = 65534
ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount and change user")


def outcome(command: list[str], folder: Path, before: Callable[[], None]) -> tuple[int, str]:
    """Exit status and what a command prints to stderr, run in a child that first calls `before`."""
    log = folder / "stderr"
    log.touch(mode=0o666)

    def prepared() -> None:
        sys.stderr = log.open("w", encoding="utf-8", buffering=1)
        before()

    status = ended(command_in_child(command, prepared))
    return status, log.read_text(encoding="utf-8")


def mounted(*arguments: str | Path) -> None:
    """Mount for this process alone."""
    if ctypes.CDLL(None, use_errno=True).unshare(NEW_MOUNTS) != 0:
        os._exit(77)
    for one in (("--make-rprivate", "/"), arguments):
        if subprocess.run(["mount", *map(str, one)], capture_output=True).returncode != 0:
            os._exit(77)


def read_only(folder: Path) -> Callable[[], None]:
    def mount() -> None:
        mounted("--bind", folder, folder)
        mounted("-o", "remount,bind,ro", folder)

    return mount


@pytest.fixture
def track(whole) -> Iterator[Track]:
    """A copy of the finished track, where every user can reach it."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    copy = Track(folder / "results/tiny")
    shutil.copytree(whole.root, copy.root)
    copy.root.chmod(0o755)
    yield copy
    shutil.rmtree(folder)


def contents(folder: Path) -> dict[str, tuple[int, bytes]]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def as_nobody() -> None:
    os.setgroups([])
    os.setgid(NOBODY)
    os.setuid(NOBODY)


def command_elsewhere(track: Track, command: list[str]) -> list[str]:
    """The same command with its output in a folder that all may write."""
    place = track.root.parent / "out"
    place.mkdir(mode=0o777, exist_ok=True)
    place.chmod(0o777)
    at = command.index("--output") + 1
    return [*command[:at], str(place / Path(command[at]).name), *command[at + 1 :]]


@ROOT_ONLY
@pytest.mark.parametrize("who", ["on a read-only disk", "of another user"])
def test_finished_runs_that_cannot_be_written_are_read(who, whole, track):
    runs = track.root / "runs"
    for kept in runs.glob("*/test.json"):
        kept.unlink()
    before = contents(runs)
    prepared = read_only(runs) if who == "on a read-only disk" else as_nobody
    for command in (track.train(LOW), track.evaluate()):
        status, said = outcome(command_elsewhere(track, command), track.root.parent, prepared)
        if status == 77:
            pytest.skip("nothing can be mounted here")
        assert status == 0, said
    assert contents(runs) == before
    out = track.root.parent / "out"
    assert_same_file(whole.root / f"cells/{NAME}/{LOW}/runs.parquet", out / LOW / "runs.parquet")
    assert_same_file(whole.root / f"evaluations/{NAME}.parquet", out / f"{NAME}.parquet")


@ROOT_ONLY
@pytest.mark.parametrize(
    ("who", "reason"),
    [("on a read-only disk", "Read-only file system"), ("of another user", "Permission denied")],
)
def test_a_run_that_cannot_be_kept_is_one_sentence(who, reason, track):
    runs = track.root / "runs"
    digest = read_table(track.root / f"cells/{NAME}/{LOW}/runs.parquet")["digest"][0]
    shutil.rmtree(runs / digest)
    before = contents(track.root)
    prepared = read_only(runs) if who == "on a read-only disk" else as_nobody
    command = command_elsewhere(track, track.train(LOW))
    status, said = outcome(command, track.root.parent, prepared)
    if status == 77:
        pytest.skip("nothing can be mounted here")
    assert (status, said) == (2, f"Error: Could not write {runs / digest}: {reason}.\n")
    assert contents(track.root) == before


@ROOT_ONLY
@pytest.mark.parametrize("part", ["cells", "runs", "data"])
def test_what_may_not_be_read_is_one_sentence(part, track):
    """As after a colleague's umask 077."""
    for path in (track.root / part).rglob("*"):
        path.chmod(0o700 if path.is_dir() else 0o600)
    command = track.tables() if part == "cells" else track.train(LOW)
    status, said = outcome(command_elsewhere(track, command), track.root.parent, as_nobody)
    assert status == 2
    said = said.splitlines()[-1]  # click says first how an option is used
    assert said.startswith("Error: ") and ("Permission denied" in said or "not readable" in said)
    assert str(track.root / part) in said


def test_files_may_be_read_by_whom_the_umask_lets(whole):
    """Those that libraries write, too."""
    umask = os.umask(0)
    os.umask(umask)
    for path in (path for path in whole.root.rglob("*") if path.is_file() and path.name != "lock"):
        assert path.stat().st_mode & 0o777 == 0o666 & ~umask, path


def test_umask_077_hides_files_from_others_and_nothing_else(whole, tmp_path):
    track = Track(tmp_path / "results/tiny")
    old = os.umask(0o077)
    try:
        track.begin()
        for job in (track.prepare(), track.sweep(LOW), track.train(LOW)):
            assert track.run(job) == (0, "")
    finally:
        os.umask(old)
    assert all(path.stat().st_mode & 0o077 == 0 for path in track.root.rglob("*"))
    name = f"cells/{NAME}/{LOW}/runs.parquet"
    assert_same_file(whole.root / name, track.root / name)


@ROOT_ONLY
def test_without_shared_memory_home_or_temporary_folder_jobs_run(whole, tmp_path):
    track = Track(tmp_path / "results/tiny")
    track.begin()

    def before() -> None:
        mounted("-t", "tmpfs", "-o", "ro,size=4k", "tmpfs", "/dev/shm")
        os.environ.pop("HOME", None)
        os.environ["TMPDIR"] = "/nowhere"
        tempfile.tempdir = None

    for job in (track.prepare(), track.sweep(LOW), track.train(LOW)):
        status, said = outcome(job, tmp_path, before)
        if status == 77:
            pytest.skip("nothing can be mounted here")
        assert status == 0, said
    name = f"cells/{NAME}/{LOW}/runs.parquet"
    assert_same_file(whole.root / name, track.root / name)


def test_two_clones_that_share_results_make_everything_once_and_the_same(whole, tmp_path):
    """Every job twice at the same time; the second finds what the first has made, or makes it again."""
    track = Track(tmp_path / "results/tiny")
    track.begin()
    for job in track.jobs():
        children = [command_in_child(job) for _ in range(2)]
        assert [ended(child) for child in children] == [0, 0], job[0]
    assert track.temporary() == []
    assert_same_results(whole, track)


def test_a_clock_that_goes_backwards_spoils_nothing(whole, tmp_path):
    """Files of tomorrow beside files of now: runs are found by what they are, and not by when."""
    track = Track(tmp_path / "results/tiny")
    shutil.copytree(whole.root, track.root)
    late = 2_000_000_000
    for path in sorted(track.root.rglob("*"))[::2]:
        os.utime(path, (late, late))
    digest = read_table(track.root / f"cells/{NAME}/{DENSE}/runs.parquet")["digest"][0]
    before = (track.root / "runs" / digest / "manifest.json").stat().st_mtime_ns
    for job in track.jobs():
        assert track.run(job) == (0, "")
    assert (track.root / "runs" / digest / "manifest.json").stat().st_mtime_ns == before
    assert_same_results(whole, track)
