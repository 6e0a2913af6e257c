"""Unigram and bigram models of the training tokens: which a language model has to beat."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd

from lowrank.data.text import load_text

PRIOR_TOKENS = 1.0
"""Weight, in tokens, of the unigram distribution in each row of the bigram model."""


def ngram_losses(folder: Path) -> pd.DataFrame:
    """One row a model: losses in nats a token on validation and test tokens, as runs report them; a
    perplexity that no float can hold is missing.

    The unigram model has add-one smoothing; the bigram model P(b|a) = (c(ab) + k P(b)) / (c(a) + k)
    backs off to it with k = PRIOR_TOKENS.
    """
    data = load_text(folder)
    vocabulary = data.vocabulary
    train = np.asarray(data.tokens["train"]).astype(np.int64)
    counts = np.bincount(train, minlength=vocabulary)
    unigram = (counts + 1) / (counts.sum() + vocabulary)
    pairs, pair_counts = np.unique(train[:-1] * vocabulary + train[1:], return_counts=True)
    starts = np.bincount(train[:-1], minlength=vocabulary)
    rows: dict[str, dict[str, float]] = {"unigram": {}, "bigram": {}}
    for split in ("validation", "test"):
        tokens = np.asarray(data.tokens[split]).astype(np.int64)
        first, second = tokens[:-1], tokens[1:]
        codes = first * vocabulary + second
        places = np.minimum(np.searchsorted(pairs, codes), len(pairs) - 1)
        seen = np.where(pairs[places] == codes, pair_counts[places], 0)
        bigram = (seen + PRIOR_TOKENS * unigram[second]) / (starts[first] + PRIOR_TOKENS)
        rows["unigram"][f"{split}_loss"] = float(-np.log(unigram[second]).mean())
        rows["bigram"][f"{split}_loss"] = float(-np.log(bigram).mean())
    for row in rows.values():
        for name, value in data.measures("test", row["test_loss"]).items():
            row[f"test_{name}"] = value if math.isfinite(value) else math.nan
    return pd.DataFrame([{"model": name, **row} for name, row in rows.items()])
