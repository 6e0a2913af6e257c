"""What a call of Snakemake prints, on a pipeline of three jobs: a line a job, errors in full, nothing else."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

SNAKEFILE = """
import os

from lowrank import interrupt

interrupt.on_signals()

rule figures:
    input: "a.txt", "b.txt"
    message: "Every figure"

rule train:
    output: "{name}.txt"
    log: "logs/{name}.log"
    message: "Training {wildcards.name}"
    params: do=lambda wildcards: os.environ.get(f"DO_{wildcards.name.upper()}", "true")
    shell: "( {params.do}; touch {output} ) 2>&1 | tee {log}"
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "Snakefile").write_text(SNAKEFILE, encoding="utf-8")
    (tmp_path / "profile.yaml").write_text(
        "logger: lowrank\nrerun-incomplete: true\n", encoding="utf-8"
    )
    return tmp_path


def command(*arguments: str) -> list[str]:
    snakemake = [sys.executable, "-m", "snakemake", "--cores", "2"]
    return [*snakemake, "--workflow-profile", "profile.yaml", *arguments]


def call(folder: Path, *arguments: str, status: int = 0) -> list[str]:
    """The lines that a call printed, without the one on the profile."""
    run = subprocess.run(
        command(*arguments),
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
    )
    assert run.returncode == status, run.stdout
    return run.stdout.splitlines()[1:]


def test_a_run_is_a_line_a_job_with_what_is_done_of_all(folder):
    first, *jobs, last = call(folder)
    assert first == "3 jobs to do: 2 train, 1 figures"
    assert [line[:6] for line in jobs] == ["[1/3] ", "[2/3] "]
    assert {re.sub(r", \d+ s$", "", line[6:]) for line in jobs} == {"Training a", "Training b"}
    assert last == "[3/3] Every figure"


def test_a_failed_jobs_sentence_is_printed_once_with_its_log(folder, monkeypatch):
    monkeypatch.setenv("DO_B", "echo 'Error: b must be positive.' && exit 2")
    lines = call(folder, status=1)
    assert lines.count("Error: b must be positive.") == 1
    assert "Failed: Training b; its log: logs/b.log" in lines
    assert lines[-1].startswith("Failed: Training b. All finished work is kept")
    assert len(lines) <= 5, lines


def test_a_dry_run_names_few_jobs_and_counts_many(folder):
    lines = call(folder, "-n")
    assert lines[:3] == [
        "A dry run: nothing is made. 3 jobs to do:",
        "     2 train",
        "     1 figures",
    ]
    assert set(lines[3:]) == {"Training a", "Training b", "Every figure"}
    text = (folder / "Snakefile").read_text(encoding="utf-8")
    many = ", ".join(f'"{number}.txt"' for number in range(30))
    (folder / "Snakefile").write_text(text.replace('"a.txt", "b.txt"', many), encoding="utf-8")
    assert len(call(folder, "-n")) == 3
    shell = [line for line in call(folder, "-n", "--printshellcmds") if line.startswith("( true;")]
    assert len(shell) == 30


@pytest.mark.parametrize("way", ["Ctrl-C", "hang-up", "SIGINT to Snakemake alone"])
def test_an_interrupted_run_goes_on_without_unlocking(way, folder):
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(folder)
        for number in (signal.SIGINT, signal.SIGHUP):  # which who started the tests may ignore
            signal.signal(number, signal.SIG_DFL)
        os.environ["DO_B"] = "touch b.began && sleep 600"
        os.execv(sys.executable, command())
    until = time.monotonic() + 200
    while not ((folder / "b.began").exists() and (folder / "a.txt").exists()):
        assert time.monotonic() < until
        time.sleep(0.1)
    time.sleep(0.3)  # Snakemake hears of the end of a
    printed = b""
    if way == "Ctrl-C":
        os.write(terminal, b"\x03")
    elif way == "hang-up":
        os.close(terminal)
    else:
        os.kill(pid, signal.SIGINT)
    overdue = threading.Timer(60, os.kill, [pid, signal.SIGKILL])
    overdue.start()
    if way != "hang-up":
        with contextlib.suppress(OSError):  # how a terminal ends
            while more := os.read(terminal, 4096):
                printed += more
        assert b"Interrupted. All finished work is kept" in printed, printed
        assert b"Traceback" not in printed and b"Failed" not in printed, printed.decode()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) in (1, -signal.SIGINT)
    overdue.cancel()
    lines = call(folder)
    assert lines[0] == "2 jobs to do: 1 train, 1 figures", "a is kept"
    assert (folder / "b.txt").exists()
