"""Batches of documents."""

from __future__ import annotations

from itertools import chain

import datasets
import numpy as np

from lowrank.data import text_splits


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
