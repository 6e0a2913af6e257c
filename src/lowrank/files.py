"""Reading and writing files so that a reader never meets half of one.

Everything is written beside its place and moved there when complete (and on the disk: `durable`),
and folders of artefacts carry a manifest of SHA-256 sums by which damage is found and named.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import hashlib
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from lowrank import durable
from lowrank.errors import LowrankError

MANIFEST = "manifest.json"
CONFIG = "config.json"
"""The configuration that a run of the workflow works by, in results/<scale>."""
WRITTEN = "a file that lowrank wrote"
PART = ".part"
SEAL = "seal"
"""Key of a JSON file under which the digest of all the rest stands."""
SEALED = re.compile(rb"seal\W{0,8}[0-9a-f]{16}")
SUM = re.compile(rb"[0-9a-f]{64}")
PLACES = {"rates", "cells", "runs", "evaluations", "tables"}
"""Folders of results/<scale> that nobody else fills."""


@contextmanager
def scratch(path: Path | str) -> Iterator[Path]:
    """Yield a new folder `.<name>.<random>.part` beside `path`; it is removed at the end.

    Its owner holds a lock on it, which the system drops when the owner dies, however it dies. So
    folders of that name that nobody holds are what a killed process left, and are removed first.
    """
    path = Path(path)
    folder = path.parent / f".{path.name}.{secrets.token_hex(4)}{PART}"
    lock = None
    try:
        with writing(path):
            durable.make_folder(path.parent)
            remove_leftovers(path.parent, path.name)
            lock = _make_and_hold(folder)
        yield folder
    finally:
        try:
            shutil.rmtree(folder, ignore_errors=True)
        except BaseException:  # a signal came in the midst of it
            shutil.rmtree(folder, ignore_errors=True)
            raise
        if lock is not None:
            os.close(lock)


def _make_and_hold(folder: Path) -> int:
    """Make a folder and lock it; returns what is to be closed to let it go."""
    while True:
        folder.mkdir(mode=0o700)
        try:
            lock = os.open(folder, os.O_RDONLY)
        except FileNotFoundError:
            continue
        with contextlib.suppress(OSError):  # a file system without locks: leftovers will stay
            fcntl.flock(lock, fcntl.LOCK_EX)
        # Another process may have taken the folder for a leftover before it was locked.
        if folder.is_dir():
            return lock
        os.close(lock)


def remove_leftovers(folder: Path, name: str = "*") -> None:
    """Remove the temporary folders of killed processes that were to become `folder/name`."""
    pattern = f".{name if name == '*' else glob.escape(name)}.*{PART}"
    for entry in list(folder.glob(pattern)):
        try:
            lock = os.open(entry, os.O_RDONLY | os.O_DIRECTORY)
        except OSError:
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(entry, ignore_errors=True)
        except OSError:
            pass  # its owner lives
        finally:
            os.close(lock)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn a failure of the file system into one sentence."""
    try:
        yield
    except LowrankError:
        raise
    except Exception as error:
        # Libraries in Rust raise their own exceptions, which end in "(os error 28)".
        text = " ".join(str(error).split())
        number = error.errno if isinstance(error, OSError) else None
        if number in (errno.ENOSPC, errno.EDQUOT) or f"(os error {errno.ENOSPC})" in text:
            raise LowrankError(
                f"Could not write {path}: the disk is full; free some space and run again, what is "
                "finished is kept."
            ) from error
        if isinstance(error, OSError):
            reason = error.strerror or text
            raise LowrankError(f"Could not write {path}: {reason}.") from error
        raise


