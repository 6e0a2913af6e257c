"""A folder in which the studies run: workflow, configurations, notebooks, published tables."""

from __future__ import annotations

import shutil
import tomllib
from collections.abc import Iterable
from pathlib import Path

from lowrank.errors import LowrankError

PACKAGE = Path(__file__).parents[1]


def init(folder: Path) -> list[str]:
    """Copy the project's files into a new or empty folder; returns their paths in it.

    They come from the installed package, or from the repository of an editable installation. A folder
    that holds something is a LowrankError, and nothing is written.
    """
    if folder.is_dir() and any(folder.iterdir()):
        raise LowrankError(f"{folder} is not empty: give a new folder, or delete what is in it.")
    files = _files()
    for name, path in files.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    return list(files)


def _files() -> dict[str, Path]:
    carried, repository = PACKAGE / "project", PACKAGE.parents[1]
    if carried.is_dir():
        return {p.relative_to(carried).as_posix(): p for p in _sorted(carried.rglob("*"))}
    settings = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))
    found = [p for glob in settings["tool"]["lowrank"]["project"] for p in repository.glob(glob)]
    return {p.relative_to(repository).as_posix(): p for p in _sorted(found)}


def _sorted(paths: Iterable[Path]) -> list[Path]:
    return sorted({path for path in paths if path.is_file()})
