"""The lists of the mutation run say what the source says; `make mutants` itself takes hours."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from run import HERE, ROOT, SOURCE, listed, targets

FOLDERS = ("analysis", "data", "experiment", "factor", "jobs", "methods", "models", "optimizers")
FOLDERS += ("studies", "train")
"""Those with numerics, each module of which is a target or is left out for a reason."""


@pytest.fixture(scope="module")
def found():
    return targets()


def test_every_change_by_hand_can_be_made(found):
    assert not [mutant.name for target in found for mutant in target.always if not mutant.line]


def test_every_named_survivor_is_a_change_that_can_be_made(found):
    known = {mutant.name for target in found for mutant in (*target.drawn, *target.always)}
    named = yaml.safe_load((HERE / "survivors.yaml").read_text(encoding="utf-8"))
    assert not named.keys() - known


def test_tests_of_targets_are_there(found):
    files = {test.split("::")[0] for target in found for test in target.tests}
    assert not [file for file in files if not (ROOT / file).is_file()]


def test_every_module_with_numbers_is_a_target(found):
    modules = {
        path.relative_to(SOURCE).with_suffix("").as_posix()
        for folder in FOLDERS
        for path in Path(SOURCE / folder).rglob("*.py")
        if path.name != "__init__.py"
    }
    entries = listed()
    assert not modules - entries.keys(), "name it in targets.yaml, or why it is left out"
    assert all((SOURCE / f"{module}.py").is_file() for module in entries)
    assert all(len(entry.get("left_out", "no reason")) > 8 for entry in entries.values())


def test_a_folders_entry_is_for_modules_that_have_none():
    entries = listed()
    assert "left_out" in entries["methods/dense"]
    assert entries["methods/relora"]["tests"] == [
        "tests/methods/test_records.py",
        "tests/methods/test_relora.py",
        "tests/methods/test_registered.py::test_a_run_learns_and_resumes_to_the_bit[relora]",
    ]
    assert "tests/methods/test_lora.py" not in entries["methods/lora"]["tests"]
