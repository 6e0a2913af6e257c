"""The wheel by itself: the core without what the studies need, and the studies without the repository.

A fresh environment has the wheel and links to packages of the environment that the tests run in: those that
the core requires, or all.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from test_pipeline import ROOT, planned

from lowrank.command import STUDY

pytestmark = pytest.mark.pipeline
PACKAGES = {"PIL": "pillow", "sklearn": "scikit-learn", "yaml": "pyyaml"}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))

THREE_LINES = """
import sys

import torch
from torch import nn

import lowrank
from lowrank.api.advise import advise, table

model = nn.Sequential(*(nn.Sequential(nn.Linear(16, 16), nn.ReLU()) for _ in range(3)))
x = torch.randn(4, 16)
print(table(advise(model, x, turns=1, seconds=1e-4)))
lowrank.factorize(model, rank=4)
before = model(x)
optimizer = torch.optim.AdamW(lowrank.parameter_groups(model), lr=1e-3)
lowrank.attach_decay(optimizer, model, 0.1).remove()
print(lowrank.report(model), lowrank.effective_rank(model))
assert torch.allclose(lowrank.to_dense(model)(x), before, atol=1e-5)
lowrank.truncate(model, [x], rank=4)
assert "project" not in lowrank.__file__ and "site-packages" in lowrank.__file__, lowrank.__file__
"""


def requirements(names: list[str]) -> set[str]:
    """The packages that come with these, by name."""
    found: set[str] = set()
    while names:
        requirement = Requirement(names.pop())
        name = requirement.name.lower().replace("_", "-")
        wanted = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if wanted and name not in found:
            found.add(name)
            names += metadata.requires(name) or []
    return found


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    clone = folder / "clone"
    for name in [
        line
        for glob in (*PROJECT["tool"]["lowrank"]["project"], "src/**/*", "setup.py", "*.toml")
        for line in map(str, ROOT.glob(glob))
        if Path(line).is_file() and "__pycache__" not in line and ".egg-info" not in line
    ]:
        target = clone / Path(name).relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(name, target)
    shutil.copy(ROOT / "README.md", clone)
    pip(sys.executable, "wheel", "--no-build-isolation", "--wheel-dir", str(folder), str(clone))
    return next(folder.glob("*.whl"))


def pip(python: str | Path, *arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--python", str(python), *arguments]
    run = subprocess.run(
        [*command, "--no-deps", "--no-index", "--quiet"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr


def environment(folder: Path, wheel: Path, packages: Iterable[str] | None = None) -> Path:
    """A new environment with the wheel and these packages, None for all; its folder of programs."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    python = folder / "bin/python"
    site = folder / Path(sysconfig.get_path("purelib")).relative_to(sys.prefix)
    here = Path(sysconfig.get_path("purelib"))
    if packages is None:
        (site / "others.pth").write_text(str(here), encoding="utf-8")
    for package in packages or ():
        for name in {file.parts[0] for file in metadata.files(package) or ()} - {
            "..",
            "__pycache__",
        }:
            if not (site / name).exists():
                (site / name).symlink_to(here / name)
    pip(python, "install", str(wheel))
    return folder / "bin"


def call(programs: Path, *arguments: str, cwd: Path, status: int = 0) -> str:
    run = subprocess.run(
        [str(programs / arguments[0]), *arguments[1:]],
        cwd=cwd,
        env=os.environ | {"PATH": f"{programs}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == status, run.stdout + run.stderr
    return run.stdout + run.stderr


@pytest.fixture(scope="module")
def core(wheel, tmp_path_factory):
    """An environment of the core alone."""
    names = requirements(list(PROJECT["project"]["dependencies"]))
    return environment(tmp_path_factory.mktemp("core") / "env", wheel, names)


@pytest.fixture(scope="module")
def study(wheel, tmp_path_factory):
    """An environment with everything."""
    return environment(tmp_path_factory.mktemp("study") / "env", wheel)


def test_the_core_factorises_measures_and_advises(core, tmp_path):
    (tmp_path / "three.py").write_text(THREE_LINES, encoding="utf-8")
    output = call(core, "python", "-W", "ignore", "three.py", cwd=tmp_path)
    assert "3 of 3 layers are factorised" in output
    assert "faster up to rank" in output


def test_the_core_says_what_brings_the_studies(core, tmp_path):
    assert "init" in call(core, "lowrank", "--help", cwd=tmp_path)
    output = call(core, "lowrank", "plan", "--scale", "smoke", cwd=tmp_path, status=2)
    assert output.startswith("Error: ") and output.count("\n") == 1
    assert (
        "is not installed: it comes with the extra study, pip install '.[study]' in a clone."
        in output
    )


def test_what_the_study_brings_is_known_by_its_modules():
    packages = {PACKAGES.get(module, module) for module in STUDY}
    asked = PROJECT["project"]["optional-dependencies"]["study"]
    assert packages == {re.split("[<>=!~]", requirement)[0] for requirement in asked}


def test_a_folder_of_the_wheel_runs_the_studies(study, tmp_path):
    output = call(study, "lowrank", "init", "my study", cwd=tmp_path)
    assert "cd 'my study' && snakemake --cores all figures --config scale=smoke" in output
    folder = tmp_path / "my study"
    target = ("figures", "--cores", "2", "-n", "--config", "scale=smoke")
    jobs = planned(call(study, "python", "-m", "snakemake", *target, cwd=folder))
    assert jobs["train_cell"] > 5 and jobs["render_figure"] > 5
    published = (*target[:-1], "results_from=published")
    jobs = planned(call(study, "python", "-m", "snakemake", *published, cwd=folder))
    assert "train_cell" not in jobs and jobs["render_figure"] > 5
    refused = call(study, "lowrank", "init", "my study", cwd=tmp_path, status=2)
    assert "my study is not empty" in refused


def test_the_image_installs_the_locks_on_a_python_that_is_supported():
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.M)
    assert all((ROOT / name).exists() for line in copied for name in line.split())
    locks = re.findall(r"-r /locks/(\S+\.lock)", text)
    assert locks == ["requirements.lock", "requirements-torch.lock"] == copied[0].split()
    [version] = set(re.findall(r"^FROM python:(\S+)-slim", text, re.M))
    assert version in SpecifierSet(PROJECT["project"]["requires-python"])
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    needed = {Path(glob).parts[0] for glob in PROJECT["tool"]["lowrank"]["project"]}
    assert not needed & {*ignored} and {".git", "results", ".venv*"} <= {*ignored}


def test_an_editable_installation_writes_the_same_folder(study, tmp_path):
    call(study, "lowrank", "init", "wheel", cwd=tmp_path)
    call(Path(sys.executable).parent, "lowrank", "init", "clone", cwd=tmp_path)
    found = [
        {p.relative_to(root): p.read_bytes() for p in root.rglob("*") if p.is_file()}
        for root in (tmp_path / "wheel", tmp_path / "clone")
    ]
    assert found[0] == found[1] and Path("workflow/rules/common.smk") in found[0]
