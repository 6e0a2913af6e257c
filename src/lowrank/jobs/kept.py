"""What is found out about a finished run once, and kept in its folder: a job that is stopped goes on from there."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from lowrank.files import MANIFEST, damaged, digest, read_sealed, sha256, write_sealed
from lowrank.train import parallel
from lowrank.train.run import FinishedRun

Found = TypeVar("Found")


def kept(
    run: FinishedRun,
    name: str,
    key: dict[str, Any],
    find: Callable[[], Found],
    possible: Callable[[Any], bool] = lambda _: True,
) -> Found:
    """What `find` returns, from the run's `<name>.json` if that holds it, else found out and written there, where
    the folder can be written and JSON has words for all of it. `key` says what it follows from beside the run.

    Something kept that is not `possible` is a LowrankError.
    """
    path = run.folder / f"{name}.json"
    key = {**key, "manifest": sha256(run.folder / MANIFEST)}
    if path.is_file():
        values = read_sealed(path)
        if values.get("key") == key and "metrics" in values:
            if not possible(values["metrics"]):
                raise damaged(path, "no model has these metrics")
            return values["metrics"]
    found = find()
    if os.access(run.folder, os.W_OK):
        # Whoever holds the lock clears temporary files away. What is infinite or NaN is found out again.
        with parallel.locked(run.folder / "lock"), suppress(ValueError):
            write_sealed(path, {"key": key, "metrics": found})
    return found


def kept_beside(
    runs: Sequence[FinishedRun], name: str, key: dict[str, Any], find: Callable[[], Found]
) -> Found:
    """`kept` with the first of the runs that it is of, beside what there is of other keys and further runs: in a
    file of its own."""
    first, *others = runs
    file = f"{name}-{digest([key, [other.folder.name for other in others]])}"
    manifests = [sha256(other.folder / MANIFEST) for other in others]
    return kept(first, file, {**key, "others": manifests}, find)