@contextmanager
def atomic(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path of the same name; on success it replaces `path`, else it is removed."""
    path = Path(path)
    with scratch(path) as folder, writing(path):
        yield folder / path.name
        durable.put(folder / path.name, path)


@contextmanager
def atomic_dir(path: Path | str) -> Iterator[Path]:
    """Yield a temporary folder of the same name; on success it replaces `path`, else it is removed."""
    path = Path(path)
    with scratch(path) as folder, writing(path):
        new = folder / path.name
        new.mkdir()
        yield new
        durable.put(new, path)


def sha256(path: Path | str) -> str:
    """The SHA-256 of a file, as 64 hexadecimal characters."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def stamp(path: Path | str) -> str:
    """Size, times of the last change of content and of anything, and inode of a file: one that has
    been written since has another, even in its old size and with its date restored."""
    status = os.stat(path)
    return f"{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} {status.st_ino}"


def stamps(paths: Iterable[Path]) -> tuple[str, ...]:
    """The names of files and folders with their stamps, by which a change of any is seen; one may be missing."""
    return tuple(f"{path.name} {stamp(path) if path.exists() else 'missing'}" for path in paths)


def known_sha256(path: Path | str) -> str:
    """The SHA-256 of a file, which is read again only if it has been written since the last time."""
    return _stamped_sha256(os.path.abspath(path), stamp(path))


@lru_cache(maxsize=4096)
def _stamped_sha256(path: str, stamp: str) -> str:
    return sha256(path)


def digest(value: Any) -> str:
    """16 hexadecimal characters that stand for a JSON-able value (keys sorted, no white space)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def make_folder(path: Path) -> None:
    """Make a folder with its parents, if it is missing, durably."""
    with writing(path):
        durable.make_folder(path)


def write_text(path: Path | str, text: str) -> None:
    """Write a text file in UTF-8, atomically."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path | str, value: Any, *, allow_nan: bool = False) -> None:
    """Write a value as indented JSON, atomically; a file that already says so is left untouched."""
    text = json.dumps(value, indent=2, allow_nan=allow_nan) + "\n"
    if Path(path).is_file() and Path(path).read_text(errors="replace", encoding="utf-8") == text:
        return
    write_text(path, text)


def expect_file(path: Path | str, what: str = "a file") -> None:
    """Refuse a folder, and a pipe or device, whose end may never come; a missing one raises OSError."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise LowrankError(f"{path} is a folder, pipe or device, where {what} is expected.")


def read_json(path: Path | str, what: str = WRITTEN) -> Any:
    """Read a JSON file; a missing or damaged one is a LowrankError that names it, or says that `what`
    was expected."""
    try:
        expect_file(path, what)
        text = Path(path).read_text(encoding="utf-8")
        return json.loads(text, object_pairs_hook=_without_repetition)
    except FileNotFoundError:
        raise LowrankError(f"{path} is missing.") from None
    except (ValueError, RecursionError) as error:
        reason = f"it is no JSON, {error}" if os.path.getsize(path) else "it is empty"
        raise damaged(path, reason, what=what) from None
    except OSError as error:
        raise LowrankError(f"Could not read {path}: {error.strerror or error}.") from None


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"the key '{next(k for k in keys if keys.count(k) > 1)}' is there twice")
    return values


def damaged(
    path: Path | str, reason: object, remedy: str | None = None, what: str = WRITTEN
) -> LowrankError:
    """The error for a file that is not what was written; `remedy` says what to do, which is to delete it so that
    it is made again if None. Of a file that is not the project's it says that `what` was
    expected, for nobody should be told to delete what only they have."""
    text = " ".join(str(reason).split()).rstrip(".")
    text = text if len(text) <= 200 else text[:197] + "..."
    if not written_here(path):
        return LowrankError(f"{path} is not {what}: {text}.")
    return LowrankError(f"{path} is damaged ({text}): {remedy or remake(path)}.")


def remake(path: Path | str) -> str:
    """What to do about a file or folder that is made again where it is missing."""
    return f"delete {path} and run again"


def restore(folder: Path | str) -> str:
    """What to do about a published folder, which nothing makes again."""
    return f"restore it (`git checkout {folder}`)"


def written_here(path: Path | str) -> bool:
    """Whether the project wrote a file or folder: it lies where nobody else writes, or it or the
    manifest beside or in it carries a seal, whole or not."""
    path = Path(path)
    if path.name == CONFIG and path.absolute().parents[1].name == "results":
        return True
    folders = path.absolute().parts[-4:-1]
    if path.suffix == ".parquet" and folders[:1] == ("results",):  # of a study's job
        return True
    if path.suffix in ("", ".json", ".parquet", ".safetensors") and PLACES.intersection(folders):
        return True
    return any(_sealed(place) for place in (path, path.parent / MANIFEST, path / MANIFEST))


def _sealed(path: Path) -> bool:
    if not path.is_file():
        return False
    content = path.read_bytes()
    of_manifest = path.name == MANIFEST and (not content or SUM.search(content))
    return bool(of_manifest or SEALED.search(content))


def write_sealed(path: Path | str, values: dict[str, Any]) -> None:
    """Write a JSON object with the digest of its contents and place (file and folder name)."""
    write_json(path, {**values, SEAL: digest([_place(path), values])})


def read_sealed(path: Path | str, what: str = WRITTEN) -> dict[str, Any]:
    """Read a JSON object and check it against its digest, which is left out of the result.

    One without a digest, such as a person writes, is taken as it is.
    """
    values = read_json(path, what)
    if not isinstance(values, dict):
        raise damaged(path, "it holds no JSON object", what=what)
    seal = values.pop(SEAL, None)
    if seal is not None and seal != digest([_place(path), values]):
        raise damaged(path, "it is not what was written there")
    return values


def _place(path: Path | str) -> list[str]:
    return list(Path(path).absolute().parts[-2:])


def write_manifest(folder: Path | str, names: Iterable[str], **facts: Any) -> dict[str, Any]:
    """Write `folder/manifest.json`: the given facts and the SHA-256 of every named file."""
    folder = Path(folder)
    manifest = {"files": {name: sha256(folder / name) for name in sorted(names)}, **facts}
    manifest[SEAL] = digest(manifest)
    write_json(folder / MANIFEST, manifest)
    return manifest


def check_manifest(folder: Path | str, remedy: str | None = None) -> dict[str, Any]:
    """Read `folder/manifest.json` and check every file it names; damage is named with a remedy (None: to make the
    folder again), never used.

    A file that this process has checked before is read again only if it has been written since.
    """
    folder = Path(folder)
    remedy = remedy or remake(folder)
    what = "the manifest of a folder that lowrank wrote"
    if not folder.is_dir():
        raise LowrankError(f"{folder} is missing.")
    if not (folder / MANIFEST).is_file():
        advice = remedy if written_here(folder) else "name another"
        raise LowrankError(f"{folder / MANIFEST}, {what}, is missing: {advice}.")
    try:
        manifest = read_json(folder / MANIFEST)
    except LowrankError:
        raise damaged(folder / MANIFEST, "it is no JSON", remedy, what) from None
    seal = manifest.pop(SEAL, None) if isinstance(manifest, dict) else None
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        raise damaged(folder / MANIFEST, "it names no files", remedy, what)
    if seal is not None and seal != digest(manifest):
        raise damaged(folder / MANIFEST, "it is not what was written", remedy, what)
    for name, expected in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            raise LowrankError(f"{path} is missing: {remedy}.")
        if known_sha256(path) != expected:
            raise LowrankError(f"{path} does not match its manifest (SHA-256): {remedy}.")
    return manifest
