"""Unigram and bigram losses of a text so small that they are computed by hand."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from lowrank.data.text import TextData
from lowrank.jobs import baselines

TRAIN, VALIDATION, TEST = [0, 1, 0, 1, 2], [0, 1, 2], [2, 0, 0, 1]


@pytest.fixture
def losses(monkeypatch):
    manifest = {"vocabulary": 4, "counts": {"test": {"tokens": 4, "words": 2, "bytes": 10}}}
    tokens = {
        name: np.array(t, dtype=np.uint16)
        for name, t in (("train", TRAIN), ("validation", VALIDATION), ("test", TEST))
    }
    monkeypatch.setattr(baselines, "load_text", lambda _: TextData(Path(), manifest, tokens))
    return baselines.ngram_losses(None).set_index("model")


UNIGRAM = [3 / 9, 3 / 9, 2 / 9, 1 / 9]  # (2 + 1, 2 + 1, 1 + 1, 0 + 1) of 5 + 4
# Pairs 01 01 10 12; 0 starts two, 1 starts two, 2 none.
BIGRAM = {
    (0, 1): (2 + UNIGRAM[1]) / 3,
    (1, 2): (1 + UNIGRAM[2]) / 3,
    (2, 0): (0 + UNIGRAM[0]) / 1,
    (0, 0): (0 + UNIGRAM[0]) / 3,
}


def test_the_unigram_model_adds_one_to_every_count(losses):
    validation = -(math.log(UNIGRAM[1]) + math.log(UNIGRAM[2])) / 2
    test = -(math.log(UNIGRAM[0]) * 2 + math.log(UNIGRAM[1])) / 3
    assert losses.loc["unigram", "validation_loss"] == pytest.approx(validation)
    assert losses.loc["unigram", "test_loss"] == pytest.approx(test)


def test_the_bigram_model_backs_off_to_the_unigram_model(losses):
    """One token's worth of it in every row; a token that begins no pair leaves it alone."""
    validation = -(math.log(BIGRAM[0, 1]) + math.log(BIGRAM[1, 2])) / 2
    test = -(math.log(BIGRAM[2, 0]) + math.log(BIGRAM[0, 0]) + math.log(BIGRAM[0, 1])) / 3
    assert losses.loc["bigram", "validation_loss"] == pytest.approx(validation)
    assert losses.loc["bigram", "test_loss"] == pytest.approx(test)


@pytest.mark.parametrize("model", ["unigram", "bigram"])
def test_units_are_those_of_trained_models(model, losses):
    """Four tokens are two words and ten bytes."""
    row = losses.loc[model]
    assert row["test_perplexity"] == pytest.approx(math.exp(row["test_loss"]))
    assert row["test_word_perplexity"] == pytest.approx(math.exp(2 * row["test_loss"]))
    assert row["test_bits_per_byte"] == pytest.approx(0.4 * row["test_loss"] / math.log(2))


def test_rows_of_the_bigram_model_are_distributions(monkeypatch):
    """Over all that may follow, the probabilities of each token's row add up to one."""
    for first in range(4):
        tokens = {"train": TRAIN, "validation": [0, 0], "test": [0, 0]}
        total = 0.0
        for second in range(4):
            tokens["test"] = [first, second]
            manifest = {"vocabulary": 4, "counts": {"test": {"tokens": 1, "words": 1, "bytes": 1}}}
            arrays = {k: np.array(v, dtype=np.uint16) for k, v in tokens.items()}
            data = TextData(Path(), manifest, arrays)
            monkeypatch.setattr(baselines, "load_text", lambda _, data=data: data)
            total += math.exp(
                -baselines.ngram_losses(None).set_index("model").loc["bigram", "test_loss"]
            )
        assert total == pytest.approx(1)


def counted(text: list[int], k: int) -> Counter:
    return Counter(tuple(text[i : i + k]) for i in range(len(text) - k + 1))


def kneser_ney(
    text: list[int], vocabulary: int, order: int, context: list[int], word: int
) -> float:
    """The definition, by counting tuples."""

    def level(k: int, history: tuple[int, ...]) -> float:
        if k == 1:
            before = Counter(gram[1] for gram in counted(text, 2))
            return (before[word] + 1) / (sum(before.values()) + vocabulary)
        if k == order:
            counts = counted(text, k)
        else:
            counts = Counter(gram[1:] for gram in counted(text, k + 1))
        after = {gram: n for gram, n in counts.items() if gram[:-1] == history}
        lower = level(k - 1, history[1:])
        if not after:
            return lower
        once, twice = (sum(n == i for n in counts.values()) for i in (1, 2))
        D = once / (once + 2 * twice) if once and twice else 0.5
        total = sum(after.values())
        kept = max(after.get((*history, word), 0) - D, 0)
        return (kept + D * len(after) * lower) / total

    return level(min(order, len(context) + 1), tuple(context[-(order - 1) :]))


@pytest.mark.parametrize("order", [2, 3, 5])
def test_smoothed_models_are_kneser_neys_by_their_definition(order):
    generator = np.random.default_rng(0)
    train = list(generator.integers(0, 4, 120) * generator.integers(0, 2, 120))
    tokens = list(generator.integers(0, 5, 30))
    model = baselines.KneserNey(np.array(train), 5, 5)
    found = model.probabilities(np.array(tokens), order)
    # The first few have less context than the order asks for, and see it as a part of longer ones.
    for position in range(order - 1, len(tokens)):
        expected = kneser_ney(
            train, 5, order, tokens[position - order + 1 : position], tokens[position]
        )
        assert found[position - 1] == pytest.approx(expected), position


@pytest.mark.parametrize("order", [3, 5])
@pytest.mark.parametrize("context", [[0, 1, 2, 1], [3, 3, 3, 3], [1, 0, 1, 0]])
def test_smoothed_probabilities_of_all_that_may_follow_add_up_to_one(order, context):
    train = np.array([0, 1, 2, 1, 0, 1, 0, 1, 2, 2, 1, 0, 1, 2, 1, 2])
    model = baselines.KneserNey(train, 4, 5)
    last = [model.probabilities(np.array([*context, word]), order)[-1] for word in range(4)]
    assert sum(last) == pytest.approx(1)
    assert min(last) > 0
