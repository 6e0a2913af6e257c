"""What may be asked of the workflow: a misspelt target is one sentence with the nearest name."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable
from pathlib import PurePath

from lowrank.errors import LowrankError, unknown
from lowrank.experiment.expand import Grid


def check_targets(
    targets: Iterable[str],
    *,
    rules: Collection[str],
    files: Collection[str],
    grid: Grid,
    scale: str,
    scales: Collection[str] = (),
) -> None:
    """Raise a LowrankError for the first target that is neither a rule nor a file that one makes.

    files: every path that can be made, relative to the working folder. scales: those that there are
    configurations of, so that a file of another scale is told from a misspelt one.
    """
    for target in targets:
        path = os.path.relpath(target).replace(os.sep, "/")
        if target not in rules and path not in files:
            _check_cell(path, grid, scale)
            raise _unknown(path, rules, files, scale, scales)


def _check_cell(path: str, grid: Grid, scale: str) -> None:
    """What names a cell is judged as `retrain` is."""
    root = re.escape(f"results/{scale}/")
    if found := re.fullmatch(rf"{root}cells/(.+)/[^/]+\.[a-z]+", path):
        grid.cell(found[1])
    elif (found := re.fullmatch(rf"{root}rates/(.+)\.json", path)) and found[1] not in grid.sweeps:
        raise unknown("sweep", found[1], grid.sweeps)


def _unknown(
    path: str, rules: Collection[str], files: Collection[str], scale: str, scales: Collection[str]
) -> LowrankError:
    """The first part of the path that leads nowhere, and what there is in its place."""
    parts = path.split("/")
    known = [file.split("/") for file in files]
    for depth, part in enumerate(parts):
        here = [file for file in known if file[:depth] == parts[:depth]]
        names = {file[depth] for file in here}
        if part in names:
            continue
        if depth == 0:
            return unknown("target", part, {*rules, *names})
        if depth == 1 and part in scales:
            return LowrankError(f"{path} is of the scale {part}: add --config scale={part}.")
        stem = PurePath(part).stem
        if any(PurePath(name).stem == stem for name in names):
            names = {name for name in names if PurePath(name).stem == stem}
        elif PurePath(part).suffix in {PurePath(name).suffix for name in names}:
            part, names = stem, {PurePath(name).stem for name in names}
        return unknown(f"name in {'/'.join(parts[:depth])}", part, names)
    example = min(file for file in files if file.startswith(f"{path}/"))
    return LowrankError(f"{path} is a folder: name a file in it, such as {example}.")
