"""Finding a user's files: those of a text split, and the folder tree of a set of images."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from lowrank.data.formats import KINDS, PLAIN_TEXT, endings, kind_of
from lowrank.errors import LowrankError

Where = str | tuple[str, ...] | None


@dataclass
class Found:
    """The files that were asked for, and those in the same folders that are not read."""

    files: list[Path] = field(default_factory=list)
    left_out: list[Path] = field(default_factory=list)


def walk(folder: Path) -> Iterator[str]:
    """The paths of all files under a folder but hidden ones, sorted by name; links are followed.

    They are strings, which take a tenth of the time where there are a hundred thousand.

    Raises LowrankError for a link that leads nowhere, or to a folder that it lies in.
    """
    yield from _walk(str(folder), (os.path.realpath(folder),))


def _walk(folder: str, above: tuple[str, ...]) -> Iterator[str]:
    with os.scandir(folder) as entries:
        visible = sorted((e for e in entries if not e.name.startswith(".")), key=lambda e: e.name)
    for entry in visible:
        if entry.is_dir():
            real = os.path.realpath(entry.path) if entry.is_symlink() else ""
            if real in above:
                raise LowrankError(f"{entry.path} is a link to a folder around it: remove it.")
            yield from _walk(entry.path, (*above, real or os.path.join(above[-1], entry.name)))
        elif entry.is_file():
            yield entry.path
        elif entry.is_symlink():
            raise _dangling(entry.path)


def placed(path: str) -> str:
    """A path of a configuration: `~` is the home folder, and a leading `data/` the folder that the environment
    variable LOWRANK_DATA names, where it is set."""
    if path.startswith("data/") and (folder := os.environ.get("LOWRANK_DATA")):
        path = f"{folder}{path.removeprefix('data')}"
    return os.path.expanduser(path)


def find_files(where: Where, root: Path | None = None) -> Found:
    """The files that a path, a glob, a folder, or several of them stand for, sorted and once each.

    A file, or one that matches a glob, must have an ending that is known. From a folder its tables
    and .txt files are taken, if there are none its other plain text, if there is none its files
    without an ending. Relative paths count from `root` (None: the current folder). Raises
    LowrankError where there is nothing.
    """
    base = Path.cwd() if root is None else Path(root)
    found, left_out = set(), set()
    for item in [where] if isinstance(where, str) else list(where or ()):
        item = placed(item)
        path = (base / item).absolute()
        if path.is_dir():
            inside = _from_folder(path)
            found.update(inside.files)
            left_out.update(inside.left_out)
            continue
        if path.is_file():
            files = [path]
        elif glob.has_magic(item):
            names = glob.glob(item, root_dir=base, recursive=True)
            matches = [(base / name).absolute() for name in names]
            files = [match for match in matches if _is_file(match)]
            if "**" not in item:
                left_out.update(set(matches) - set(files))
            if not files:
                raise LowrankError(f"No file matches {path}: correct the pattern or the folder.")
        else:
            raise LowrankError(f"{path} is missing: give a file, a glob or a folder that exists.")
        for file in files:
            kind_of(file)
        found.update(files)
    return Found(sorted(found), sorted(left_out - found))


def _from_folder(folder: Path) -> Found:
    inside = [Path(file) for file in walk(folder)]
    if not inside:
        raise LowrankError(f"The folder {folder} holds no files: put the data there.")
    further = set(PLAIN_TEXT) - {""}
    for wanted in (set(KINDS) - set(PLAIN_TEXT), further, {""}):
        if taken := [file for file in inside if endings(file)[0] in wanted]:
            rest = set(inside) - set(taken)
            return Found(taken, sorted(rest))
    kind_of(inside[0])  # says which endings are known
    raise AssertionError(inside[0])


def find_tokenizer(name: str, root: Path | None = None) -> Path | None:
    """The `tokenizer.json` that a name stands for, a file or the folder that holds it; None where
    there is none."""
    path = (root or Path.cwd()) / placed(name)
    path = path / "tokenizer.json" if path.is_dir() else path
    return path if path.is_file() else None


def _is_file(path: Path) -> bool:
    """Whether a path is a file; a link to nothing is a LowrankError."""
    if path.is_symlink() and not path.exists():
        raise _dangling(path)
    return path.is_file()


def _dangling(path: Path | str) -> LowrankError:
    return LowrankError(f"{path} is a broken link: fix or remove it.")
