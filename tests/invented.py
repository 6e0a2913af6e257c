"""Invented text and images, the same on every machine: whole numbers from a generator written out here."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image


def draws(seed: int) -> Iterator[int]:
    """Whole numbers in 0 to 2**31 - 1 (Lehmer's generator with Park and Miller's multiplier)."""
    state = seed + 1
    while True:
        state = state * 48271 % (2**31 - 1)
        yield state


def invent_text(path: Path, documents: int = 60, words: int = 30) -> Path:
    """A JSON-lines file of documents; which word comes next depends on the one before."""
    draw = draws(1)
    for _ in range(10):
        next(draw)
    vocabulary = [
        "".join("esiarntolcdu"[next(draw) // 97 % 12] for _ in range(2 + next(draw) // 97 % 6))
        for _ in range(40)
    ]
    lines = []
    for _ in range(documents):
        word, text = 0, []
        for _ in range(words):
            word = (7 * word + next(draw) // 97 % 6) % len(vocabulary)
            text.append(vocabulary[word])
        lines.append(json.dumps({"text": " ".join(text)}) + "\n")
    path.write_text("".join(lines), encoding="utf-8")
    return path


def invent_images(folder: Path, train: int = 120, test: int = 40, side: int = 10) -> Path:
    """Parquet files of noisy colour images of three classes: where the bright square stands tells."""
    draw = draws(2)
    folder.mkdir(parents=True)
    for split, count in (("train", train), ("test", test)):
        images, labels = [], []
        for number in range(count):
            label = number % 3
            pixels = bytearray()
            for row in range(side):
                for column in range(side):
                    bright = 90 if (row // 3, column // 3) == (label, label) else 0
                    pixels += bytes(bright + next(draw) // 97 % 160 for _ in range(3))
            stream = io.BytesIO()
            Image.frombytes("RGB", (side, side), bytes(pixels)).save(stream, "PNG")
            images.append({"bytes": stream.getvalue(), "path": f"{number}.png"})
            labels.append(label)
        pq.write_table(pa.table({"image": images, "label": labels}), folder / f"{split}.parquet")
    return folder
