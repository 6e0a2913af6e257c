"""Killed at any moment: what is run again ends with the results of an unbroken run, to the bit."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest
from faulty import (
    LOW,
    NAME,
    VALUES,
    Track,
    assert_same_file,
    assert_same_results,
    command_in_child,
    ended,
    snakemake,
)

from lowrank.files import atomic, atomic_dir, scratch

CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "fcntl.flock"}
TRIALS = 6
KILLS = 4
"""At most, of one job."""


def changes_a_file(event: str, arguments: tuple) -> bool:
    if event == "open":
        return isinstance(arguments[2], int) and bool(arguments[2] & (os.O_WRONLY | os.O_RDWR))
    return event in CHANGES


def killed_at_event(command: list[str], number: signal.Signals, count: int) -> int:
    """Run a command that is killed when it is about to change a file for the `count`-th time."""

    def arm() -> None:
        seen = 0

        def hook(event: str, arguments: tuple) -> None:
            nonlocal seen
            if changes_a_file(event, arguments):
                seen += 1
                if seen == count:
                    os.kill(os.getpid(), number)

        sys.addaudithook(hook)

    return ended(command_in_child(command, arm))


def killed_after(command: list[str], number: signal.Signals, seconds: float) -> int:
    """Run a command that is killed from outside after so many seconds."""
    child = command_in_child(command)
    time.sleep(seconds)
    os.kill(child, number)
    return ended(child)


@pytest.fixture(scope="module")
def tally():
    """How many kills hit their job, shown at the end."""
    found = {"killed": 0, "terminated": 0, "too late": 0}
    yield found
    print(f"\nkills: {found}")
    assert found["killed"] >= 20 and found["terminated"] >= 20, found


@pytest.mark.parametrize("seed", range(TRIALS))
def test_a_pipeline_of_killed_jobs_ends_with_the_unbroken_results(seed, whole, tmp_path, tally):
    rng = random.Random(seed)
    track = Track(tmp_path / "results/tiny")
    track.begin()
    for job in track.jobs():
        for _ in range(rng.randint(1, KILLS)):
            number = rng.choice([signal.SIGKILL, signal.SIGTERM])
            left = set(track.root.rglob("*.part"))  # by a SIGKILL before
            if rng.random() < 0.7:
                status = killed_at_event(job, number, int(2 ** rng.uniform(0, 8)))
            else:
                status = killed_after(job, number, rng.uniform(0, 0.25))
            # Terminated before the command has begun, the process ends by the signal itself.
            expected = {-signal.SIGKILL} if number == signal.SIGKILL else {128 + number, -number}
            assert status in {0, *expected}, job[0]
            tally["too late" if status == 0 else "killed" if status < 0 else "terminated"] += 1
            if status > 0:
                new = set(track.root.rglob("*.part")) - left
                assert not new, "terminated, but not tidied up"
        assert ended(command_in_child(job)) == 0, job[0]
    assert track.temporary() == []
    assert_same_results(whole, track)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_run_that_forks_survives_a_kill_before_each_of_its_changes(number, whole, tmp_path):
    """Every change of a file in turn: checkpoints, forks, prunes, tables, manifest."""
    count, step = (1, 14) if number == signal.SIGKILL else (8, 14)
    status, job = 1, whole.train("spectral-r0.5-pre0.5")
    track = Track(tmp_path / "results/tiny")
    track.begin()
    for folder in ("data", "rates"):
        shutil.copytree(whole.root / folder, track.root / folder)
    job = track.train("spectral-r0.5-pre0.5")
    while status != 0:
        shutil.rmtree(track.root / "runs", ignore_errors=True)
        status = killed_at_event(job, number, count)
        if status != 0:
            assert ended(command_in_child(job)) == 0
        count += step
        assert track.temporary() == []
        for table in ("runs", "history", "layers", "spectra"):
            path = f"cells/{NAME}/spectral-r0.5-pre0.5/{table}.parquet"
            assert_same_file(whole.root / path, track.root / path)


def test_what_a_killed_writer_left_goes_when_it_is_written_again_and_not_while_it_lives(tmp_path):
    target = tmp_path / "table"

    def write() -> None:
        with atomic_dir(target) as folder, atomic(folder / "inner") as inner:
            inner.write_text("half", encoding="utf-8")
            time.sleep(60)

    child = os.fork()
    if child == 0:
        write()
        os._exit(0)
    while not list(tmp_path.glob(".table.*.part/table/.inner.*.part/inner")):
        time.sleep(0.01)
    with atomic(target) as path:
        path.write_text("whole", encoding="utf-8")
    assert len(list(tmp_path.glob(".table.*.part"))) == 1, "the living writer's folder was taken"
    os.kill(child, signal.SIGKILL)
    ended(child)
    with scratch(target):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["table"]
    assert target.read_text(encoding="utf-8") == "whole"


def test_sigterm_ends_a_command_with_status_143_without_a_traceback(whole, tmp_path):
    track = Track(tmp_path)
    track.begin()
    command = [sys.executable, "-m", "lowrank.cli", *track.prepare()]
    source = f"import time, lowrank.data.images as i; i.read_rows = lambda *a: {{}}[print('on', flush=True) or time.sleep(60)]; from lowrank.cli import main; main({command[3:]!r})"
    process = subprocess.Popen(
        [sys.executable, "-c", source], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None and process.stdout.readline() == "on\n"
    assert list((tmp_path / "data").glob(".*.part"))
    process.terminate()
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 143 and errors == ""
    assert not list((tmp_path / "data").iterdir())


@pytest.mark.pipeline
def test_snakemake_goes_on_after_it_was_killed_and_terminated(whole, tmp_path):
    command = snakemake(tmp_path, f"results/tiny/cells/{NAME}/{LOW}/runs.parquet", VALUES)
    results = tmp_path / "results/tiny"
    # First the data are ready and runs are under way, then the sweep is done.
    for number, sign in (
        (signal.SIGKILL, "runs/*/checkpoint-*"),
        (signal.SIGTERM, f"rates/{NAME}/*.json"),
    ):
        process = subprocess.Popen(
            command,
            cwd=tmp_path,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        while not list(results.glob(sign)):
            assert process.poll() is None, process.communicate()[1].decode()
            time.sleep(0.005)
        os.kill(process.pid, number)
        process.communicate(timeout=100)
        assert process.returncode != 0
        if list((tmp_path / ".snakemake/locks").glob("*")):
            assert number == signal.SIGKILL  # what `snakemake --unlock` does, without its 3 seconds
            shutil.rmtree(tmp_path / ".snakemake/locks")
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for table in ("runs", "history", "layers", "spectra"):
        path = f"cells/{NAME}/{LOW}/{table}.parquet"
        assert_same_file(whole.root / path, results / path)
    assert not [path for path in results.rglob("*") if path.name.endswith(".part")]


@pytest.mark.parametrize("room", [64, 200, 320])
def test_a_full_disk_is_one_sentence_and_costs_nothing_finished(room, whole, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={room}k", "tmpfs", str(disk)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("a small file system can only be mounted by root")
    try:
        track = Track(disk / "tiny")
        stopped = None
        try:
            track.begin()
        except Exception as error:
            stopped = str(error)
        for job in track.jobs() if stopped is None else []:
            status, message = track.run(job)
            if status != 0:
                assert status == 2
                stopped = message
                break
        assert stopped is not None and "the disk is full; free some space and run again" in stopped
        assert "\n" not in stopped
        assert not [path for path in disk.rglob("*") if path.name.endswith(".part")]
        finished = {path for path in disk.rglob("*") if path.is_file()}
        before = {
            path: path.stat().st_mtime_ns for path in finished if path.name == "manifest.json"
        }
        subprocess.run(["mount", "-o", "remount,size=16m", str(disk)], check=True)
        track.begin()
        for job in track.jobs()[1 if track.root.joinpath("data", NAME).is_dir() else 0 :]:
            assert track.run(job) == (0, "")
        assert_same_results(whole, track)
        for path, written in before.items():
            if path.parent.parent.name in ("runs", "data"):
                assert path.stat().st_mtime_ns == written, "what was finished was made again"
    finally:
        subprocess.run(["umount", str(disk)], check=True)
