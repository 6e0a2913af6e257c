"""A user's own images: folders of a class each, or parquet files."""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowrank.data import labels
from lowrank.data.images_spec import ImageSpec
from lowrank.data.labels import Labels
from lowrank.data.local_files import placed, walk
from lowrank.errors import LowrankError, cause
from lowrank.progress import say, some

ENDINGS = (
    *(".bmp", ".dib", ".gif", ".jpe", ".jpeg", ".jfif", ".jpg", ".png", ".tif", ".tiff", ".webp"),
    *(".avif", ".j2k", ".jp2", ".jpx", ".pbm", ".pcx", ".pgm", ".pnm", ".ppm", ".sgi", ".tga"),
)
"""What image files end in."""

Read = Callable[[NDArray[np.int64]], list[Any]]


@dataclass(frozen=True)
class LocalSplit:
    """The files of a split."""

    files: list[str]
    folder: Path | None = None
    """Where they are images: what holds the classes' folders."""
    left_out: list[str] = field(default_factory=list)


def find_splits(spec: ImageSpec, root: Path | None = None) -> dict[str, LocalSplit]:
    """The files of every split that a local data set has.

    A relative `path` counts from `root` (None: the current folder). Raises LowrankError where
    there is nothing; only a test split that the spec does not name may be missing.
    """
    top = (root or Path.cwd()) / placed(str(spec.path))
    if not top.is_dir():
        raise LowrankError(f"There is no folder {top}: path names the folder of a local data set.")
    wanted = {"train": spec.train_split, "test": spec.test_split or "test"}
    if spec.validation_split is not None:
        wanted["validation"] = spec.validation_split
    found = {}
    for name, split in wanted.items():
        here = _find_split(top, os.path.expanduser(split))
        if here is not None:
            found[name] = here
        elif name != "test" or spec.test_split is not None:
            raise LowrankError(
                f"{top / split} is missing: neither a folder {split} nor {split}*.parquet is in "
                f"{top}."
            )
    return found


def _find_split(top: Path, split: str) -> LocalSplit | None:
    folder = top / split
    if folder.is_dir():
        inside = list(walk(folder))
        start = len(str(folder)) + 1
        images = [f for f in inside if f.lower().endswith(ENDINGS) and os.sep in f[start:]]
        if images:
            return LocalSplit(images, folder, sorted(set(inside) - set(images)))
        tables = [file for file in inside if file.lower().endswith(".parquet")]
        if tables:
            return LocalSplit(tables, left_out=sorted(set(inside) - set(tables)))
        raise LowrankError(f"{folder} holds no images: put a folder of images per class in it.")
    for pattern in (split, f"{split}*.parquet"):
        names = sorted(glob.glob(pattern, root_dir=top, recursive=True)) if pattern else []
        if files := [str(file) for name in names if (file := top / name).is_file()]:
            return LocalSplit(files)
    return None


def read_split(
    spec: ImageSpec, name: str, split: LocalSplit, where: str, cache: str
) -> tuple[Labels, Read]:
    """The labels of a split's images, and what reads these by number; `cache` is a folder to fill,
    `where` what messages call the split."""
    if split.left_out:
        say(f"The {name} split leaves out {some(map(os.path.basename, split.left_out))}.")
    if split.folder is None:
        return _read_tables(spec, name, split.files, where, cache)
    start = len(str(split.folder)) + 1
    classes = [file[start:].split(os.sep, 1)[0] for file in split.files]
    names, numbers = np.unique(np.array(classes, object), return_inverse=True)
    empty = [
        entry
        for entry in sorted(split.folder.iterdir())
        if entry.is_dir() and not entry.name.startswith(".") and entry.name not in set(names)
    ]
    if empty:
        say(f"The {name} split has no images in {some(empty)}.")
    return Labels(numbers.astype(np.int64), list(names)), partial(_read_files, split.files)


def _read_files(files: list[str], numbers: NDArray[np.int64]) -> list[Any]:
    return [{"bytes": None, "path": files[number]} for number in numbers]


def _read_tables(
    spec: ImageSpec, name: str, files: list[str], where: str, cache: str
) -> tuple[Labels, Read]:
    """Builders are called directly: `load_dataset` announces itself on the network even when what
    it reads is local."""
    import datasets
    import pyarrow.parquet as pq
    from datasets.packaged_modules.parquet.parquet import Parquet

    try:
        schemas = [pq.read_schema(file) for file in files]
        for schema in schemas:
            require(spec, schema.names, "label_column")
            require(spec, schema.names, "image_column")
            if not holds_images(schema.field(spec.image_column).type):
                raise no_images(spec, schema.names)
        parts = []
        for file, schema in zip(files, schemas, strict=True):
            column = pq.read_table(file, columns=[spec.label_column]).column(0)
            part = labels.read_labels(column, _class_names(schema, spec.label_column))
            if part is None:
                raise no_labels(spec, schema.names)
            parts.append(part)
        joined = labels.join(parts, where)
        if not len(joined.numbers):
            return joined, partial(_read_files, [])
        builder = Parquet(
            cache_dir=cache,
            data_files={name: [glob.escape(file) for file in files]},
            columns=[spec.image_column],
            features=datasets.Features({spec.image_column: datasets.Image(decode=False)}),
        )
        builder.download_and_prepare()
        table: Any = builder.as_dataset()[name]
    except LowrankError:
        raise
    except Exception as error:  # pyarrow's, the library's own and the system's
        raise LowrankError(
            f"The files of {spec.path} could not be read: {cause(error)}."
        ) from error
    return joined, partial(read_table, table, spec.image_column)


def read_table(table: Any, column: str, numbers: NDArray[np.int64]) -> list[Any]:
    """Some images of a data set whose images are not decoded."""
    return table[numbers][column]


def _class_names(schema: Any, column: str) -> list[str] | None:
    """The names of the classes, which `datasets` writes into the files' metadata."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return features[column]["names"]
    except (KeyError, TypeError, ValueError):
        return None


def holds_images(kind: Any) -> bool:
    """Whether an Arrow type is that of encoded images: bytes, or a struct of bytes and path."""
    import pyarrow as pa

    if pa.types.is_struct(kind):
        return bool({field.name for field in kind} & {"bytes", "path"})
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def require(spec: ImageSpec, columns: list[str], key: str) -> None:
    """Raise LowrankError unless there is the column that the spec's `key` names."""
    if getattr(spec, key) not in columns:
        raise LowrankError(
            f"{spec.path} has no column '{getattr(spec, key)}': set {key} to one of "
            f"{', '.join(columns)}."
        )


def no_images(spec: ImageSpec, columns: list[str]) -> LowrankError:
    """The error for a column of images that holds something else."""
    return LowrankError(
        f"Column '{spec.image_column}' of {spec.path} holds no images: set image_column to another "
        f"of {', '.join(columns)}."
    )


def no_labels(spec: ImageSpec, columns: list[str]) -> LowrankError:
    """The error for a column of labels that holds something else."""
    return LowrankError(
        f"Column '{spec.label_column}' of {spec.path} does not hold a class number or name in every "
        f"row: set label_column to another of {', '.join(columns)}."
    )
