"""Where labelled images come from, before they are decoded: digits, local files, the hub."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowrank.data.image_files import (
    Read,
    find_splits,
    holds_images,
    no_images,
    no_labels,
    read_split,
    read_table,
    require,
)
from lowrank.data.images_spec import ImageSpec
from lowrank.data.labels import Labels, differences, read_labels
from lowrank.errors import LowrankError, cause

VERBS = {"test": "test", "validation": "validate"}


@dataclass(frozen=True)
class Rows:
    """Some rows of a split, images not yet decoded."""

    origin: str
    """What messages call the split."""
    numbers: NDArray[np.int64]
    """Where each row stands in its source, from 0."""
    labels: NDArray[np.int64]
    read: Read
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


@dataclass(frozen=True)
class Split:
    """A split as its source gives it."""

    origin: str
    labels: Labels
    read: Read

    def rows(self, classes: Labels) -> Rows:
        """All its rows, labels by the numbers that `classes` have."""
        if not len(self.labels.numbers):
            raise LowrankError(f"There are no images in {self.origin}: choose another split.")
        numbers = self.labels.onto(classes, self.origin)
        return Rows(self.origin, np.arange(len(numbers)), numbers, self.read)


def read_rows(spec: ImageSpec, cache: str) -> tuple[dict[str, Rows], list[str], list[str]]:
    """The rows of every split, the names of the classes, and notes on classes that a split lacks;
    `cache` is a folder to fill.

    The training split says which classes there are; those of other splits are matched by name. A
    test split is held out of it where there is none, then a validation split. Raises LowrankError
    for what is missing, an unknown column, an empty split, labels out of range or of a class that
    training data do not know, and training images of one class only.
    """
    splits = {"embedded": _digits, "local": _read_local, "hub": _read_hub}[spec.source](spec, cache)
    names = splits["train"].labels.names
    rows = {name: split.rows(splits["train"].labels) for name, split in splits.items()}
    train = rows["train"]
    if len(np.unique(train.labels)) < 2:
        raise LowrankError(
            f"All {len(train)} images of {train.origin} have class {names[train.labels[0]]}: a "
            "classifier needs at least two classes."
        )
    counted = {
        name: np.bincount(split.labels, minlength=len(names)) for name, split in rows.items()
    }
    notes = differences(counted, names)
    for name, fraction in (
        ("test", spec.test_fraction),
        ("validation", spec.validation_fraction),
    ):
        if name not in rows:
            if name == "test" and spec.source != "embedded":
                notes.append(f"There is no test split: {fraction:.0%} of training data become one.")
            train = rows["train"]
            held, rest = stratified(train.labels, round(fraction * len(train)), spec.split_seed)
            if not len(held) or not len(rest):
                raise LowrankError(
                    f"{name}_fraction {fraction} of {len(train)} training images leaves "
                    f"{len(rest)} to train on and {len(held)} to {VERBS[name]} on: both need some."
                )
            rows |= {name: train.take(held), "train": train.take(rest)}
    if spec.max_images is not None:
        rows = {
            name: split.take(
                stratified(split.labels, min(len(split), spec.max_images), spec.split_seed)[0]
            )
            for name, split in rows.items()
        }
    return rows, names, notes


def _digits(spec: ImageSpec, cache: str) -> dict[str, Split]:
    """scikit-learn's digits (8 x 8, grey, 0 to 16), from its file: importing it costs two seconds."""
    package = find_spec("sklearn")
    if package is None or not package.submodule_search_locations:
        raise LowrankError("scikit-learn, whose digits are the embedded images, is not installed.")
    file = Path(package.submodule_search_locations[0]) / "datasets/data/digits.csv.gz"
    table = np.loadtxt(file, delimiter=",")
    pixels = np.round(table[:, :-1].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    labels = Labels(table[:, -1].astype(np.int64), [str(n) for n in range(10)])
    return {"train": Split("scikit-learn's digits", labels, lambda some: list(pixels[some]))}


def _read_local(spec: ImageSpec, cache: str) -> dict[str, Split]:
    found = {}
    for name, split in find_splits(spec).items():
        origin = _origin(spec, name)
        found[name] = Split(origin, *read_split(spec, name, split, origin, cache))
    return found


def _origin(spec: ImageSpec, name: str) -> str:
    return f"the {getattr(spec, f'{name}_split') or name} split of {spec.path}"


def _read_hub(spec: ImageSpec, cache: str) -> dict[str, Split]:
    import datasets

    found = {}
    for name in ("train", "test", "validation"):
        split = getattr(spec, f"{name}_split") or ("test" if name == "test" else None)
        if split is None:
            continue
        try:
            table = datasets.load_dataset(str(spec.path), split=split, cache_dir=cache)
        except Exception as error:  # the library raises a zoo, down to the HTTP client's own
            if name == "test" and spec.test_split is None and "Unknown split" in str(error):
                continue
            raise LowrankError(
                f"The hub's data set {spec.path} could not be loaded: {cause(error)}."
            ) from error
        found[name] = _from_table(spec, name, table)
    return found


def _from_table(spec: ImageSpec, name: str, table: Any) -> Split:
    import datasets

    image, label = spec.image_column, spec.label_column
    require(spec, table.column_names, "label_column")
    require(spec, table.column_names, "image_column")
    if not holds_images(table.features.arrow_schema.field(image).type):
        raise no_images(spec, table.column_names)
    names = getattr(table.features[label], "names", None)
    labels = read_labels(table.select_columns([label]).data.column(label), names)
    if labels is None:
        raise no_labels(spec, table.column_names)
    images = table.select_columns([image]).cast_column(image, datasets.Image(decode=False))
    return Split(_origin(spec, name), labels, partial(read_table, images, image))
