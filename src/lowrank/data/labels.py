"""Class labels of splits and files that may each number their classes in their own way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lowrank.errors import LowrankError
from lowrank.progress import some

MOST_CLASSES = 2**20


@dataclass(frozen=True)
class Labels:
    """A class number per row, and the names that these numbers stand for."""

    numbers: NDArray[np.int64]
    """Negative where the class is kept secret."""
    names: list[str]
    named: bool = True
    """False: the classes have no names, which are then their numbers."""

    def onto(self, classes: Labels, where: str) -> NDArray[np.int64]:
        """The labels by the numbers of `classes`, matched by name; `where` is what messages call
        these labels. Raises LowrankError for a class that is not among `classes`."""
        used = np.unique(self.numbers)
        check_range(used, len(self.names) if self.named else len(classes.names), where)
        if self.names == classes.names or not (self.named or classes.named):
            return self.numbers
        position = {name: number for number, name in enumerate(classes.names)}
        if strange := [self.names[n] for n in used if self.names[n] not in position]:
            raise LowrankError(
                f"The class {some(strange)} of {where} is not among those of the training data, "
                f"{some(classes.names, 10)}: a class needs one name everywhere"
                + ("." if self.named == classes.named else ", and names on one side do not do.")
            )
        return np.array([position.get(name, -1) for name in self.names], np.int64)[self.numbers]


def check_range(numbers: NDArray[np.int64], classes: int, where: str) -> None:
    """Raise LowrankError for a class number that is none."""
    if len(numbers) and (numbers.min() < 0 or numbers.max() >= classes):
        raise LowrankError(
            f"The labels of {where} run from {numbers.min()} to {numbers.max()}, out of the range 0 "
            f"to {classes - 1} of its {classes} classes: choose a split whose labels are public."
        )


def read_labels(column: Any, names: Sequence[str] | None) -> Labels | None:
    """The labels in an Arrow column of class numbers or of text; None where it holds neither.

    `names` are the classes' names by number, if the column's file or data set gives them.
    """
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if column.null_count:
        return None
    if pa.types.is_integer(column.type):
        numbers = column.to_numpy().astype(np.int64)
        if names is not None:
            return Labels(numbers, list(names))
        count = int(numbers.max(initial=-1)) + 1
        if count > MOST_CLASSES:
            return None
        return Labels(numbers, [str(n) for n in range(count)], named=False)
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.string())
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        return None
    found, numbers = np.unique(np.array(column.to_pylist(), object), return_inverse=True)
    return Labels(numbers.astype(np.int64), [str(name) for name in found])


def join(parts: Sequence[Labels], where: str) -> Labels:
    """The labels of several files, one after the other, in one numbering."""
    first = parts[0]
    if len(parts) == 1:
        return first
    named = any(part.named for part in parts)
    if named and not all(part.named for part in parts):
        first = next(part for part in parts if part.named)
        names = first.names
    else:
        names = list(dict.fromkeys(name for part in parts for name in part.names))
        names = names if set(names) == set(first.names) else sorted(names) if named else names
    classes = Labels(first.numbers, names, named)
    return Labels(np.concatenate([part.onto(classes, where) for part in parts]), names, named)


def differences(counted: dict[str, NDArray[np.int64]], names: Sequence[str]) -> list[str]:
    """Sentences on classes that some splits have and others have not; images by split and class."""
    somewhere: NDArray[np.int64] = np.sum(list(counted.values()), axis=0)
    found = []
    for split, counts in counted.items():
        if lacking := [names[n] for n in np.flatnonzero((counts == 0) & (somewhere > 0)).tolist()]:
            found.append(
                f"The {split} split has no image of {len(lacking)} of {len(names)} classes "
                f"({some(lacking)})."
            )
    if nowhere := [names[n] for n in np.flatnonzero(somewhere == 0).tolist()]:
        found.append(f"No split has an image of {len(nowhere)} classes ({some(nowhere)}).")
    return found
