"""Preparing text and opening it again, on small files and on a piece of the embedded corpus."""

from __future__ import annotations

import json
import mmap
import os
import socket
import subprocess
import sys
from itertools import chain
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers

from lowrank.data import text, text_splits, text_tokens
from lowrank.data.spec import TextSpec
from lowrank.data.text import TextData, load_text, prepare_text, tokens_file
from lowrank.errors import LowrankError

SPLITS = ("train", "validation", "test")
SENTENCES = [
    f"Sentence {number} says that {number} squared is {number**2}, naïvely."
    for number in range(200)
]


def write(path: Path, texts: list, column: str = "text") -> str:
    pq.write_table(pa.table({column: texts, "label": list(range(len(texts)))}), path)
    return str(path)


def local(tmp_path: Path, **keys) -> TextSpec:
    values = {"train": write(tmp_path / "train.parquet", SENTENCES), "vocabulary": 300, **keys}
    return TextSpec(source="local", **values)


def documents_of(data: TextData, split: str) -> list[str]:
    """The documents back from the tokens."""
    tokenizer = Tokenizer.from_file(str(data.folder / "tokenizer.json"))
    tokens = np.asarray(data.tokens[split]).astype(int)
    ends = np.flatnonzero(tokens == data.manifest["eos_id"])
    parts = np.split(tokens, ends + 1)[:-1]
    return [tokenizer.decode(part[:-1].tolist(), skip_special_tokens=False) for part in parts]


@pytest.fixture(scope="module")
def embedded(tmp_path_factory) -> TextData:
    spec = TextSpec(max_characters=200_000)
    folder = prepare_text(spec, tmp_path_factory.mktemp("text") / "embedded", workers=1)
    return load_text(folder)


def test_embedded_text_has_three_splits_and_a_complete_manifest(embedded):
    manifest = embedded.manifest
    assert manifest["kind"] == "text"
    assert manifest["dtype"] == "uint16"
    assert manifest["vocabulary"] == embedded.vocabulary == 512
    assert set(manifest["files"]) == {"tokenizer.json", *map(tokens_file, SPLITS)}
    assert manifest["tokenizer_sha256"] == manifest["files"]["tokenizer.json"]
    assert {"numpy", "pandas"} <= set(manifest["source"]["versions"])
    for split in SPLITS:
        counts = embedded.counts(split)
        assert counts["tokens"] == len(embedded.tokens[split])
        assert counts["documents"] == int(
            (embedded.tokens[split] == embedded.manifest["eos_id"]).sum()
        )
        assert embedded.tokens[split].max() < embedded.vocabulary
    assert 150_000 < sum(embedded.counts(split)["bytes"] for split in SPLITS) < 210_000


def test_splits_share_no_docstring(embedded):
    seen = {split: set(documents_of(embedded, split)) for split in SPLITS}
    assert not seen["train"] & seen["test"]
    assert not seen["train"] & seen["validation"]
    assert not seen["validation"] & seen["test"]


def test_the_same_spec_gives_the_same_bytes_whatever_the_workers(embedded, tmp_path, monkeypatch):
    monkeypatch.setattr("lowrank.data.embedded.POOL_PAYS_FROM", 0)
    again = prepare_text(TextSpec(max_characters=200_000), tmp_path / "again", workers=2)
    assert load_text(again).manifest == embedded.manifest


def test_tokens_decode_to_the_documents_and_counts_are_of_the_text(tmp_path):
    data = load_text(prepare_text(local(tmp_path), tmp_path / "out"))
    found = {split: documents_of(data, split) for split in SPLITS}
    assert sorted(chain.from_iterable(found.values())) == sorted(SENTENCES)
    for split, texts in found.items():
        assert data.counts(split)["words"] == sum(len(text.split()) for text in texts)
        assert data.counts(split)["bytes"] == sum(len(text.encode()) for text in texts)
        assert data.counts(split)["documents"] == len(texts)
    assert len(found["validation"]) == len(found["test"]) == 10


def test_a_text_that_names_the_separator_does_not_write_one(tmp_path):
    texts = [f"{text} <|endoftext|> and more" for text in SENTENCES]
    spec = TextSpec(source="local", train=write(tmp_path / "t.parquet", texts), vocabulary=300)
    data = load_text(prepare_text(spec, tmp_path / "out"))
    assert sorted(chain(*(documents_of(data, split) for split in SPLITS))) == sorted(texts)


