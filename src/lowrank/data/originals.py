"""Whether a user's own files are still those from which prepared data were made.

The prepared folder keeps a record: every file's name, SHA-256 and stamp, and one word for all of it,
the state. Where all stamps are as they were, nothing has changed and nothing is read; a file with
another stamp and its old size is hashed, so that content decides.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from lowrank.data.images_spec import ImageSpec
from lowrank.data.local_files import find_files, find_tokenizer
from lowrank.data.spec import TextSpec
from lowrank.errors import LowrankError
from lowrank.files import MANIFEST, digest, known_sha256, read_json, stamp, write_json
from lowrank.versions import VERSIONS

RECORD = "originals.json"
UNREADABLE = "unreadable"
"""The state of files that are missing: who prepares the data says which."""

Spec = TextSpec | ImageSpec


def find(spec: Spec, root: Path | None = None) -> dict[str, str]:
    """All files of the user's that prepared data depend on, by split and name.

    Relative paths count from `root` (None: the current folder). Raises LowrankError for what is
    missing.
    """
    base = str(root or Path.cwd()) + os.sep
    found: dict[str, list[str]] = {}
    if isinstance(spec, ImageSpec):
        if spec.source == "local":
            from lowrank.data.image_files import find_splits

            found = {name: split.files for name, split in find_splits(spec, root).items()}
    else:
        if spec.source == "local":
            for name in ("train", "validation", "test"):
                found[name] = list(map(str, find_files(getattr(spec, name), root).files))
        if spec.tokenizer is not None and (file := find_tokenizer(spec.tokenizer, root)):
            found["tokenizer"] = [str(file)]
    return {
        f"{split}: {file.removeprefix(base)}": file
        for split, files in found.items()
        for file in files
    }


def state(
    spec: Spec, folder: Path | str, root: Path | None = None, *, remember: bool = False
) -> str:
    """A word for the present state of the user's files: the one in the record of the prepared
    `folder` if their names and contents are those recorded there, else a new one.

    "" where nothing depends on files of the user's. With `remember`, files that were found
    unchanged by reading them are known by their new stamps from then on.
    """
    try:
        files = find(spec, root)
        stamps = {name: stamp(file) for name, file in files.items()}
        if not files:
            return ""
        record = _read(folder)
        known = record["files"]
        if list(known) != list(stamps):
            return digest(stamps)
        touched = [name for name, now in stamps.items() if known[name]["stamp"] != now]
        for name in touched:
            before, now = known[name], stamps[name]
            resized = before["stamp"].split()[0] != now.split()[0]
            if resized or before["sha256"] != known_sha256(files[name]):
                return digest(stamps)
            before["stamp"] = now
    except (LowrankError, OSError):
        return UNREADABLE
    if touched and remember:
        write_json(Path(folder) / RECORD, record)
    return record["state"]


def made_from(spec: Spec) -> str:
    """A word for the settings of prepared data, which their manifest has under `settings`."""
    return digest(spec.model_dump(mode="json"))


def current(spec: Spec, folder: Path | str) -> bool:
    """Whether the prepared `folder` was made from these settings and the present files of the user's, by
    this version."""
    try:
        manifest = read_json(Path(folder) / MANIFEST)
        made = manifest.get("settings"), manifest.get("version")
    except (LowrankError, AttributeError):
        return False
    same = made == (made_from(spec), VERSIONS[spec.kind])
    return same and state(spec, folder) == _read(folder)["state"]


def take(
    spec: Spec, folder: Path | str, word: str | None = None, root: Path | None = None
) -> dict[str, Any]:
    """The record for data that are about to be prepared into `folder`, to be written by `keep`.

    It is taken before the files are read as data: one that changes meanwhile counts as changed.
    `word` is the state's word (None: what `state` says).
    """
    word = state(spec, folder, root) if word is None else word
    files = find(spec, root)
    try:
        stamps = {name: stamp(file) for name, file in files.items()}
        hashes = {name: known_sha256(file) for name, file in files.items()}
    except OSError as error:
        raise LowrankError(f"Could not read {error.filename}: {error.strerror}.") from error
    entries = {name: {"stamp": stamps[name], "sha256": hashes[name]} for name in files}
    return {"state": word, "files": entries}


def keep(record: dict[str, Any], folder: Path) -> None:
    """Write the record into the prepared folder, if it is of any file."""
    if record["files"]:
        write_json(folder / RECORD, record)


def _read(folder: Path | str) -> dict[str, Any]:
    """The record in a prepared folder; an empty one where it is missing or damaged."""
    try:
        record = read_json(Path(folder) / RECORD)
        texts = [record["state"]]
        for file in record["files"].values():
            texts += [file["stamp"], file["sha256"]]
        if all(isinstance(text, str) and text for text in texts):
            return record
    except (LowrankError, AttributeError, KeyError, TypeError):
        pass
    return {"state": "", "files": {}}
