"""Calls of the workflow that make only a part of it end without a complaint, and say nothing of old verdicts."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from faulty import ROOT, VALUES, snakemake

from lowrank.experiment.study import jobs

SWEEP, TRAIN = ("--forcerun", "sweep_rate"), ("--forcerun", "train_cell")
MANUAL = (ROOT / "docs/workflow.md").read_text(encoding="utf-8")
OMITTED = re.findall(r"`(--omit-from [a-z_ ]+)`", MANUAL)[0].split()


@pytest.fixture(scope="module")
def project(whole, tmp_path_factory) -> Path:
    """A folder with trained cells, and tables and claims that were made from them, as all jobs write them."""
    folder = tmp_path_factory.mktemp("partial")
    shutil.copytree(whole.root, folder / "results/tiny")
    return folder


def call(folder: Path, *more: str, target: str = "figures") -> str:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    command = snakemake(folder, target, VALUES, *more)
    done = subprocess.run(
        command, cwd=folder, env=os.environ | {"PATH": path}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def complaints(output: str) -> list[str]:
    words = (
        "error",
        "warning",
        "traceback",
        "is missing",
        "figures are in",
        "supported",
        "verdict",
    )
    return [line for line in output.splitlines() if any(word in line.lower() for word in words)]


@pytest.mark.parametrize("claims", ["there", "missing"])
@pytest.mark.parametrize(
    "more",
    [
        ("--until", "sweep_rate", *SWEEP),
        (*OMITTED, *TRAIN),
        ("--touch", "--until", "sweep_rate", *SWEEP),
        ("--dry-run",),
    ],
    ids=["until", "omit-from", "touch", "dry run"],
)
def test_a_call_that_makes_a_part_says_nothing_of_figures_or_verdicts(
    more, claims, project, tmp_path
):
    folder = shutil.copytree(project, tmp_path / "project", symlinks=True)
    if claims == "missing":
        (folder / "results/tiny/tables/claims.parquet").unlink()
    output = call(folder, *more)
    assert complaints(output) == []
    assert any(said in output for said in ("Training", "Sweeping", "A dry run"))
    if more[0] in ("--until", "--omit-from"):
        (listed,) = re.findall(r"jobs? to do: (.+)", output)
        assert not re.search("evaluate|measure", listed)


def test_the_manual_omits_all_that_studies_measure():
    assert {name for name in OMITTED if "measure" in name} == {
        f"measure_{study}" for study in jobs()
    }


def test_a_single_target_lists_and_deletions_say_nothing_of_them_either(project, tmp_path):
    folder = shutil.copytree(project, tmp_path / "project", symlinks=True)
    cell = "results/tiny/cells/small-images/dense/runs.parquet"
    assert complaints(call(folder, *TRAIN, target=cell)) == []
    assert complaints(call(folder, "--list-rules")) == []
    assert complaints(call(folder, "--delete-all-output")) == []
    assert not (folder / cell).exists()