def test_a_text_in_several_splits_stays_in_the_most_held_out_one(tmp_path):
    spec = local(
        tmp_path,
        validation=write(tmp_path / "v.parquet", [SENTENCES[0], SENTENCES[1], "Only here."]),
        test=write(tmp_path / "s.parquet", [SENTENCES[1], SENTENCES[2]]),
    )
    data = load_text(prepare_text(spec, tmp_path / "out"))
    assert documents_of(data, "test") == SENTENCES[1:3]
    assert documents_of(data, "validation") == [SENTENCES[0], "Only here."]
    assert documents_of(data, "train") == SENTENCES[3:]
    assert data.manifest["removed"]["in another split"] == 4


def test_copies_of_a_text_fall_into_one_split(tmp_path):
    spec = TextSpec(
        source="local",
        train=write(tmp_path / "t.parquet", SENTENCES * 3),
        validation_fraction=0.3,
        vocabulary=300,
    )
    data = load_text(prepare_text(spec, tmp_path / "out"))
    seen = {split: set(documents_of(data, split)) for split in SPLITS}
    assert sum(map(len, seen.values())) == len(SENTENCES)
    assert data.counts("validation")["documents"] == 3 * 60


def test_the_split_depends_on_the_seed_and_not_on_the_order_of_the_file(tmp_path):
    def held_out(name: str, texts: list[str], seed: int) -> set[str]:
        train = write(tmp_path / f"{name}.parquet", texts)
        spec = TextSpec(source="local", train=train, vocabulary=300, split_seed=seed)
        return set(documents_of(load_text(prepare_text(spec, tmp_path / name)), "test"))

    assert held_out("a", SENTENCES, 0) == held_out("b", SENTENCES[::-1], 0)
    assert held_out("a", SENTENCES, 0) != held_out("c", SENTENCES, 1)


@pytest.mark.parametrize("given", [False, True])
def test_the_cap_is_kept_by_every_split(tmp_path, given):
    keys = {}
    if given:
        keys["validation"] = write(tmp_path / "v.parquet", ["x" * 5000 + " end"])
        keys["test"] = write(tmp_path / "s.parquet", [text + "!" for text in SENTENCES])
    spec = local(tmp_path, max_characters=2000, validation_fraction=0.1, **keys)
    data = load_text(prepare_text(spec, tmp_path / "out"))
    lengths = {split: sum(map(len, documents_of(data, split))) for split in SPLITS}
    if given:
        assert lengths == {"train": 1700, "validation": 200, "test": 100}
    assert all(lengths.values())
    assert sum(lengths.values()) <= 2000


def test_documents_made_equal_by_the_cap_are_removed(tmp_path):
    start = "a" * 100
    spec = local(
        tmp_path,
        train=write(tmp_path / "t.parquet", [start, *SENTENCES]),
        test=write(tmp_path / "s.parquet", [start + "b" * 5000]),
        max_characters=20_000,
        test_fraction=0.005,
        validation_fraction=0.1,
    )
    data = load_text(prepare_text(spec, tmp_path / "out"))
    assert documents_of(data, "test") == [start]
    assert start not in documents_of(data, "train") + documents_of(data, "validation")


def test_a_pretrained_tokenizer_is_taken_as_it_is(tmp_path):
    words = {"[UNK]": 0, "</s>": 70_000, "Sentence": 5}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.add_special_tokens(["</s>"])
    tokenizer.save(str(tmp_path / "mine.json"))
    spec = local(tmp_path, tokenizer="mine.json")
    data = load_text(prepare_text(spec, tmp_path / "out", root=tmp_path))
    assert data.manifest["dtype"] == "uint32"
    assert data.vocabulary == 70_001
    assert data.manifest["eos_id"] == 70_000
    assert set(np.unique(data.tokens["train"])) == {0, 5, 70_000}


