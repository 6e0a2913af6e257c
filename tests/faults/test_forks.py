"""The workflow's jobs are forks of one process, which has imported what they need: counted, not timed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from faulty import VALUES, snakemake

pytestmark = [
    pytest.mark.pipeline,
    pytest.mark.skipif(sys.platform != "linux", reason="only there jobs are forked"),
]

WATCH = """
import atexit, json, os, sys

started, known = os.getpid(), set()

def note():
    said = {"process": os.getpid(), "started": started, "command": sys.argv[1:2]}
    said["late"] = sorted(set(sys.modules) - known)
    with open(os.environ["SEEN"], "a") as file:
        file.write(json.dumps(said) + "\\\\n")

os.register_at_fork(after_in_child=lambda: known.update(sys.modules))
atexit.register(note)
""".replace("\\\\n", "\\n")


@pytest.fixture(scope="module")
def processes(tmp_path_factory) -> list[dict]:
    """What each Python process of a run of all figures says of itself at its end."""
    folder = tmp_path_factory.mktemp("forks")
    (folder / "watch").mkdir()
    (folder / "watch/sitecustomize.py").write_text(WATCH, encoding="utf-8")
    env = os.environ | {"PYTHONPATH": str(folder / "watch"), "SEEN": str(folder / "seen")}
    env["PATH"] = f"{Path(sys.executable).parent}:{env['PATH']}"
    run = subprocess.run(
        snakemake(folder, "figures", VALUES), cwd=folder, env=env, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    lines = (folder / "seen").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def forks(processes: list[dict]) -> list[dict]:
    return [p for p in processes if p["process"] != p["started"]]


def test_every_job_is_a_fork_of_one_process(processes):
    assert {p["command"][0] for p in forks(processes)} == {
        *("prepare", "sweep", "train", "evaluate", "measure"),
        *("tables", "claims", "render"),
    }
    assert len({p["started"] for p in forks(processes)}) == 1


def test_what_starts_by_itself_imports_nothing_large(processes):
    (server,) = {p["started"] for p in forks(processes)}
    others = [p for p in processes if p["process"] == p["started"] != server]
    callers = [p for p in others if p["command"] in [f["command"] for f in forks(processes)]]
    assert len(callers) == len(forks(processes))
    for process in callers:
        assert not {"pandas", "pydantic", "yaml"} & {*process["late"]}
        assert len(process["late"]) < 300
    for process in others:
        assert not {"torch", "matplotlib", "scipy", "sklearn"} & {*process["late"]}


def test_a_fork_imports_hardly_anything(processes):
    late = {p["command"][0]: p["late"] for p in forks(processes)}
    assert {job: names for job, names in late.items() if len(names) > 12} == {}
