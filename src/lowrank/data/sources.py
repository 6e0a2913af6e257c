"""One loader for the three places data come from: embedded, local files, the Hugging Face hub.

All of it goes through the `datasets` library, quietly: its cache lies where the caller says, and
nothing but the hub source touches the network.
"""

from __future__ import annotations

import codecs
import glob
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from lowrank.errors import LowrankError
from lowrank.files import sha256

if TYPE_CHECKING:
    import datasets

SPLITS = ("train", "validation", "test")
BUILDERS = {
    ".parquet": "parquet",
    ".txt": "text",
    ".json": "json",
    ".jsonl": "json",
    ".csv": "csv",
}
"""Which builder of `datasets` reads which ending; any other ending is read as text."""

Where = str | tuple[str, ...] | None


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
    with _quiet_datasets():
        if spec.source == "embedded":
            return embedded()
        if spec.source == "local":
            return _load_local(spec, cache, root, text_unit)
        return _load_hub(spec, cache)


def find_files(where: Where, root: Path | None = None) -> list[Path]:
    """The files that a path, a glob, a folder, or several of them stand for, sorted and once each.

    In a folder that holds files with endings of `BUILDERS` these are taken, else all of its files;
    hidden files and folders never are. Raises LowrankError where there is nothing.
    """
    base = Path.cwd() if root is None else Path(root)
    found: set[Path] = set()
    for item in [where] if isinstance(where, str) else list(where or ()):
        path = (base / Path(item).expanduser()).absolute()
        if path.is_file():
            found.add(path)
        elif path.is_dir():
            inside = sorted(file for file in path.rglob("*") if _is_visible(file, path))
            known = [file for file in inside if file.suffix.lower() in BUILDERS]
            if not inside:
                raise LowrankError(f"The folder {path} holds no files: put the data there.")
            found.update(known or inside)
        elif glob.has_magic(item):
            matches = [Path(name) for name in glob.glob(str(path), recursive=True)]
            files = [file for file in matches if file.is_file()]
            if not files:
                raise LowrankError(f"No file matches {path}: correct the pattern or the folder.")
            found.update(files)
        else:
            raise LowrankError(f"{path} is missing: give a file, a glob or a folder that exists.")
    return sorted(found)


def _is_visible(file: Path, folder: Path) -> bool:
    hidden = any(part.startswith(".") for part in file.relative_to(folder).parts)
    return file.is_file() and not hidden


def _load_local(spec: SourceSpec, cache: Path, root: Path | None, text_unit: str) -> Loaded:
    import datasets

    loaded: dict[str, datasets.Dataset] = {}
    facts: dict[str, Any] = {"kind": "local", "files": {}}
    for split in SPLITS:
        where = getattr(spec, split)
        if not where:
            continue
        files = find_files(where, root)
        kinds = sorted({BUILDERS.get(file.suffix.lower(), "text") for file in files})
        if len(kinds) > 1:
            raise LowrankError(
                f"The {split} split mixes {' and '.join(kinds)} files: give files of one kind, "
                f"such as a glob instead of the folder in {where!r}."
            )
        files = [file for file in files if file.stat().st_size]
        if not files:
            raise LowrankError(f"The {split} split is empty: every file of {where!r} has no bytes.")
        options = {"sample_by": _sample_by(text_unit)} if kinds == ["text"] else {}
        try:
            loaded[split] = datasets.load_dataset(
                kinds[0],
                # Without the escape, a bracket in the name of a folder would be read as a pattern.
                data_files={"train": [glob.escape(str(file)) for file in files]},
                split="train",
                cache_dir=str(cache),
                **options,
            )
        except Exception as error:  # pyarrow's, the library's own and the system's
            raise _unreadable(split, kinds[0], files, error) from error
        facts["files"][split] = {file.name: sha256(file) for file in files}
    return loaded, facts


def _sample_by(text_unit: str) -> str:
    return "document" if text_unit == "file" else text_unit


def _unreadable(split: str, kind: str, files: Sequence[Path], error: BaseException) -> LowrankError:
    """Name the file and what is wrong with it: the library's message often does neither."""
    if kind in ("text", "json", "csv"):
        for file in files:
            if not _is_utf8(file):
                return LowrankError(
                    f"{file} is not UTF-8 text: convert it, or give other files as {split} split."
                )
    if kind == "parquet":
        import pyarrow.parquet

        for file in files:
            try:
                rows = pyarrow.parquet.ParquetFile(file).metadata.num_rows
            except (pyarrow.ArrowException, OSError) as damage:
                return LowrankError(f"{file} is not a readable parquet file ({_cause(damage)}).")
            if len(files) == 1 and rows == 0:
                return LowrankError(f"The {split} split is empty: {file} has no rows.")
    names = ", ".join(file.name for file in files[:3]) + (", ..." if len(files) > 3 else "")
    return LowrankError(f"The {split} split ({names}) is not readable as {kind}: {_cause(error)}.")


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


def _cause(error: BaseException) -> str:
    """The innermost cause in one line: wrappers say less than what they wrap."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def _load_hub(spec: SourceSpec, cache: Path) -> Loaded:
    import datasets

    try:
        found = datasets.load_dataset(
            spec.name, spec.config, revision=spec.revision, cache_dir=str(cache)
        )
    except Exception as error:  # the library raises a zoo, down to the HTTP client's own
        config = f" ({spec.config})" if spec.config else ""
        raise LowrankError(
            f"The hub's data set '{spec.name}'{config} could not be loaded: {_cause(error)}."
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
def _quiet_datasets() -> Iterator[None]:
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
