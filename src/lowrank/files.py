"""Reading and writing files so that a reader never meets half of one.

Everything is written beside its place and moved there when complete, and folders of artefacts
carry a manifest of SHA-256 sums by which damage is found and named.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lowrank.errors import LowrankError

if TYPE_CHECKING:
    import pandas as pd

MANIFEST = "manifest.json"


@contextmanager
def atomic(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it replaces `path`, on failure it is removed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except OSError as error:
        raise LowrankError(f"Could not write {path}: {error.strerror or error}.") from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_dir(path: Path | str) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; on success it replaces `path`, on failure it is removed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part"))
    try:
        yield temporary
        os.chmod(temporary, 0o755)
        if path.exists():
            shutil.rmtree(path)
        os.replace(temporary, path)
    except OSError as error:
        raise LowrankError(f"Could not write {path}: {error.strerror or error}.") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def sha256(path: Path | str) -> str:
    """The SHA-256 of a file, as 64 hexadecimal characters."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(value: Any) -> str:
    """16 hexadecimal characters that stand for a JSON-able value (keys sorted, no white space)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def write_json(path: Path | str, value: Any) -> None:
    """Write a value as indented JSON, atomically; a file that already says so is left untouched."""
    text = json.dumps(value, indent=2, allow_nan=False) + "\n"
    if Path(path).is_file() and Path(path).read_text(errors="replace") == text:
        return
    with atomic(path) as temporary:
        temporary.write_text(text)


def read_json(path: Path | str) -> Any:
    """Read a JSON file; a missing or damaged one is a LowrankError that names it."""
    try:
        return json.loads(Path(path).read_text())
    except FileNotFoundError:
        raise LowrankError(f"{path} is missing.") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise LowrankError(f"{path} is damaged ({error}): delete it and run again.") from None


def write_table(path: Path | str, table: pd.DataFrame) -> None:
    """Write a table as parquet, atomically, without its index."""
    with atomic(path) as temporary:
        table.to_parquet(temporary, index=False)


def read_table(path: Path | str) -> pd.DataFrame:
    """Read a parquet table; a missing or damaged one is a LowrankError that names it."""
    import pandas as pd
    import pyarrow

    try:
        return pd.read_parquet(path)
    except FileNotFoundError:
        raise LowrankError(f"{path} is missing.") from None
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise LowrankError(f"{path} is damaged ({error}): delete it and run again.") from None


def write_manifest(folder: Path | str, names: Iterable[str], **facts: Any) -> dict[str, Any]:
    """Write `folder/manifest.json`: the given facts and the SHA-256 of every named file."""
    folder = Path(folder)
    manifest = {**facts, "files": {name: sha256(folder / name) for name in sorted(names)}}
    write_json(folder / MANIFEST, manifest)
    return manifest


def check_manifest(folder: Path | str) -> dict[str, Any]:
    """Read `folder/manifest.json` and check every file it names; damage is named, never used."""
    folder = Path(folder)
    manifest = read_json(folder / MANIFEST)
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict):
        raise LowrankError(f"{folder / MANIFEST} is damaged: delete {folder} and run again.")
    for name, expected in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            raise LowrankError(f"{path} is missing: delete {folder} and run again.")
        if sha256(path) != expected:
            raise LowrankError(
                f"{path} does not match its manifest (SHA-256): delete {folder} and run again."
            )
    return manifest
