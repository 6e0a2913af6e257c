"""The prepared data of a run."""

from __future__ import annotations

import json
import random

import pytest

from lowrank.data.spec import TextSpec


@pytest.fixture
def folder_of(text_folder, digits_folder):
    """A function from a run to its prepared data."""
    return lambda spec: text_folder if spec.track == "language" else digits_folder


@pytest.fixture
def invented_text(tmp_path):
    """A prepared text of invented words: the embedded one differs between versions of Python."""
    from lowrank.data.text import prepare_text

    draw = random.Random(0).random

    def document() -> str:
        words = ("esiarntolcdu"[int(12 * draw()) :][: 2 + int(6 * draw())] for _ in range(200))
        return " ".join(words)

    source = tmp_path / "invented.jsonl"
    source.write_text(
        "".join(json.dumps({"text": document()}) + "\n" for _ in range(100)), encoding="utf-8"
    )
    prepare_text(TextSpec(source="local", train=str(source), vocabulary=300), tmp_path / "text")
    return tmp_path / "text"
