"""The pipeline on a real Slurm, with a job killed and a node lost, ends where a local run ends."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml
from machine import Machine, machine, processes, wait_until, why_not

from lowrank.files import read_json
from lowrank.parquet import read_table

ROOT = Path(__file__).parents[2]
READY = ROOT / ".venv-slurm" / "ready"
PLUGIN = READY.parent / "bin" / "python"
CONFIG = Path(__file__).with_name("config.yaml")
CLOCKS = [
    "seconds",
    "step_seconds",
    "train_seconds",
    "positions_per_second",
    "peak_memory_bytes",
    "finished_at",
    "seconds_a_pair",
]
# Not all figures: one shows that notebooks run in a job, and every job costs ten seconds.
FIGURE = "figures/cluster/language/initialisation.pdf"
TABLES = "results/cluster/tables"
DENSE, SPECTRAL = (
    "train_cell_wildcards_language_dense",
    "train_cell_wildcards_language_spectral-r0.5",
)


def copy(folder: Path) -> Path:
    """What the pipeline reads from the repository, so that its results lie elsewhere."""
    for name in ("config", "notebooks", "profiles", "src", "workflow"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("*.pyc.*"))
    shutil.copy(ROOT / "Snakefile", folder)
    return folder


def write_profile(folder: Path) -> Path:
    """The project's Slurm profile, edited as docs/clusters.md has one edit it for one's own cluster."""
    profile = yaml.safe_load((ROOT / "profiles/slurm/config.yaml").read_text(encoding="utf-8"))
    profile["default-resources"]["slurm_partition"] = "main"
    profile["set-resources"]["train_cell"]["gpu"] = 1  # a stand-in: the job computes on the CPU
    profile["slurm-init-seconds-before-status-checks"] = 2  # its jobs are short
    profile["latency-wait"] = 10
    path = folder / "own" / "config.yaml"
    path.parent.mkdir()
    path.write_text(yaml.safe_dump(profile), encoding="utf-8")
    return path.parent


def snakemake(
    python: Path, folder: Path, environment: dict[str, str], *words: str
) -> subprocess.Popen:
    paths = [str(python.parent), str(Path(sys.executable).parent), environment["PATH"]]
    with (folder / "output.log").open("wb") as log:
        return subprocess.Popen(
            [python, "-m", "snakemake", *words, "--configfile", CONFIG],
            cwd=folder,
            env={**environment, "PATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def training(slurm: Machine, folder: Path, what: str, dense: bool) -> dict[str, str] | None:
    """The running job of a cell, once one of its runs has left a checkpoint."""
    for job in slurm.jobs():
        if job["what"].endswith(what) and job["state"] == "RUNNING":
            for checkpoint in (folder / "results/cluster/runs").glob(
                "*/checkpoint-*/manifest.json"
            ):
                spec = checkpoint.parents[1] / "spec.json"
                if (read_json(spec)["factors"] is None) == dense:
                    return job
    return None


def kill_training(job: dict[str, str]) -> None:
    """SIGKILL for the process that trains, as the kernel does when memory runs out."""
    for process in processes(SLURM_JOB_ID=job["id"]):
        with contextlib.suppress(OSError):
            words = Path(f"/proc/{process}/cmdline").read_text(encoding="utf-8").split("\0")
            if any(word.endswith("bin/lowrank") for word in words):
                os.kill(process, signal.SIGKILL)


def results(path: Path) -> pd.DataFrame:
    """A table without what clocks and memory say."""
    table = read_table(path).drop(columns=CLOCKS, errors="ignore")
    if "metric" in table:
        table = table[~table["metric"].isin(CLOCKS)].reset_index(drop=True)
    return table


@pytest.mark.slurm
def test_a_killed_job_and_a_lost_node_change_no_result(tmp_path):
    reason = why_not()
    if reason is None and not READY.exists():
        reason = "the Slurm plugin is missing (make .venv-slurm/ready)"
    if reason:
        pytest.skip(reason)
    here, there = copy(tmp_path / "local"), copy(tmp_path / "slurm")
    calls: list[subprocess.Popen] = []
    try:
        with machine() as slurm:
            words = (FIGURE, "--workflow-profile", str(write_profile(there)))
            calls.append(snakemake(PLUGIN, there, slurm.environment, *words))
            words = (f"{TABLES}/runs.parquet", "--cores", "1")
            calls.append(snakemake(Path(sys.executable), here, slurm.environment, *words))

            lost = wait_until(lambda: training(slurm, there, DENSE, True), 240, "the dense cell")
            kill_training(lost)
            downed = wait_until(
                lambda: training(slurm, there, SPECTRAL, False), 240, "the other cell"
            )
            slurm.command(
                "scontrol", "update", f"nodename={downed['nodes']}", "state=down", "reason=test"
            )

            for call in calls:
                assert call.wait(480) == 0, Path(call.args[0])
            jobs = slurm.jobs()
    except BaseException:
        for folder in (here, there):
            print((folder / "output.log").read_text(encoding="utf-8")[-6000:])
        raise
    print(*jobs, sep="\n")

    # Slurm's own book: both jobs failed for the reason meant, and their retries asked for more memory.
    for failed, state, cell in ((lost, "FAILED", DENSE), (downed, "NODE_FAIL", SPECTRAL)):
        tries = [job for job in jobs if job["what"].endswith(cell)]
        assert [job["state"] for job in tries] == [state, "COMPLETED"]
        assert tries[0]["id"] == failed["id"]
        assert [job["memory"] for job in tries] == ["16000M", "32000M"]
        assert all(job["nodes"].startswith("g") for job in tries), "training asked for a GPU"
    assert tries[1]["nodes"] != downed["nodes"], "its node is still down"
    assert (there / FIGURE).stat().st_size > 0

    tables = sorted(path.name for path in (here / TABLES).iterdir())
    assert "runs.parquet" in tables
    for name in tables:
        left, right = (results(folder / TABLES / name) for folder in (here, there))
        pd.testing.assert_frame_equal(left, right, check_exact=True, obj=name)