def test_a_tokenizer_of_seven_tokens_is_taken(tmp_path):
    words = {name: number for number, name in enumerate(["[UNK]", "</s>", *"ACGT", " "])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    tokenizer.save(str(tmp_path / "bases.json"))
    texts = [f"{number:b}".replace("0", "AC").replace("1", "GT") for number in range(64, 128)]
    keys = {"train": write(tmp_path / "t.parquet", texts), "tokenizer": "bases.json"}
    data = load_text(prepare_text(local(tmp_path, **keys), tmp_path / "out", root=tmp_path))
    assert data.vocabulary == 7
    assert set(np.unique(data.tokens["train"])) == {1, 2, 3, 4, 5}


def test_windows_hold_the_next_token_and_lie_within_the_split(embedded):
    length, tokens = 64, embedded.tokens["test"]
    batch = embedded.batch("test", [0, length, 70], length)
    assert batch.shape == (3, length + 1)
    assert str(batch.dtype) == "torch.int64"
    assert np.array_equal(batch[:2, 1:].flatten().numpy(), tokens[1 : 2 * length + 1])
    assert np.array_equal(batch[2].numpy(), tokens[70 : 70 + length + 1])
    last = len(tokens) - length - 1
    assert embedded.batch("test", [last], length)[0, -1] == tokens[-1]
    for bad in (-1, last + 1):
        with pytest.raises(LowrankError, match=f"start between 0 and {last}"):
            embedded.batch("test", [bad], length)


def test_damage_is_named(tmp_path):
    folder = prepare_text(local(tmp_path), tmp_path / "out")
    file = folder / tokens_file("test")
    content = bytearray(file.read_bytes())
    content[0] ^= 1
    file.write_bytes(content)
    with pytest.raises(LowrankError, match=r"tokens-test\.bin does not match"):
        load_text(folder)
    file.unlink()
    with pytest.raises(LowrankError, match=r"tokens-test\.bin is missing"):
        load_text(folder)
    with pytest.raises(LowrankError, match="prepare the text first"):
        load_text(tmp_path / "nowhere")
    (folder / "manifest.json").write_text(
        json.dumps({"kind": "images", "files": {}}), encoding="utf-8"
    )
    with pytest.raises(LowrankError, match="holds images, not text"):
        load_text(folder)


BAD = {
    "missing file": ({"train": "nowhere.parquet"}, r"nowhere\.parquet is missing"),
    "no match": ({"train": "nothing-*.parquet"}, r"No file matches .*nothing-\*"),
    "no column": ({"column": "txt"}, "no column 'txt': there are 'label', 'text'"),
    "not text": ({"column": "label"}, "holds int64, not text"),
    "empty documents": ({"test": "blank.parquet"}, "test split is empty: .* any of its 3 rows"),
    "no rows": ({"test": "none.parquet"}, "test split is empty"),
    "no bytes": ({"test": "empty.txt"}, "test split is empty"),
    "not UTF-8": ({"train": "latin.txt"}, r"latin\.txt is not UTF-8"),
    "not parquet": ({"train": "fake.parquet"}, r"fake\.parquet is not a readable parquet"),
    "all in test": ({"test": "train.parquet"}, "train split is empty: all of its 200"),
    "too few": ({"train": "two.parquet"}, "2 distinct documents, too few"),
    "tokenizer": ({"tokenizer": "none.json"}, r"none\.json is missing"),
    "bad tokenizer": ({"tokenizer": "latin.txt"}, "could not be loaded"),
    "empty folder": ({"train": "folder"}, "holds no files"),
    "mixed": ({"train": ("train.parquet", "latin.txt")}, "mixes parquet and text"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_sentence_and_leaves_the_earlier_folder(tmp_path, case, capfd):
    keys, message = BAD[case]
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9\n")
    (tmp_path / "empty.txt").touch()
    (tmp_path / "folder").mkdir()
    (tmp_path / "fake.parquet").write_text("no", encoding="utf-8")
    write(tmp_path / "blank.parquet", ["", " \n", None])
    write(tmp_path / "two.parquet", ["one", "two", "one"])
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "none.parquet")
    earlier = prepare_text(local(tmp_path), tmp_path / "out")
    before = (earlier / "manifest.json").read_bytes()
    content = sorted(os.listdir(tmp_path))
    with pytest.raises(LowrankError, match=message) as error:
        prepare_text(local(tmp_path, **keys), tmp_path / "out", root=tmp_path)
    assert "\n" not in str(error.value)
    assert str(error.value).endswith(".")
    assert (earlier / "manifest.json").read_bytes() == before
    load_text(earlier)
    assert sorted(os.listdir(tmp_path)) == content
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"vocabulary": 256}, "greater than or equal to 257"),
        ({"vocabulary": 2**32}, "less than"),
        ({"validation_fraction": 0}, "greater than 0"),
        ({"source": "hub"}, "needs `name`"),
        ({"source": "local"}, "needs `train`"),
        ({"train": "x.txt"}, "does not support `train`"),
        ({"source": "local", "train": "x", "name": "y"}, "does not support `name`"),
        ({"source": "hub", "name": "x", "test": ["a", "b"]}, "one split name"),
        ({"vocabulry": 300}, "Extra inputs"),
    ],
)
def test_bad_specs_are_refused(keys, message):
    with pytest.raises(ValueError, match=message):
        TextSpec(**keys)


