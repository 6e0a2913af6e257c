"""The order in which examples are shown: a permutation for each seed and epoch."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]
LISTED = 1 << 22
"""Examples up to which a permutation is listed, which takes 32 MB; of more, each place is computed."""
ROUNDS = 6


def shown(seed: int, epoch: int, examples: int, places: Integers) -> Integers:
    """The examples at these places of an epoch's order; all places of an epoch give every example once."""
    if examples <= LISTED:
        return _listed(seed, epoch, examples)[places]
    return _computed(seed, epoch, examples, places)


@lru_cache(maxsize=4)
def _listed(seed: int, epoch: int, examples: int) -> Integers:
    return np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(examples)


def _computed(seed: int, epoch: int, examples: int, places: Integers) -> Integers:
    """A Feistel network over the next power of four, applied again to what lies beyond the last example
    (Black and Rogaway 2002, "Ciphers with arbitrary finite domains")."""
    half = np.uint64((int(examples - 1).bit_length() + 1) // 2)
    mask = (np.uint64(1) << half) - np.uint64(1)
    keys = np.random.Philox(key=[seed, epoch]).random_raw(ROUNDS)
    found = places.astype(np.uint64)
    beyond = np.ones(len(found), dtype=bool)
    while beyond.any():
        left, right = found[beyond] >> half, found[beyond] & mask
        for key in keys:
            left, right = right, left ^ (_mixed(right ^ key) & mask)
        found[beyond] = left << half | right
        beyond = found >= examples
    return found.astype(np.int64)


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Each value as another in which every bit depends on all (the last steps of SplitMix64)."""
    values = (values ^ values >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ values >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return values ^ values >> np.uint64(31)
