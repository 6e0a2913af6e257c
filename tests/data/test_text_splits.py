"""Batches of documents."""

from __future__ import annotations

from itertools import chain

import datasets
import numpy as np
import pytest

from lowrank.data import text_splits
from lowrank.data.spec import TextSpec
from lowrank.errors import LowrankError


def test_batches_are_bounded_and_in_order(monkeypatch):
    monkeypatch.setattr(text_splits, "CHARACTERS", 10)
    monkeypatch.setattr(text_splits, "ROWS", 3)
    texts = ["a" * 4, "b" * 4, "c" * 4, "d" * 50, "", "e", "f", "g", "h", None]
    documents, empty = text_splits.survey(
        "train", datasets.Dataset.from_dict({"text": texts}), "text", 0
    )
    assert empty == 2
    batches = list(documents.batches())
    assert list(chain(*batches)) == [text for text in texts if text]
    assert [len(batch) for batch in batches] == [2, 1, 1, 3, 1]


def test_keys_depend_on_text_and_seed_alone():
    data = datasets.Dataset.from_dict({"text": ["same", "other", "same"]})
    one, _ = text_splits.survey("train", data, "text", 1)
    two, _ = text_splits.survey("train", data, "text", 2)
    assert one.keys[0] == one.keys[2] != one.keys[1]
    assert not np.isin(one.keys, two.keys).any()


# Dividing


def surveyed(**splits: list[str]) -> dict[str, text_splits.Documents]:
    return {
        name: text_splits.survey(name, datasets.Dataset.from_dict({"text": texts}), "text", 0)[0]
        for name, texts in splits.items()
    }


def texts_of(documents: text_splits.Documents) -> list[str]:
    return list(chain(*documents.batches()))


def spec(**changes) -> TextSpec:
    return TextSpec(source="local", train="none", **changes)


WORDS = [f"word {number}" for number in range(20)]


@pytest.mark.parametrize(
    ("count", "validation", "test", "sizes"),
    [
        (20, 0.1, 0.2, (14, 2, 4)),
        (20, 0.12, 0.18, (14, 2, 4)),
        (20, 0.001, 0.001, (18, 1, 1)),  # one at least
        (10, 0.45, 0.45, (4, 3, 3)),  # a third at most
        (3, 0.05, 0.05, (1, 1, 1)),
    ],
)
def test_held_out_splits_have_their_share_of_the_distinct_texts(count, validation, test, sizes):
    given = spec(validation_fraction=validation, test_fraction=test)
    found, removed = text_splits.divide(surveyed(train=WORDS[:count]), given)
    assert tuple(len(found[name]) for name in ("train", "validation", "test")) == sizes
    assert sorted(chain(*map(texts_of, found.values()))) == sorted(WORDS[:count])
    assert removed == 0


def test_what_is_held_out_is_what_has_the_smallest_keys_validation_first():
    whole = surveyed(train=WORDS)["train"]
    order = [text for _, text in sorted(zip(whole.keys.tolist(), WORDS, strict=True))]
    given = spec(validation_fraction=0.1, test_fraction=0.2)
    found, _ = text_splits.divide({"train": whole}, given)
    assert set(texts_of(found["validation"])) == set(order[:2])
    assert set(texts_of(found["test"])) == set(order[2:6])
    assert texts_of(found["train"]) == [text for text in WORDS if text in order[6:]]


def test_a_split_that_is_given_is_not_taken_out_of_the_training_split():
    given = spec(validation_fraction=0.2, test_fraction=0.2)
    found, removed = text_splits.divide(surveyed(train=WORDS[:15], test=WORDS[12:]), given)
    assert texts_of(found["test"]) == WORDS[12:]
    assert len(found["validation"]) == 2  # of twelve
    assert len(found["train"]) == 10
    assert removed == 3


@pytest.mark.parametrize("count", [1, 2])
def test_too_few_texts_to_hold_any_out_are_refused(count):
    with pytest.raises(LowrankError, match=f"{count} distinct documents, too few .*least 3 are"):
        text_splits.divide(surveyed(train=WORDS[:count] * 4), spec())


def test_a_cap_fills_each_splits_share_in_the_order_of_keys_and_cuts_the_last_text():
    """Of 1,000 characters 800 to train on, of texts of 60 and 70, and 100 each to hold out."""
    given = spec(max_characters=1000, validation_fraction=0.1, test_fraction=0.1)
    words = [10 * text for text in WORDS]
    whole = surveyed(train=words, validation=["v" * 70, "w" * 80], test=["t" * 40, "u" * 50])
    found, removed = text_splits.divide(whole, given)
    lengths = {name: [len(text) for text in texts_of(part)] for name, part in found.items()}
    assert {name: sum(sizes) for name, sizes in lengths.items()} == {
        "train": 800,
        "validation": 100,
        "test": 90,
    }
    assert sorted(lengths["validation"]) in ([20, 80], [30, 70])
    order = [text for _, text in sorted(zip(whole["train"].keys.tolist(), words, strict=True))]
    uncut = set(texts_of(found["train"])) & set(words)
    assert len(uncut) == len(found["train"]) - 1
    assert uncut == set(order[: len(uncut)])
    assert removed == 0


def test_a_cap_that_whole_texts_fill_adds_no_empty_one():
    given = spec(max_characters=1000, validation_fraction=0.1, test_fraction=0.1)
    held = {"validation": ["v" * 50, "w" * 50, "x" * 50], "test": ["t" * 50, "u" * 50]}
    found, _ = text_splits.divide(surveyed(train=WORDS, **held), given)
    assert all(found[name].lengths.tolist() == [50, 50] for name in held)
