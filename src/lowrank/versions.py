"""The version of each part of the code that results depend on.

A part's number says which results its code computes. Raise it when a change to the code changes what
that part computes for valid input, and only then: what depends on the part is made again, everything
else stays. Moving or tidying code raises nothing. The parts:

- `text`, `images`: what a prepared data folder holds.
- `training`: everything a run computes, validation and probes included; part of a run's identity.
- `evaluation`: what is read from finished runs on the test set.

What the job of a study computes has its number in the study's record (`version`).

Prepared data enter a run by their content: a raised `text` that yields the same tokens retrains
nothing. The digest of the source itself stands beside every result and decides nothing.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from lowrank.errors import LowrankError

VERSIONS = {
    "text": 4,
    "images": 2,
    "training": 3,
    "evaluation": 1,
}


def check_prepared(folder: Path, manifest: dict[str, Any], part: str) -> None:
    """Refuse data that another version of `part` (text or images) prepared."""
    made = manifest.get("version", 1)
    if made != VERSIONS[part]:
        raise LowrankError(
            f"{folder} was prepared by version {made} of {part}, and this is version "
            f"{VERSIONS[part]}: prepare it again."
        )


def source_digest(folder: Path = Path(__file__).parent) -> str:
    """16 hexadecimal characters that stand for this package's Python files, names and contents."""
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*.py")}
    found = hashlib.sha256()
    for name in sorted(files):
        found.update(f"{name}\0{hashlib.sha256(files[name].read_bytes()).hexdigest()}\n".encode())
    return found.hexdigest()[:16]
