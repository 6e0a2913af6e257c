"""The lists of the mutation run say what the source says; `make mutants` itself takes hours."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from run import HERE, ROOT, SOURCE, targets

FOLDERS = ("analysis", "data", "experiment", "factor", "jobs", "methods", "models", "optimizers")
FOLDERS += ("studies", "train")
"""Those with numerics, each module of which is a target or left out for a reason."""
LEFT_OUT = {
    "words and files": (
        *("analysis/ledger", "analysis/publish", "analysis/shown", "data/formats"),
        *("data/image_files", "data/image_sources", "data/labels", "data/local_files"),
        *("data/originals", "data/sources", "data/embedded", "jobs/check", "jobs/export"),
        *("factor/own", "experiment/experiment", "experiment/extensions", "experiment/targets"),
    ),
    "checks of configurations (tests/experiment/test_config*.py)": (
        *("data/images_spec", "data/spec", "experiment/complaints", "experiment/config"),
        *("experiment/facts", "experiment/sections", "experiment/study"),
    ),
    "a record alone": (
        *("methods/dense", "methods/factored", "models/wide_resnet", "studies/learning_rate"),
    ),
    "times, which say whether they are sound (tests/jobs/test_bench.py)": ("jobs/bench",),
    "several processes (tests/train/test_parallel.py compares them to one)": ("train/parallel",),
}


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
    left_out = {module for names in LEFT_OUT.values() for module in names}
    tried = {target.module for target in found}
    assert modules - tried == left_out, "name it in targets.yaml, or in LEFT_OUT"
