"""One loader for the three places data come from: embedded, local files, the Hugging Face hub.

All of it goes through the `datasets` library, quietly: its cache lies where the caller says, and
nothing but the hub source touches the network.
"""

from __future__ import annotations

import codecs
import glob
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from lowrank.data.formats import kind_of, plain
from lowrank.data.local_files import Where, find_files
from lowrank.errors import LowrankError, cause
from lowrank.files import known_sha256
from lowrank.progress import say, some

if TYPE_CHECKING:
    import datasets

SPLITS = ("train", "validation", "test")


class SourceSpec(Protocol):
    """The keys of a configuration that say where data come from."""

    @property
    def source(self) -> str: ...
    @property
    def name(self) -> str | None: ...
    @property
    def config(self) -> str | None: ...
    @property
    def revision(self) -> str | None: ...
    @property
    def column(self) -> str: ...
    @property
    def train(self) -> Where: ...
    @property
    def validation(self) -> Where: ...
    @property
    def test(self) -> Where: ...


Loaded = tuple[dict[str, "datasets.Dataset"], dict[str, Any]]
"""A data set per split, and the facts about the source that go into a manifest."""


def load_splits(
    spec: SourceSpec,
    *,
    cache: Path,
    embedded: Callable[[], Loaded],
    root: Path | None = None,
    text_unit: str = "line",
) -> Loaded:
    """Load every split the source has: always `train`, `validation` and `test` where there are.

    `cache` takes the working files of `datasets` and must outlive the result; `embedded` gives the
    embedded data; relative local paths count from `root` (None: the current folder); `text_unit` is
    what a document is in a text file. Raises LowrankError for anything missing or unreadable.
    """
    with quiet_datasets():
        if spec.source == "embedded":
            return embedded()
        if spec.source == "local":
            return _load_local(spec, cache, root, text_unit)
        return _load_hub(spec, cache)


def _load_local(spec: SourceSpec, cache: Path, root: Path | None, text_unit: str) -> Loaded:
    import datasets

    loaded: dict[str, datasets.Dataset] = {}
    facts: dict[str, Any] = {"kind": "local", "files": {}}
    for split in SPLITS:
        where = getattr(spec, split)
        if not where:
            continue
        found = find_files(where, root)
        kinds = {file: kind_of(file) for file in found.files}
        if len(set(kinds.values())) > 1:
            raise LowrankError(
                f"The {split} split mixes {' and '.join(sorted(set(kinds.values())))} files: give "
                f"files of one kind, such as a glob instead of the folder in {where!r}."
            )
        if found.left_out:
            say(f"The {split} split leaves out {some(found.left_out)}.")
        kind = next(iter(kinds.values()))
        # By the name of what is read: it is the original, or a plain copy of it.
        originals = {
            plain(file, kind, cache / "plain" / f"{split}-{number}"): file
            for number, file in enumerate(found.files)
        }
        originals = {file: given for file, given in originals.items() if file.stat().st_size}
        if not originals:
            raise LowrankError(f"The {split} split is empty: every file of {where!r} has no bytes.")
        builder, options = _builder(kind, split, spec.column, originals, text_unit)
        try:
            loaded[split] = datasets.load_dataset(
                builder,
                # Without the escape, a bracket in the name of a folder would be read as a pattern.
                data_files={"train": [glob.escape(str(file)) for file in originals]},
                split="train",
                cache_dir=str(cache),
                **options,
            )
        except Exception as error:  # pyarrow's, the library's own and the system's
            raise _unreadable(split, kind, originals, error) from error
        top = os.path.commonpath([file.parent for file in found.files])
        facts["files"][split] = {
            file.relative_to(top).as_posix(): known_sha256(file) for file in found.files
        }
    return loaded, facts