def test_every_key_is_described():
    assert all(field.description for field in TextSpec.model_fields.values())


def test_vocabulary_beyond_the_token_type_is_refused():
    from lowrank.data.text_tokens import token_type

    assert np.dtype(token_type(65_535)) == np.uint16
    assert np.dtype(token_type(65_536)) == np.uint32
    with pytest.raises(LowrankError, match=f"vocabulary of {2**32 + 1} "):
        token_type(2**32 + 1)


def test_preparing_needs_no_network(tmp_path, monkeypatch):
    attempts = []

    def refuse(*arguments, **_):
        attempts.append(arguments)  # counted, because libraries swallow the error
        raise OSError("no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    prepare_text(local(tmp_path), tmp_path / "local")
    prepare_text(TextSpec(max_characters=60_000, vocabulary=300), tmp_path / "embedded", workers=1)
    assert not attempts


def test_preparing_leaves_nothing_in_home(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    spec = local(tmp_path)
    code = (
        "from lowrank.data.text import *\n"
        f"prepare_text(TextSpec.model_validate_json({spec.model_dump_json()!r}), 'out')\n"
    )
    names = ("HF_", "XDG_", "TMP", "PYTHON")
    kept = {key: value for key, value in os.environ.items() if not key.startswith(names)}
    subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={**kept, "HOME": str(home)}, check=True
    )
    assert not list(home.rglob("*"))
    assert sorted(os.listdir(tmp_path)) == ["home", "out", "train.parquet"]


def test_film_reviews_lose_the_reviews_that_are_also_in_test(tmp_path):
    folder = os.environ.get("LOWRANK_DATA")
    if not folder or not Path(folder, "imdb").is_dir():
        pytest.skip("LOWRANK_DATA names no folder with imdb/")
    spec = TextSpec(
        source="local",
        train="imdb/train*.parquet",
        test="imdb/test*.parquet",
        vocabulary=1000,
        max_characters=2_000_000,
    )
    data = load_text(prepare_text(spec, tmp_path / "imdb", root=Path(folder)))
    assert data.manifest["removed"]["in another split"] > 100  # the corpus is known for these
    assert not set(documents_of(data, "train")) & set(documents_of(data, "test"))
    bytes_per_token = data.counts("test")["bytes"] / data.counts("test")["tokens"]
    assert 2 < bytes_per_token < 4


@pytest.mark.parametrize(("limit", "every"), [(1000, 1), (999, 2), (500, 2), (499, 3)])
def test_merges_are_counted_on_an_even_sample_of_no_more_than_its_limit(limit, every, monkeypatch):
    """Of 100 texts of ten characters."""

    class Trained:
        def __init__(self, *model):
            pass

        def train_from_iterator(self, batches, trainer):
            seen.extend(text for batch in batches for text in batch)

    seen: list[str] = []
    texts = [f"text{number:06}" for number in range(100)]
    found, _ = text_splits.survey("train", Dataset.from_dict({"text": texts}), "text", 0)
    monkeypatch.setattr(text_tokens, "TRAINING_CHARACTERS", limit)
    monkeypatch.setattr(text_tokens, "Tokenizer", Trained)
    text_tokens.train_tokenizer(found, 300)
    assert seen == texts[::every]


def test_windows_of_a_large_split_are_let_go_once_they_are_read(embedded, monkeypatch):
    small = load_text(embedded.folder)
    assert not small.large
    monkeypatch.setattr(text, "LARGE", 0)
    data = load_text(embedded.folder)
    assert data.large.keys() == data.tokens.keys()
    let_go = []

    class Mapping:
        def madvise(self, option: int) -> None:
            let_go.append(option)

    starts = np.arange(0, 60, 7)
    data.large["train"] = Mapping()
    for one in (data, load_text(embedded.folder)):
        assert torch.equal(one.batch("train", starts, 8), small.batch("train", starts, 8))
    assert let_go == [mmap.MADV_DONTNEED]
