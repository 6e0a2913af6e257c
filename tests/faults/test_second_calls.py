"""A call that failed is not finished: the next one does the failed job again, or fails again."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from faulty import LOW, NAME, ROOT, VALUES, snakemake

from lowrank.experiment import config
from lowrank.parquet import read_table
from lowrank.workflow.scale import Scale

ENVIRONMENT = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def call(folder: Path, target: str, *more: str) -> tuple[int, str]:
    command = snakemake(folder, target, VALUES, *more)
    done = subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def finished(whole, tmp_path_factory) -> Path:
    """A project that has everything, as far as Snakemake knows: what stands for figures and report is empty."""
    folder = tmp_path_factory.mktemp("finished")
    shutil.copytree(whole.root, folder / "results/tiny")
    scale = Scale(config.parse(VALUES))
    shutil.copytree(ROOT / "paper", folder / "paper", ignore=shutil.ignore_patterns("*.pdf"))
    for name in (*scale.figures.files, scale.paper):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    assert call(folder, "paper", "--touch", "--forceall")[0] == 0
    return folder


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    files = [p for top in ("results", "figures") for p in (folder / top).rglob("*") if p.is_file()]
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_size) for path in files}


@pytest.mark.parametrize(
    ("target", "place"),
    [
        ("figures", "The figures are in figures/tiny."),
        ("methods", "The figures are in figures/tiny."),
        ("tables", ""),
        ("paper", "The report is paper/tiny/paper.pdf."),
    ],
)
@pytest.mark.parametrize("more", [("--dry-run",), ()], ids=["dry run", "run"])
def test_nothing_is_to_be_done_where_everything_is_there(target, place, more, finished):
    before = tree(finished)
    status, said = call(finished, target, *more)
    (line,) = [line for line in said.splitlines() if line.startswith("Nothing to be done")]
    assert status == 0 and line.endswith(f"up to date). {place}".rstrip())
    assert tree(finished) == before


DAMAGED = {
    "tables/runs.parquet": "collect_tables",
    f"cells/{NAME}/{LOW}/layers.parquet": "train_cell",
    f"rates/{NAME}/{LOW}.json": "sweep_rate",
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_is_said_at_every_call_until_it_is_deleted(name, finished, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "project", symlinks=True)
    file = Path("results/tiny") / name
    (folder / file).write_bytes(b"")
    for _ in range(2):
        status, said = call(folder, "figures")
        assert status == 1 and f"{file} is damaged" in said, said
    (folder / file).unlink()
    status, said = call(folder, "figures", "--dry-run")
    assert status == 0 and f"1 {DAMAGED[name]}" in said and "1 judge_claims" in said


@pytest.mark.parametrize("target", ["figures", "methods", "tables", "paper", "publish"])
def test_what_a_failed_job_left_missing_is_made_again(target, finished, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "project", symlinks=True)
    (folder / "results/tiny/data" / NAME / "manifest.json").unlink()
    status, said = call(folder, target, "--dry-run")
    assert status == 0 and "1 prepare_data" in said and "1 collect_tables" in said


def test_the_readmes_commands_train_a_cell_again(finished, tmp_path):
    folder = shutil.copytree(finished, tmp_path / "project", symlinks=True)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    block = re.search(r"```\n(table=\S+\nrm .*?)```", readme, re.DOTALL)[1]
    for here, there in {"laptop": "tiny", "language": NAME, "spectral-r0.62": LOW}.items():
        block = block.replace(here, there)
    *delete, again = block.splitlines()
    assert again == "snakemake --cores all figures"
    (run,) = read_table(folder / f"results/tiny/cells/{NAME}/{LOW}/runs.parquet")["digest"]
    assert (folder / "results/tiny/runs" / run).is_dir()
    script = ["bash", "-euc", "\n".join(delete)]
    subprocess.run(script, cwd=folder, env=ENVIRONMENT, check=True)
    assert not (folder / "results/tiny/runs" / run).exists()
    status, said = call(folder, "figures", "--dry-run")
    assert status == 0 and "1 train_cell" in said and "prepare_data" not in said