def _builder(
    kind: str, split: str, column: str, originals: Mapping[Path, Path], text_unit: str
) -> tuple[str, dict[str, Any]]:
    """The builder of `datasets` for a kind of file, and its options."""
    import datasets

    if kind == "text":
        return "text", {"sample_by": "document" if text_unit == "file" else text_unit}
    if kind not in ("csv", "tsv"):
        return kind, {}
    options: dict[str, Any] = {"sep": "\t" if kind == "tsv" else ","}
    for file, original in originals.items():
        columns = _header(file, original, split, options["sep"])
        if column not in columns:
            raise no_column(f"The {split} split ({original})", column, columns)
    # Every document is text as it stands: not a number, and "NA" or "null" are not missing.
    features = datasets.Features({column: datasets.Value("string")})
    return "csv", {**options, "usecols": [column], "na_filter": False, "features": features}


def _header(file: Path, original: Path, split: str, sep: str) -> list[str]:
    import pandas as pd

    try:
        return list(pd.read_csv(file, sep=sep, nrows=0).columns)
    except Exception as error:
        raise _unreadable(split, "csv", {file: original}, error) from error


def no_column(where: str, column: str, columns: Iterable[str]) -> LowrankError:
    """The error for a column that is not there."""
    known = ", ".join(f"'{name}'" for name in sorted(columns))
    return LowrankError(f"{where} has no column '{column}': there are {known}.")


def _unreadable(
    split: str, kind: str, originals: Mapping[Path, Path], error: BaseException
) -> LowrankError:
    """Name the file and what is wrong with it: the library's message often does neither."""
    if kind in ("text", "json", "csv", "tsv"):
        for file, original in originals.items():
            if not _is_utf8(file):
                return LowrankError(
                    f"{original} is not UTF-8 text: convert it, or give other files as {split} "
                    "split."
                )
    if kind == "parquet":
        import pyarrow.parquet

        for file, original in originals.items():
            try:
                rows = pyarrow.parquet.ParquetFile(file).metadata.num_rows
            except (pyarrow.ArrowException, OSError) as damage:
                return LowrankError(f"{original} is not a readable parquet file ({cause(damage)}).")
            if len(originals) == 1 and rows == 0:
                return LowrankError(f"The {split} split is empty: {original} has no rows.")
    names = some(list(originals.values()))
    return LowrankError(f"The {split} split ({names}) is not readable as {kind}: {cause(error)}.")


def _is_utf8(file: Path) -> bool:
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        with open(file, "rb") as stream:
            while block := stream.read(1 << 20):
                decoder.decode(block)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


def _load_hub(spec: SourceSpec, cache: Path) -> Loaded:
    import datasets

    try:
        found = datasets.load_dataset(
            spec.name, spec.config, revision=spec.revision, cache_dir=str(cache)
        )
    except Exception as error:  # the library raises a zoo, down to the HTTP client's own
        config = f" ({spec.config})" if spec.config else ""
        raise LowrankError(
            f"The hub's data set '{spec.name}'{config} could not be loaded: {cause(error)}."
        ) from error
    loaded = {}
    for split in SPLITS:
        name = getattr(spec, split) or split
        if name in found:
            loaded[split] = found[name]
        elif getattr(spec, split) or split == "train":
            raise LowrankError(
                f"The hub's data set '{spec.name}' has no split '{name}': "
                f"there are {', '.join(sorted(found))}."
            )
    facts = {
        "kind": "hub",
        "name": spec.name,
        "config": spec.config,
        "revision": spec.revision,
        "splits": {split: getattr(spec, split) or split for split in loaded},
    }
    return loaded, facts


@contextmanager
def quiet_datasets() -> Iterator[None]:
    """Keep `datasets` from announcing itself on the network and from writing over our lines."""
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # read when huggingface_hub is imported
    import datasets
    from datasets.utils import logging

    counting = datasets.config.HF_UPDATE_DOWNLOAD_COUNTS
    bars = datasets.is_progress_bar_enabled()
    verbosity = logging.get_verbosity()
    datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = False
    datasets.disable_progress_bars()
    logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        datasets.config.HF_UPDATE_DOWNLOAD_COUNTS = counting
        logging.set_verbosity(verbosity)
        if bars:
            datasets.enable_progress_bars()
