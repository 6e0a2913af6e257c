"""Which kinds of text files are read, by their endings, and how compressed ones are unpacked."""

from __future__ import annotations

import bz2
import codecs
import gzip
import lzma
import os
import re
import shutil
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from lowrank.errors import LowrankError, cause

KINDS = {
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".json": "json",
    ".jsonl": "json",
    ".ndjson": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".txt": "text",
}
PLAIN_TEXT = (
    *(".text", ".md", ".markdown", ".rst", ".tex", ".log"),
    *(".en", ".heldout", ".raw", ".tokens"),  # LM1B and WikiText
    "",
)
"""Further endings that are read as text, none among them."""
KINDS |= dict.fromkeys(PLAIN_TEXT, "text")

SHARD = re.compile(r"([-.]\d+-of-\d+|\.\d+)+$")
"""Numbers at the end of a name, as of news.en-00001-of-00100: the ending stands before them."""

HEAD = 1 << 16
MARKS = {codecs.BOM_UTF32_LE: "UTF-32", codecs.BOM_UTF32_BE: "UTF-32"} | {
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


def _with_arrow(name: str, file: Path) -> Any:
    import pyarrow

    return pyarrow.input_stream(str(file), compression=name)


@contextmanager
def _only_member(file: Path) -> Iterator[Any]:
    with zipfile.ZipFile(file) as archive:
        inside = [member for member in archive.infolist() if not member.is_dir()]
        if len(inside) != 1:
            raise LowrankError(f"{file} holds {len(inside)} files, not one: unpack it.")
        with archive.open(inside[0]) as stream:
            yield stream


UNPACK: dict[str, Callable[[Path], Any]] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ".lzma": lzma.open,
    ".zst": partial(_with_arrow, "zstd"),
    ".lz4": partial(_with_arrow, "lz4"),
    ".zip": _only_member,
}
"""What opens a compressed file for reading, by its ending."""


def endings(file: Path) -> tuple[str, str]:
    """A file's ending and that of its compression, in lower case; "" for none.

    The ending is the one under the compression and before the numbers of shards: `c4.JSON.gz` gives
    (".json", ".gz"), `notes` gives ("", "").
    """
    name = SHARD.sub("", file.name.lower())
    stem, ending = os.path.splitext(name)
    if ending not in UNPACK:
        return ending, ""
    return os.path.splitext(SHARD.sub("", stem))[1], ending


def kind_of(file: Path) -> str:
    """How a file is read, one of the values of `KINDS`; an unknown ending is a LowrankError."""
    ending, packed = endings(file)
    if ending not in KINDS:
        known = ", ".join(ending for ending in KINDS if ending)
        raise LowrankError(
            f"{file} has the ending '{ending}{packed}', which is not known: give files with the "
            f"endings {known}, these compressed as {', '.join(UNPACK)}, or rename plain text to .txt."
        )
    return KINDS[ending]


def plain(file: Path, kind: str, folder: Path) -> Path:
    """The file itself, or a copy in `folder`, unpacked and without the byte-order mark.

    Raises LowrankError for a damaged compressed file, and for text that is not UTF-8 by its first
    bytes.
    """
    ending, packed = endings(file)
    is_text = kind not in ("parquet", "arrow")
    with _unpacked(file, packed) as stream:
        head = stream.read(HEAD)
        skipped = 0
        if is_text:
            encoding = next((name for mark, name in MARKS.items() if head.startswith(mark)), None)
            if encoding is None and head.count(0) > len(head) / 4:
                encoding = "UTF-16 or no text at all"
            if encoding is not None:
                raise LowrankError(f"{file} is {encoding}: convert it to UTF-8.")
            skipped = len(codecs.BOM_UTF8) if head.startswith(codecs.BOM_UTF8) else 0
        if not packed and not skipped:
            return file
        folder.mkdir(parents=True, exist_ok=True)
        copy = folder / f"plain{ending}"
        with open(copy, "wb") as target:
            target.write(head[skipped:])
            shutil.copyfileobj(stream, target, 1 << 20)
    return copy


@contextmanager
def _unpacked(file: Path, packed: str) -> Iterator[Any]:
    """The bytes of a file under its compression, as a stream."""
    if not packed:
        with open(file, "rb") as plain_stream:
            yield plain_stream
        return
    try:
        with UNPACK[packed](file) as stream:
            yield stream
    except LowrankError:
        raise
    except OSError as error:
        if error.errno is not None:  # of the disk, not of what is on it
            raise
        raise _damaged(file, packed, error) from error
    except Exception as error:  # EOFError, zlib.error, lzma.LZMAError, zipfile's
        raise _damaged(file, packed, error) from error


def _damaged(file: Path, packed: str, error: Exception) -> LowrankError:
    return LowrankError(
        f"{file} could not be unpacked as {packed} ({cause(error)}): repair it or give another file."
    )
