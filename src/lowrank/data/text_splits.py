"""Which documents go into which split: disjoint, reproducible, and capped where asked.

Every document has a key, a hash of its text that depends on the seed. Sorting by key is a shuffle
that does not depend on the order of the files, and documents with one text share their key.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from lowrank.data.sources import no_column
from lowrank.data.spec import TextSpec
from lowrank.errors import LowrankError

if TYPE_CHECKING:
    import datasets

ROWS = 2048
CHARACTERS = 4_000_000
"""A batch holds at most this many documents, and characters unless a single document has more."""


@dataclass(frozen=True)
class Documents:
    """Some documents of a data set."""

    dataset: Any
    column: str
    rows: NDArray[np.int64]
    """Which rows of the data set, ascending."""
    keys: NDArray[np.uint64]
    """The key of each of these."""
    lengths: NDArray[np.int64]
    """How many leading characters of each are used."""

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, chosen: NDArray[Any]) -> Documents:
        """Some of the documents, by position or mask."""
        return replace(
            self, rows=self.rows[chosen], keys=self.keys[chosen], lengths=self.lengths[chosen]
        )

    def batches(self) -> Iterator[list[str]]:
        """The texts, in batches of bounded size."""
        ends = np.cumsum(self.lengths)
        start = 0
        while start < len(self):
            used = ends[start - 1] if start else 0
            stop = int(np.searchsorted(ends, used + CHARACTERS, side="right"))
            stop = max(start + 1, min(stop, start + ROWS))
            texts = self.dataset[self.rows[start:stop].tolist()][self.column]
            lengths = self.lengths[start:stop].tolist()
            yield [text[:length] for text, length in zip(texts, lengths, strict=True)]
            start = stop


def survey(split: str, dataset: datasets.Dataset, column: str, seed: int) -> tuple[Documents, int]:
    """The documents of a data set that are not empty, and how many were.

    Raises LowrankError where the column is missing or holds no text, or no document is left.
    """
    if column not in dataset.column_names:
        raise no_column(f"The {split} split", column, dataset.column_names)
    kind = str(getattr(dataset.features[column], "dtype", dataset.features[column]))
    if len(dataset) and kind not in ("string", "large_string", "string_view"):
        raise LowrankError(
            f"Column '{column}' of the {split} split holds {kind}, not text: choose another of "
            + ", ".join(f"'{name}'" for name in sorted(dataset.column_names))
            + "."
        )
    dataset = dataset.select_columns([column])
    rows, keys, lengths = [], [], []
    for start in range(0, len(dataset), ROWS):
        for row, text in enumerate(dataset[start : start + ROWS][column], start):
            if text is not None and text.strip():
                rows.append(row)
                keys.append(_key(text, seed))
                lengths.append(len(text))
    if not rows:
        raise LowrankError(
            f"The {split} split is empty: column '{column}' has no text in any of its "
            f"{len(dataset)} rows."
        )
    found = Documents(
        dataset,
        column,
        np.array(rows, np.int64),
        np.array(keys, np.uint64),
        np.array(lengths, np.int64),
    )
    return found, len(dataset) - len(rows)


def _key(text: str, seed: int) -> int:
    # 64 bits: among 30 million documents a false match has a chance of 2e-5, and costs one of them.
    code = hashlib.blake2b(text.encode(), digest_size=8, key=seed.to_bytes(8, "little")).digest()
    return int.from_bytes(code, "little")


def divide(given: Mapping[str, Documents], spec: TextSpec) -> tuple[dict[str, Documents], int]:
    """The three splits, none empty and no text in two of them, and how many documents that removed.

    A text that stands in several of the given splits stays in test before validation before
    training: held-out data stay what they are. Splits that are not given are then taken out of the
    training split, all copies of a text together.
    """
    splits, removed = _disjoint(given)
    train = splits["train"]
    missing = [name for name in ("validation", "test") if name not in splits]
    distinct = np.unique(train.keys)
    if missing and len(distinct) <= len(missing):
        raise LowrankError(
            f"The train split has {len(distinct)} distinct documents, too few to take "
            f"{' and '.join(missing)} out of it: at least {len(missing) + 1} are needed, so give "
            "more text or a smaller text_unit."
        )
    start = 0
    for name in missing:
        fraction = spec.validation_fraction if name == "validation" else spec.test_fraction
        count = max(1, min(round(fraction * len(distinct)), len(distinct) // 3))
        splits[name] = train.take(np.isin(train.keys, distinct[start : start + count]))
        start += count
    splits["train"] = train.take(~np.isin(train.keys, distinct[:start]))
    if spec.max_characters is not None:
        # A document cut short has a new text, which might again stand in another split.
        splits, more = _disjoint(_cap(splits, spec))
        removed += more
    return {name: splits[name] for name in ("train", "validation", "test")}, removed


def _disjoint(splits: Mapping[str, Documents]) -> tuple[dict[str, Documents], int]:
    """Remove from each split the texts that a later one of train, validation, test has."""
    kept: dict[str, Documents] = {}
    for name in ("test", "validation", "train"):
        if name in splits:
            part = splits[name]
            for other in kept.values():
                part = part.take(~np.isin(part.keys, other.keys))
            if not len(part):
                raise LowrankError(
                    f"The {name} split is empty: all of its {len(splits[name])} documents are also "
                    f"in {' or '.join(kept)}, so give other documents."
                )
            kept[name] = part
    return kept, sum(len(splits[name]) - len(kept[name]) for name in splits)


def _cap(splits: Mapping[str, Documents], spec: TextSpec) -> dict[str, Documents]:
    """Keep `max_characters` in all: each split its share, filled in the order of the keys.

    The last document is cut short: whole ones only would leave a split empty where the first one
    is longer than its share.
    """
    held = {"validation": spec.validation_fraction, "test": spec.test_fraction}
    shares = {"train": 1 - sum(held.values()), **held}
    capped = {}
    for name, part in splits.items():
        most = int(shares[name] * (spec.max_characters or 0))
        part = part.take(np.argsort(part.keys, kind="stable"))
        ends = np.cumsum(part.lengths)
        part = part.take(np.arange(min(len(part), int(np.searchsorted(ends, most)) + 1)))
        part.lengths[-1] -= max(0, int(ends[len(part) - 1]) - most)
        part = part.take(np.argsort(part.rows))
        texts = (text for batch in part.batches() for text in batch)
        keys = np.array([_key(text, spec.split_seed) for text in texts], np.uint64)
        capped[name] = replace(part, keys=keys)
    return capped
