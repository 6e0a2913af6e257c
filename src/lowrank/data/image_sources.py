"""Where labelled images come from, before they are decoded: digits, local files, the hub."""

from __future__ import annotations

import glob
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowrank.data.images_spec import ImageSpec
from lowrank.errors import LowrankError


@dataclass(frozen=True)
class Rows:
    """Some rows of a split, images not yet decoded."""

    origin: str
    """What messages call the split."""
    numbers: NDArray[np.int64]
    """Where each row stands in its source, from 0."""
    labels: NDArray[np.int64]
    read: Callable[[NDArray[np.int64]], list[Any]]
    """Raw images by number: uint8 arrays, or the {bytes, path} of the `datasets` library."""

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, chosen: NDArray[np.int64]) -> Rows:
        """The chosen rows (positions, not numbers)."""
        return Rows(self.origin, self.numbers[chosen], self.labels[chosen], self.read)


def stratified(
    labels: NDArray[np.int64], count: int, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split rows into `count` chosen ones and the rest, as ascending positions.

    A systematic sample of the rows, shuffled and then sorted by class: every class gives its share,
    rounded down or up, and the total is exact.
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    order = order[np.argsort(labels[order], kind="stable")]
    chosen = np.zeros(len(labels), bool)
    if count:
        chosen[order[((np.arange(count) + 0.5) * len(labels) / count).astype(np.int64)]] = True
    return np.flatnonzero(chosen), np.flatnonzero(~chosen)


def read_rows(spec: ImageSpec, cache: str) -> tuple[dict[str, Rows], list[str]]:
    """The rows of every split, and the names of the classes; `cache` is a folder to fill.

    The validation split is held out of the training split unless the spec names one. Raises
    LowrankError for what is missing, an unknown column, an empty split, labels out of range, and
    training images of one class only.
    """
    rows, names = _digits(spec) if spec.source == "embedded" else _from_datasets(spec, cache)
    for split in rows.values():
        _check_labels(split, len(names))
    train = rows["train"]
    if len(np.unique(train.labels)) < 2:
        raise LowrankError(
            f"All {len(train)} images of {train.origin} have class {names[train.labels[0]]}: a "
            "classifier needs at least two classes."
        )
    if "validation" not in rows:
        held, rest = stratified(
            train.labels, round(spec.validation_fraction * len(train)), spec.split_seed
        )
        if not len(held) or not len(rest):
            raise LowrankError(
                f"validation_fraction {spec.validation_fraction} of {len(train)} training images "
                f"leaves {len(rest)} to train on and {len(held)} to validate on: both need some."
            )
        rows = {**rows, "validation": train.take(held), "train": train.take(rest)}
    if spec.max_images is not None:
        rows = {
            name: split.take(
                stratified(split.labels, min(len(split), spec.max_images), spec.split_seed)[0]
            )
            for name, split in rows.items()
        }
    return rows, names


def _check_labels(rows: Rows, classes: int) -> None:
    if not len(rows):
        raise LowrankError(f"There are no images in {rows.origin}: choose another split.")
    low, high = int(rows.labels.min()), int(rows.labels.max())
    if low < 0 or high >= classes:
        raise LowrankError(
            f"The labels of {rows.origin} run from {low} to {high}, out of the range 0 to "
            f"{classes - 1} of its {classes} classes: choose a split whose labels are public."
        )


def _digits(spec: ImageSpec) -> tuple[dict[str, Rows], list[str]]:
    """scikit-learn's digits (8 x 8, grey, 0 to 16), with a stratified test split held out."""
    from sklearn.datasets import load_digits

    data = load_digits()
    pixels = np.round(data.images * (255 / 16)).astype(np.uint8)
    labels = data.target.astype(np.int64)
    rows = Rows(
        "scikit-learn's digits", np.arange(len(labels)), labels, lambda some: list(pixels[some])
    )
    held, rest = stratified(labels, round(spec.test_fraction * len(labels)), spec.split_seed)
    return {"train": rows.take(rest), "test": rows.take(held)}, [str(n) for n in data.target_names]


def _from_datasets(spec: ImageSpec, cache: str) -> tuple[dict[str, Rows], list[str]]:
    """Rows and class names of a local or hub data set."""
    import datasets

    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    splits = {"train": spec.train_split, "test": spec.test_split}
    if spec.validation_split is not None:
        splits["validation"] = spec.validation_split
    load = _load_hub if spec.source == "hub" else _load_local
    rows: dict[str, Rows] = {}
    names: list[str] | None = None
    for name, table in load(str(spec.path), splits, cache).items():
        origin = f"the {splits[name]} split of {spec.path}"
        labels = _column_of_labels(spec, table)
        images = _column_of_images(spec, table)
        rows[name] = Rows(
            origin, np.arange(len(labels)), labels, partial(_read, images, spec.image_column)
        )
        names = names or getattr(table.features[spec.label_column], "names", None)
    if names is None:
        names = [str(n) for n in range(max((rows["train"].labels.max(initial=0)), 0) + 1)]
    return rows, list(names)


def _read(table: Any, column: str, numbers: NDArray[np.int64]) -> list[Any]:
    return table[numbers][column]


def _load_hub(name: str, splits: dict[str, str], cache: str) -> dict[str, Any]:
    import datasets

    try:
        return {
            key: datasets.load_dataset(name, split=split, cache_dir=cache)
            for key, split in splits.items()
        }
    except Exception as error:  # the library raises a zoo, down to the HTTP client's own
        raise LowrankError(
            f"The hub's data set {name} could not be loaded: {_cause(error)}."
        ) from error


def _load_local(path: str, splits: dict[str, str], cache: str) -> dict[str, Any]:
    """Builders are called directly: `load_dataset` announces itself on the network even when what
    it reads is local."""
    from datasets.packaged_modules.imagefolder.imagefolder import ImageFolder
    from datasets.packaged_modules.parquet.parquet import Parquet

    found = {key: _local_files(Path(path), split) for key, split in splits.items()}
    files = {key: names for key, (_, names) in found.items()}
    layouts = sorted({layout for layout, _ in found.values()})
    if len(layouts) > 1:
        raise LowrankError(
            f"The splits of {path} are of two kinds, {' and '.join(layouts)}: use one."
        )
    builder: Any
    if layouts == ["image folders"]:
        builder = ImageFolder(
            cache_dir=cache, data_files=files, drop_labels=False, drop_metadata=True
        )
    else:
        builder = Parquet(cache_dir=cache, data_files=files)
    try:
        builder.download_and_prepare()
        return builder.as_dataset()
    except Exception as error:  # pyarrow's, the library's own and the system's
        raise LowrankError(f"The files of {path} could not be read: {_cause(error)}.") from error


def _local_files(root: Path, split: str) -> tuple[str, list[str]]:
    """The layout of a local split, and patterns of its files, other special characters escaped."""
    if not root.is_dir():
        raise LowrankError(f"There is no folder {root}: path names the folder of a local data set.")
    if (root / split).is_dir():
        if any(file.is_file() for file in (root / split).glob("*/*")):
            return "image folders", [glob.escape(str(root / split)) + "/*/*"]
        raise LowrankError(
            f"{root / split} holds no images: put a folder of images per class in it."
        )
    for pattern in (split, f"{split}*.parquet"):
        if files := sorted(file for file in root.glob(pattern) if file.is_file()):
            return "parquet files", [glob.escape(str(file)) for file in files]
    raise LowrankError(
        f"{root / split} is missing: neither a folder {split} nor {split}*.parquet is in {root}."
    )


def _cause(error: BaseException) -> str:
    """The innermost cause in one line: wrappers say less than what they wrap."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def _require(spec: ImageSpec, table: Any, key: str) -> str:
    """The column that the spec's `key` names, or an error that lists the columns."""
    column = getattr(spec, key)
    if column not in table.column_names:
        raise LowrankError(
            f"{spec.path} has no column '{column}': set {key} to one of "
            f"{', '.join(table.column_names)}."
        )
    return column


def _column_of_labels(spec: ImageSpec, table: Any) -> NDArray[np.int64]:
    column = _require(spec, table, "label_column")
    labels = table.data.column(column).to_pandas()
    if len(labels) and (labels.dtype.kind not in "iu"):
        raise LowrankError(
            f"Column '{column}' of {spec.path} does not hold a class number in every row: set "
            f"label_column to another of {', '.join(table.column_names)}."
        )
    return labels.to_numpy(np.int64)


def _column_of_images(spec: ImageSpec, table: Any) -> Any:
    """The table of the images alone, as bytes and path."""
    import datasets

    column = _require(spec, table, "image_column")
    feature = table.features[column]
    fields = set(feature) if isinstance(feature, dict) else set()
    if not isinstance(feature, datasets.Image) and not fields & {"bytes", "path"}:
        raise LowrankError(
            f"Column '{column}' of {spec.path} holds no images: set image_column to another of "
            f"{', '.join(table.column_names)}."
        )
    return table.select_columns([column]).cast_column(column, datasets.Image(decode=False))
