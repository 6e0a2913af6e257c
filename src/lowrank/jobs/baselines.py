"""n-gram models of the training tokens: what a language model has to beat to have learnt anything."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from lowrank.data.text import load_text

Integers = NDArray[np.int64]
PRIOR_TOKENS = 1.0
"""Weight, in tokens, of the unigram distribution in each row of the bigram model."""
SMOOTHED = {"trigram": 3, "5-gram": 5}
"""Models with Kneser-Ney smoothing, by the number of tokens they see, the predicted one included."""


def ngram_losses(folder: Path) -> pd.DataFrame:
    """One row a model: losses in nats a token on validation and test tokens, as runs report them; a
    perplexity that no float can hold is missing.

    The unigram model has add-one smoothing; the bigram model P(b|a) = (c(ab) + k P(b)) / (c(a) + k)
    backs off to it with k = PRIOR_TOKENS. The others are smoothed as `KneserNey` says.
    """
    data = load_text(folder)
    vocabulary = data.vocabulary
    train = np.asarray(data.tokens["train"]).astype(np.int64)
    counts = np.bincount(train, minlength=vocabulary)
    unigram = (counts + 1) / (counts.sum() + vocabulary)
    pairs, pair_counts = np.unique(train[:-1] * vocabulary + train[1:], return_counts=True)
    starts = np.bincount(train[:-1], minlength=vocabulary)
    smoothed = KneserNey(train, vocabulary, max(SMOOTHED.values()))
    rows: dict[str, dict[str, float]] = {}

    def enter(model: str, split: str, probabilities: NDArray[np.float64]) -> None:
        rows.setdefault(model, {})[f"{split}_loss"] = float(-np.log(probabilities).mean())

    for split in ("validation", "test"):
        tokens = np.asarray(data.tokens[split]).astype(np.int64)
        first, second = tokens[:-1], tokens[1:]
        seen = _looked_up(pairs, pair_counts, first * vocabulary + second)
        enter("unigram", split, unigram[second])
        bigram = (seen + PRIOR_TOKENS * unigram[second]) / (starts[first] + PRIOR_TOKENS)
        enter("bigram", split, bigram)
        for model, order in SMOOTHED.items():
            enter(model, split, smoothed.probabilities(tokens, order))
    for row in rows.values():
        for name, value in data.measures("test", row["test_loss"]).items():
            row[f"test_{name}"] = value if math.isfinite(value) else math.nan
    return pd.DataFrame([{"model": name, **row} for name, row in rows.items()])


@dataclass(frozen=True)
class _Order:
    """What follows the contexts of k - 1 tokens."""

    grams: Integers
    """The distinct k-grams, ascending: index of the first k - 1 tokens times vocabulary plus the last."""
    counts: Integers
    """How often each occurs; as a part of longer ones, how many different tokens stand before it."""
    contexts: Integers
    """The contexts that occur, ascending."""
    totals: Integers
    """The sum of the counts of what follows each."""
    followers: Integers
    """How many different tokens follow each."""

    @property
    def discount(self) -> float:
        """D = n1 / (n1 + 2 n2) from the numbers of k-grams counted once and twice (Ney et al. 1994)."""
        once, twice = (self.counts == 1).sum(), (self.counts == 2).sum()
        return float(once / (once + 2 * twice)) if once and twice else 0.5


class KneserNey:
    """Interpolated Kneser-Ney smoothing (Kneser and Ney 1995; Chen and Goodman 1999, one discount).

    P(w | h) = max(c(hw) - D, 0) / c(h) + D N(h) / c(h) P(w | h'), where h' is h without its first
    token and N(h) the number of different tokens after h. Below the highest order c(hw) counts the
    different tokens before hw. The lowest order is that of single tokens, with one added to each.
    """

    def __init__(self, tokens: Integers, vocabulary: int, order: int) -> None:
        self.vocabulary = vocabulary
        self._seen: dict[int, _Order] = {}
        self._within: dict[int, _Order] = {}  # as a part of longer ones
        self._unigram = np.full(vocabulary, 1 / vocabulary)
        ending = tokens  # the index of the (k - 1)-gram that ends at each position
        for k in range(2, order + 1):
            grams, where, index, counts = np.unique(
                ending[:-1] * vocabulary + tokens[k - 1 :],
                return_index=True,
                return_inverse=True,
                return_counts=True,
            )
            self._seen[k] = self._order(grams, counts)
            # Of each distinct k-gram, the (k - 1)-gram that is its end.
            shorter, before = np.unique(ending[1:][where], return_counts=True)
            if k == 2:
                follows = np.ones(vocabulary)
                follows[shorter] += before
                self._unigram = follows / follows.sum()
            else:
                continued = np.zeros(len(self._seen[k - 1].grams), np.int64)
                continued[shorter] = before
                kept = continued > 0
                self._within[k - 1] = self._order(self._seen[k - 1].grams[kept], continued[kept])
            ending = index

    def _order(self, grams: Integers, counts: Integers) -> _Order:
        contexts, first = np.unique(grams // self.vocabulary, return_index=True)
        if not len(grams):
            return _Order(grams, counts, contexts, counts, counts)
        followers = np.diff(np.append(first, len(grams)))
        return _Order(grams, counts, contexts, np.add.reduceat(counts, first), followers)

    def probabilities(self, tokens: Integers, order: int) -> NDArray[np.float64]:
        """P of each token but the first, given those before it, at most `order` - 1 of them."""
        found = self._unigram[tokens[1:]]
        ending = tokens  # as in training; -1: never seen
        for k in range(2, order + 1):
            level = self._seen[k] if k == order else self._within.get(k, self._seen[k])
            context, last = ending[:-1], tokens[k - 1 :]
            grams = np.where(context < 0, -1, context * self.vocabulary + last)
            counts = _looked_up(level.grams, level.counts, grams)
            totals = _looked_up(level.contexts, level.totals, context)
            followers = _looked_up(level.contexts, level.followers, context)
            D, lower = level.discount, found[k - 2 :]
            known = totals > 0
            share = np.maximum(counts - D, 0) + D * followers * lower
            found[k - 2 :] = np.where(known, share / np.where(known, totals, 1), lower)
            places = np.searchsorted(self._seen[k].grams, grams)
            places = np.minimum(places, len(self._seen[k].grams) - 1)
            ending = np.where(self._seen[k].grams[places] == grams, places, -1)
        return found


def _looked_up(keys: Integers, values: Integers, wanted: Integers) -> Integers:
    """The values of the wanted keys, 0 where there is none; `keys` ascend."""
    if not len(keys):
        return np.zeros_like(wanted)
    places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[places] == wanted, values[places], 0)
