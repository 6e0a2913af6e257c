"""The order of the folders: each imports what lies below it and nothing above; and no long modules."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src/lowrank"

BASE = {
    *(
        "errors",
        "files",
        "parquet",
        "durable",
        "frames",
        "progress",
        "versions",
        "registry",
        "escape",
    ),
    *("exponential", "interrupt", "processor", "strict_yaml", "warm"),
}
"""Modules beside the folders that any folder may import, and that import only each other."""
LAYERS = (
    {"factor"},
    {"data", "models", "optimizers"},
    {"methods", "api"},
    {"experiment"},
    {"train"},
    {"jobs"},
    {"studies"},
    {"analysis"},
    {"reports", "plot"},
    {"command", "workflow"},
    {"job_options"},
    {"job_commands", "model_commands"},
    {"cli"},
    {"__main__", "serve"},
)
"""From the bottom; folders of one layer do not import each other."""
LONG = {
    "files.py": "one way to write a file, so that none is ever half written, and its manifests",
    "experiment/sections.py": "the sections of one cell: its identity is made of all of them",
    "experiment/agreement.py": "every rule by which a number follows from others stands in one place",
}
"""Modules of more than 300 lines, and why."""

MODULES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))


def part_of(path: str) -> str:
    """The folder of a module, or its name if it lies beside them."""
    return path.split("/")[0].removesuffix(".py")


def imported(source: str) -> Iterator[tuple[int, str]]:
    """Line and part of every import from the package, also within functions; those for
    annotations alone (`TYPE_CHECKING`) never run, and may name what stands above."""
    tree = ast.parse(source)
    skipped = {
        node
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and ast.unparse(branch.test).endswith("TYPE_CHECKING")
        for child in branch.body
        for node in ast.walk(child)
    }
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        for name in names:
            package, _, rest = name.partition(".")
            if package == "lowrank" and rest and node not in skipped:
                yield node.lineno, rest.split(".")[0]


def height(part: str) -> int:
    return next((i for i, layer in enumerate(LAYERS) if part in layer), -1)


def test_every_part_has_a_place_in_the_order():
    known = BASE.union(*LAYERS) | {"__init__"}
    assert {part_of(path) for path in MODULES} <= known
    assert not [part for part in BASE if f"{part}.py" not in MODULES]


@pytest.mark.parametrize("path", MODULES)
def test_a_module_imports_nothing_from_above_or_beside_its_folder(path):
    own = part_of(path)
    found = imported((PACKAGE / path).read_text(encoding="utf-8"))
    allowed = {
        part for part in BASE.union(*LAYERS) if part == own or height(part) < height(own)
    } | (BASE if own in BASE | {"__init__"} else set())
    wrong = [f"line {line} imports {part}" for line, part in found if part not in allowed]
    assert not wrong, f"{path}: {', '.join(wrong)}"


def test_an_import_upwards_is_seen_wherever_it_stands():
    source = """
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from lowrank.cli import main
def draw():
    from lowrank.train import run
    import lowrank.plot.style
"""
    assert [part for _, part in imported(source)] == ["train", "plot"]


def test_modules_of_more_than_300_lines_say_why():
    lengths = {p: len((PACKAGE / p).read_text(encoding="utf-8").splitlines()) for p in MODULES}
    long = {path for path, length in lengths.items() if length > 300}
    assert long <= LONG.keys(), "split it, or give the reason in LONG"
    assert all(len(reason) > 20 for reason in LONG.values())
