"""Tables as parquet files that carry a digest of their own bytes, so that damage is found wherever it is."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

from lowrank.errors import LowrankError
from lowrank.files import SEAL, atomic, damaged, expect_file

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow

TABLE = "a table that lowrank wrote"
FILE_SEAL = "file-seal"
"""Key of a table's metadata under which the digest of the file's other bytes stands."""
FILE_SEALED = re.compile(FILE_SEAL.encode() + rb"\x18@([0-9a-f]{64})")
"""Where it stands: parquet writes a text of 64 bytes after these two."""
UNSEALED = b"0" * 64
"""What stands in the place of a table's digest while that is reckoned."""


def write_table(path: Path | str, table: pd.DataFrame) -> None:
    """Write a table as parquet, atomically, without its index and with a digest of the whole file."""
    import pyarrow
    import pyarrow.parquet

    arrow = pyarrow.Table.from_pandas(table, preserve_index=False)
    sink = pyarrow.BufferOutputStream()
    with pyarrow.parquet.ParquetWriter(sink, arrow.schema, write_page_checksum=True) as writer:
        writer.write_table(arrow)
        writer.add_key_value_metadata({FILE_SEAL: UNSEALED.decode()})
    content = sink.getvalue().to_pybytes()
    place = _place_of_digest(content)
    assert place is not None
    seal = hashlib.sha256(content).hexdigest().encode()
    with atomic(path) as temporary:
        temporary.write_bytes(content[: place[0]] + seal + content[place[1] :])


def read_table(path: Path | str) -> pd.DataFrame:
    """Read a parquet table; a missing or damaged one is a LowrankError that names it."""
    return in_pandas(read_arrow(path), path)


def in_pandas(arrow: pyarrow.Table, path: Path | str) -> pd.DataFrame:
    """A table that was read from a file, as a data frame."""
    try:
        return arrow.to_pandas()
    except Exception as error:  # about what a damaged footer says
        raise damaged(path, error, what=TABLE) from None


def read_arrow(path: Path | str) -> pyarrow.Table:
    """`read_table` without the way to pandas, which costs more than all the rest."""
    import pyarrow
    import pyarrow.parquet

    try:
        expect_file(path, "a table")
        content = Path(path).read_bytes()
        source = pyarrow.BufferReader(content)
        file = pyarrow.parquet.ParquetFile(
            source, pre_buffer=False, page_checksum_verification=True
        )
        arrow, known = file.read(use_threads=False), file.metadata.metadata or {}
    except FileNotFoundError:
        raise LowrankError(f"{path} is missing.") from None
    except LowrankError:
        raise
    except Exception as error:  # pyarrow's own
        raise damaged(path, error, what=TABLE) from None
    if SEAL.encode() in known:  # of the contents, as tables had it before
        raise damaged(path, "it was written by an earlier version", what=TABLE)
    if (FILE_SEAL.encode() in known or _place_of_digest(content)) and not _has_digest(content):
        raise damaged(path, "it is not what was written", what=TABLE)
    return arrow


def _place_of_digest(content: bytes) -> tuple[int, int] | None:
    """Where in a table's bytes its digest stands: in the last such place, since the metadata come last."""
    found = list(FILE_SEALED.finditer(content))
    return found[-1].span(1) if found else None


def _has_digest(content: bytes) -> bool:
    """Whether the digest among a table's bytes is that of the others."""
    if not (place := _place_of_digest(content)):
        return False
    start, end = place
    whole = hashlib.sha256(content[:start])
    for part in (UNSEALED, content[end:]):
        whole.update(part)
    return whole.hexdigest().encode() == content[start:end]
