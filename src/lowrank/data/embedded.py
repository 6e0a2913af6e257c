"""The text that is present wherever the project is installed: the documentation of its packages.

Docstrings are read from the source files by `ast`; nothing is imported or run. A document is the
docstrings of one source file, each docstring kept only where it first occurs, so that a split by
document shares no docstring between its parts.

Only packages are read whose wheels hold the same source files on every platform and for every Python,
in the versions that the lock installs: `DIGEST` stands for their content, so the corpus is one and the
same wherever the lock was installed.
"""

from __future__ import annotations

import ast
import gc
import hashlib
import importlib.metadata
import importlib.util
import os
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

from lowrank.errors import LowrankError
from lowrank.progress import Progress

if TYPE_CHECKING:
    import datasets

PACKAGES = {
    "numpy": "numpy",
    "pandas": "pandas",
    "scipy": "scipy",
    "sklearn": "scikit-learn",
}
"""Import name of each package that is read, and the name under which it is distributed."""
DIGEST = "e997779120b8c6ac"
"""What `digest()` gives where the packages are those of the lock."""

SKIPPED = {"test", "tests", "__pycache__", "distutils"}
"""Folders that are not read: numpy's `distutils` is in its wheels for Python 3.11 alone."""
BUILT = {"__config__.py"}
"""Files that a wheel's build writes, and that differ between platforms."""
CHUNK = 64
POOL_PAYS_FROM = 2_000_000
"""Characters below which starting processes costs more than it saves."""

SCOPES = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
BLOCKS = ("cases", "finalbody", "orelse", "handlers", "body")  # last first: they go on a stack


def documents(*, max_characters: int | None = None, workers: int | None = None) -> datasets.Dataset:
    """The documentation corpus: a row per source file, columns `file` ("package/path.py"), `text`.

    The order is that of the SHA-256 of `file`: independent of the file system, and mixing the
    packages, so that the first `max_characters` characters (rounded up to whole documents; no other
    files are then read) are a fair sample. `workers` is the number of processes (None: one per
    core, at most 8). Raises LowrankError where a package is missing.
    """
    import datasets

    names: list[str] = []
    texts: list[str] = []
    seen: set[bytes] = set()
    characters = 0
    files = source_files()
    for (name, _), strings in zip(files, _read(files, max_characters, workers), strict=False):
        fresh = []
        for string in strings:
            key = hashlib.blake2b(string.encode(), digest_size=16).digest()
            if key not in seen:
                seen.add(key)
                fresh.append(string)
        if fresh:
            names.append(name)
            texts.append("\n\n".join(fresh))
            characters += len(texts[-1])
        if max_characters is not None and characters >= max_characters:
            break
    return datasets.Dataset.from_dict({"file": names, "text": texts})


def versions() -> dict[str, str]:
    """The version of every package that is read: they determine the corpus."""
    return {name: importlib.metadata.version(name) for name in PACKAGES.values()}


def digest() -> str:
    """16 hexadecimal characters that stand for all source files that are read, names and contents."""
    found = hashlib.sha256()
    for name, path in source_files():
        found.update(f"{name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return found.hexdigest()[:16]


def source_files() -> list[tuple[str, Path]]:
    """Every source file that is read, as (package/path, path), in the order of the corpus."""
    roots = {}
    for name in PACKAGES:
        spec = importlib.util.find_spec(name)  # finds a top-level package without importing it
        if spec is None or not spec.submodule_search_locations:
            raise LowrankError(
                f"The embedded text needs the package '{PACKAGES[name]}', which is not installed: "
                "install it, or choose the source 'local' or 'hub'."
            )
        roots[name] = Path(next(iter(spec.submodule_search_locations)))
    files = []
    for package, root in roots.items():
        for folder, folders, names in os.walk(root):
            folders[:] = [name for name in folders if name not in SKIPPED]
            for name in names:
                if name.endswith(".py") and name not in BUILT:
                    path = Path(folder, name)
                    files.append((f"{package}/{path.relative_to(root).as_posix()}", path))
    return sorted(files, key=lambda file: hashlib.sha256(file[0].encode()).digest())


def docstrings(source: bytes) -> list[str]:
    """The docstrings of a source text, cleaned like `inspect.cleandoc`, in the order of the text.

    A source that does not parse has none.
    """
    if b'"""' not in source and b"'''" not in source:
        return []  # a file without triple quotes has next to no documentation; parsing is the cost
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in other people's files
            tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError):
        return []
    found = []
    stack: list[ast.AST] = [tree]
    while stack:
        node = stack.pop()
        if isinstance(node, SCOPES) and (text := ast.get_docstring(node)):
            found.append(text)
        # Only blocks are followed, and not every expression as ast.walk would: five times faster.
        for block in BLOCKS:
            children = getattr(node, block, None)
            if isinstance(children, list):
                stack.extend(reversed(children))
    # A lone surrogate can be written in a docstring, but not in UTF-8.
    cleaned = (text.encode("utf-8", "ignore").decode() for text in found)
    return [text for text in cleaned if text.strip()]


def cores() -> int:
    """The cores this process may use, at most 8: more readers than that wait for the disk."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(usable or 1, 8)


def _read_chunk(files: list[tuple[str, Path]]) -> list[list[str]]:
    # The trees are large and without cycles: the collector would only walk them again and again.
    collecting = gc.isenabled()
    gc.disable()
    try:
        return [docstrings(path.read_bytes()) for _, path in files]
    except OSError as error:
        raise LowrankError(f"Could not read {error.filename}: {error.strerror}.") from error
    finally:
        if collecting:
            gc.enable()


def _read(
    files: list[tuple[str, Path]], max_characters: int | None, workers: int | None
) -> Iterator[list[str]]:
    """Yield the docstrings of each file in turn."""
    workers = cores() if workers is None else workers
    chunks = [files[start : start + CHUNK] for start in range(0, len(files), CHUNK)]
    total = len(files)
    if workers > 1 and (max_characters is None or max_characters >= POOL_PAYS_FROM):
        # Spawned, because a fork of a process with threads (BLAS, tokenizers) can hang.
        pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"))
        done = 0
        try:
            with Progress("Reading documentation", total, "files") as progress:
                for chunk in pool.map(_read_chunk, chunks):
                    done += 1
                    progress.advance(len(chunk))
                    yield from chunk
            return
        except BrokenProcessPool:
            # Spawning needs a main module that can be imported, which a script read from standard
            # input is not; the rest is read here.
            chunks = chunks[done:]
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
    with Progress("Reading documentation", total, "files") as progress:
        for files_of_chunk in chunks:
            progress.advance(len(files_of_chunk))
            yield from _read_chunk(files_of_chunk)
