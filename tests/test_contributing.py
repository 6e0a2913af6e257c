"""The recipes of CONTRIBUTING.md, section by section, in a copy of the project; and how it is checked."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
RECIPES = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL))
FOLDERS = (
    "config",
    "docs",
    "notebooks",
    "paper",
    "published",
    "profiles",
    "src",
    "tests",
    "workflow",
)


@pytest.fixture
def copy(tmp_path):
    """The project without environment and results."""
    for name in FOLDERS:
        shutil.copytree(
            ROOT / name,
            tmp_path / name,
            ignore=shutil.ignore_patterns("*.egg-info", "*.pdf", "*.pyc.*"),
        )
    for name in ("README.md", "Snakefile", "environment.yml", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def write(block: str, folder: Path) -> None:
    """A block as the file that its first line names, which must be new."""
    path = folder / block.partition("\n")[0].removeprefix("# ")
    assert not path.exists()
    path.parent.mkdir(exist_ok=True)
    path.write_text(block.partition("\n")[2], encoding="utf-8")


def patch(block: str, folder: Path) -> None:
    """Change the file that the first line names; the lines that stay must be there once."""
    name, *lines = block.splitlines()
    path = folder / name.removeprefix("# ")
    text = path.read_text(encoding="utf-8")
    old, new = (
        "".join(f"{line[1:]}\n" for line in lines if line[0] in signs) for signs in (" -", " +")
    )
    assert text.count(old) == 1, f"{name}: {old!r}"
    path.write_text(text.replace(old, new), encoding="utf-8")


def run(block: str, folder: Path) -> None:
    """Commands, in a shell that stops at the first that fails, with the copy's sources."""
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(folder / "src"),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", block],
        cwd=folder,
        env=environment,
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


ACTIONS = {"python": write, "yaml": write, "diff": patch, "sh": run}


@pytest.mark.pipeline
@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_works_as_it_is_written(name, copy):
    blocks = re.findall(r"^```(\w+)\n(.*?)^```", RECIPES[name], re.MULTILINE | re.DOTALL)
    assert {kind for kind, _ in blocks} & {"python", "yaml"}
    for kind, block in blocks:
        ACTIONS[kind](block, copy)


def test_the_commits_hook_checks_what_lint_does():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    lint = makefile.split("\nlint:")[1].split("\n\n")[0]
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    entries = [hook["entry"] for repo in config["repos"] for hook in repo["hooks"]]
    for tool in re.findall(r"\$\(BIN\)/(\w+)", lint):
        assert any(f".venv/bin/{tool}" in entry for entry in entries), tool
    assert "nbstripout" in entries


def test_continuous_integration_calls_the_one_script():
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    (job,) = workflow["jobs"].values()
    assert [step["run"] for step in job["steps"] if "run" in step] == [".ci/run"]
    assert os.access(ROOT / ".ci/run", os.X_OK)


def test_the_version_has_its_entry_in_the_changelog_and_the_citation():
    version = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(r"^## (.+)$", changelog, re.MULTILINE)[1] == version
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))["version"] == version


def test_every_file_of_tests_has_a_name_of_its_own():
    """pytest imports them by that name."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert not {name for name in names if names.count(name) > 1}


def test_types_are_part_of_the_package():
    package = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]
    assert "py.typed" in package["package-data"]["lowrank"]
    assert (ROOT / "src/lowrank/py.typed").is_file()
