"""Local files of every kind, and what is asked of the hub."""

from __future__ import annotations

import bz2
import codecs
import csv
import gzip
import io
import json
import lzma
import zipfile
from pathlib import Path

import datasets
import pyarrow as pa
import pytest

from lowrank.data.image_files import find_splits
from lowrank.data.images_spec import ImageSpec
from lowrank.data.local_files import find_files
from lowrank.data.sources import load_splits
from lowrank.data.spec import TextSpec
from lowrank.data.text import load_text, prepare_text
from lowrank.errors import LowrankError
from lowrank.files import sha256


def load(tmp_path: Path, text_unit: str = "line", **keys):
    def no_embedded():
        raise AssertionError("not embedded")

    return load_splits(
        TextSpec(**keys),
        cache=tmp_path / "cache",
        embedded=no_embedded,
        root=tmp_path,
        text_unit=text_unit,
    )


def test_a_file_a_glob_a_folder_and_a_list_are_found_sorted_once(tmp_path):
    for name in ("b.txt", "a.txt", "notes", ".hidden.txt", "sub/c.txt", ".cache/d.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x", encoding="utf-8")

    def names(where):
        return [str(path.relative_to(tmp_path)) for path in find_files(where, tmp_path).files]

    assert names("a.txt") == ["a.txt"]
    assert names("*.txt") == ["a.txt", "b.txt"]
    assert names("**/*.txt") == ["a.txt", "b.txt", "sub/c.txt"]
    assert names(".") == ["a.txt", "b.txt", "sub/c.txt"]
    assert names(("sub", "b.txt", "*.txt")) == ["a.txt", "b.txt", "sub/c.txt"]
    assert names(str(tmp_path / "notes")) == ["notes"]


def test_data_are_where_the_environment_says(tmp_path, monkeypatch):
    (tmp_path / "elsewhere/imdb").mkdir(parents=True)
    (tmp_path / "elsewhere/imdb/train-0.txt").touch()
    (tmp_path / "elsewhere/imdb/train-0.parquet").touch()
    (tmp_path / "data").mkdir()
    (tmp_path / "data/here.txt").touch()
    assert [p.name for p in find_files("data/here.txt", tmp_path).files] == ["here.txt"]
    monkeypatch.setenv("LOWRANK_DATA", str(tmp_path / "elsewhere"))
    assert [p.name for p in find_files("data/imdb/*.txt", tmp_path).files] == ["train-0.txt"]
    assert find_splits(ImageSpec(source="local", path="data/imdb"), tmp_path)["train"]
    with pytest.raises(LowrankError, match=r"elsewhere/here\.txt is missing"):
        find_files("data/here.txt", tmp_path)


@pytest.mark.parametrize(
    ("unit", "expected"),
    [
        ("line", ["One", "more", "", "Two"]),
        ("paragraph", ["One\nmore", "Two\n"]),
        ("file", ["One\nmore\n\nTwo\n"]),
    ],
)
def test_text_files_are_read_by_the_unit_asked_for(tmp_path, unit, expected):
    (tmp_path / "news.en-00001-of-00100").write_text("One\nmore\n\nTwo\n", encoding="utf-8")
    splits, facts = load(tmp_path, unit, source="local", train="news.en-*")
    assert list(splits) == ["train"]
    assert splits["train"]["text"][:] == expected
    assert list(facts["files"]["train"]) == ["news.en-00001-of-00100"]


ROWS = ["one, two", "NA", "null", "None", "nan", "007", "#N/A", "true", "2020-01-01", "three\tfour"]


def table(path: Path, rows: list[str]) -> None:
    """Write documents as a table in the format of the path's ending."""
    numbered = [{"text": text, "n": number} for number, text in enumerate(rows)]
    data = datasets.Dataset.from_list(numbered)
    if path.suffix == ".parquet":
        data.to_parquet(path)
    elif path.suffix == ".arrow":
        with (
            pa.OSFile(str(path), "wb") as sink,
            pa.ipc.new_stream(sink, data.data.schema) as writer,
        ):
            writer.write_table(data.data.table)
    elif path.suffix in (".csv", ".tsv"):
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writerows([["text", "n"], *([row["text"], row["n"]] for row in numbered)])
    elif path.suffix == ".txt":
        path.write_text("".join(row + "\n" for row in rows), encoding="utf-8")
    else:
        lines = [json.dumps(row) for row in numbered]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")


PACK = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".lzma": lambda data: lzma.compress(data, lzma.FORMAT_ALONE),
    ".zst": lambda data: with_arrow(data, "zstd"),
    ".lz4": lambda data: with_arrow(data, "lz4"),
    ".zip": lambda data: zipped(x=data),
}


def with_arrow(data: bytes, name: str) -> bytes:
    buffer = pa.BufferOutputStream()
    with pa.output_stream(buffer, compression=name) as stream:
        stream.write(data)
    return buffer.getvalue().to_pybytes()


def zipped(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


TABLES = [".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet", ".arrow", ".txt"]


@pytest.mark.parametrize("ending", TABLES)
def test_documents_are_read_as_they_stand_by_the_ending(tmp_path, ending):
    table(tmp_path / f"data{ending}", ROWS)
    name = f"data{ending.upper()}"
    (tmp_path / f"data{ending}").rename(tmp_path / name)
    splits, _ = load(tmp_path, source="local", train=name, test=(name,))
    assert splits["train"]["text"][:] == splits["test"]["text"][:] == ROWS


@pytest.mark.parametrize(
    ("ending", "packed"),
    [(".json", packed) for packed in PACK] + [(ending, ".gz") for ending in TABLES[1:]],
)
def test_the_ending_under_a_compression_decides(tmp_path, ending, packed):
    table(tmp_path / f"data{ending}", ROWS)
    content = (tmp_path / f"data{ending}").read_bytes()
    for name in (f"c4-train.00000-of-01024{ending}{packed}", f"A{ending}{packed}".upper()):
        (tmp_path / name).write_bytes(PACK[packed](content))
        splits, facts = load(tmp_path, source="local", train=name)
        assert splits["train"]["text"][:] == ROWS
        assert facts["files"]["train"] == {name: sha256(tmp_path / name)}


@pytest.mark.parametrize("ending", [".txt", ".csv", ".jsonl", ".tsv"])
@pytest.mark.parametrize("packed", ["", ".gz"])
def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path, ending, packed):
    for name in ("a", "b"):
        table(tmp_path / f"{name}{ending}", [name, "more"])
        content = codecs.BOM_UTF8 + (tmp_path / f"{name}{ending}").read_bytes()
        (tmp_path / f"{name}{ending}").unlink()
        file = tmp_path / "data" / f"{name}{ending}{packed}"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(gzip.compress(content) if packed else content)
    splits, _ = load(tmp_path, source="local", train="data")
    assert splits["train"]["text"][:] == ["a", "more", "b", "more"]


UNREADABLE = {
    "utf16.txt": ("one\n".encode("utf-16"), r"utf16\.txt is UTF-16: convert it to UTF-8"),
    "bare.txt": ("one\n".encode("utf-16-le"), r"bare\.txt is UTF-16 or no text at all"),
    "utf32.csv": ("text\n".encode("utf-32"), r"utf32\.csv is UTF-32"),
    "utf16.json.gz": (gzip.compress('{"text": "a"}'.encode("utf-16")), "is UTF-16"),
    "latin.csv.gz": (gzip.compress(b"text\ncaf\xe9\n"), r"latin\.csv\.gz is not UTF-8"),
    "cut.txt.gz": (
        gzip.compress(b"text\n" * 99)[:20],
        r"cut\.txt\.gz could not be unpacked as \.gz",
    ),
    "cut.txt.xz": (lzma.compress(b"text\n" * 99)[:60], r"cut\.txt\.xz could not be unpacked"),
    "cut.txt.zst": (
        with_arrow(b"text\n" * 99, "zstd")[:15],
        r"cut\.txt\.zst could not be unpacked",
    ),
    "not.txt.bz2": (b"plain", r"not\.txt\.bz2 could not be unpacked"),
    "not.txt.zip": (b"plain", r"not\.txt\.zip could not be unpacked"),
    "two.txt.zip": (zipped(a=b"a", b=b"b"), "holds 2 files, not one: unpack it"),
    "none.csv": (b"other\na\n", r"none\.csv\) has no column 'text': there are 'other'"),
    "empty.txt.gz": (gzip.compress(b""), "train split is empty"),
    "a.pdf": (b"x", r"a\.pdf has the ending '\.pdf', which is not known"),
    "a.docx.gz": (b"x", r"has the ending '\.docx\.gz'"),
    "a.tar.gz": (b"x", r"has the ending '\.tar\.gz'"),
    "a.tgz": (b"x", r"has the ending '\.tgz'"),
    "a.7z.001": (b"x", r"has the ending '\.7z'"),
}


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_cannot_be_read_is_named(tmp_path, name):
    content, message = UNREADABLE[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(LowrankError, match=message) as error:
        load(tmp_path, source="local", train=name)
    assert str(error.value).endswith(".")


def test_a_folder_gives_its_tables_and_says_what_it_leaves_out(tmp_path, capsys):
    (tmp_path / "data").mkdir()
    for name in ("LICENSE", "README.md", "paper.pdf", "notes.doc", "b.txt", "a.TXT.gz"):
        content = gzip.compress(b"packed\n") if name.endswith("gz") else b"plain\n"
        (tmp_path / "data" / name).write_bytes(content)
    splits, _ = load(tmp_path, source="local", train="data")
    assert splits["train"]["text"][:] == ["packed", "plain"]
    said = "Note: The train split leaves out LICENSE, README.md, notes.doc and 1 more.\n"
    assert capsys.readouterr().err == said
    for name in ("b.txt", "a.TXT.gz"):
        (tmp_path / "data" / name).unlink()
    assert [f.name for f in find_files("data", tmp_path).files] == ["README.md"]
    (tmp_path / "data/README.md").unlink()
    assert [f.name for f in find_files("data", tmp_path).files] == ["LICENSE"]
    (tmp_path / "data/LICENSE").unlink()
    with pytest.raises(LowrankError, match=r"notes\.doc has the ending '\.doc'"):
        find_files("data", tmp_path)


def test_links_are_followed_and_broken_ones_named(tmp_path):
    (tmp_path / "real/deep").mkdir(parents=True)
    (tmp_path / "real/deep/a.txt").write_text("x", encoding="utf-8")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/linked").symlink_to(tmp_path / "real")
    assert find_files("data", tmp_path).files == [tmp_path / "data/linked/deep/a.txt"]
    (tmp_path / "real/deep/up").symlink_to(tmp_path / "real")
    with pytest.raises(LowrankError, match="link to a folder around it"):
        find_files("data", tmp_path)
    (tmp_path / "real/deep/up").unlink()
    (tmp_path / "data/gone.txt").symlink_to(tmp_path / "nowhere")
    for where in ("data", "data/*.txt"):
        with pytest.raises(LowrankError, match=r"gone\.txt is a broken link"):
            find_files(where, tmp_path)


def test_odd_names_of_folders_are_taken_as_they_are(tmp_path):
    folder = tmp_path / ".hidden" / "a[1]" / "__b__"
    folder.mkdir(parents=True)
    (folder / "x*y.txt").write_text("text\n", encoding="utf-8")
    splits, _ = load(tmp_path, source="local", train=str(folder))
    assert splits["train"]["text"][:] == ["text"]


def test_changed_content_is_read_again_from_a_kept_cache(tmp_path):
    for content in ("first", "second"):
        (tmp_path / "a.txt").write_text(content, encoding="utf-8")
        assert load(tmp_path, source="local", train="a.txt")[0]["train"]["text"][:] == [content]


def test_settings_of_the_library_are_left_as_they_were(tmp_path):
    before = (datasets.config.HF_UPDATE_DOWNLOAD_COUNTS, datasets.is_progress_bar_enabled())
    with pytest.raises(LowrankError):
        load(tmp_path, source="local", train="nowhere")
    after = (datasets.config.HF_UPDATE_DOWNLOAD_COUNTS, datasets.is_progress_bar_enabled())
    assert after == before


def hub(monkeypatch, names: list[str]) -> list:
    calls = []

    def load_dataset(*args, **kwargs):
        calls.append((args, kwargs))
        texts = {name: [f"{name} {number}" for number in range(50)] for name in names}
        tables = {name: datasets.Dataset.from_dict({"text": rows}) for name, rows in texts.items()}
        return datasets.DatasetDict(tables)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return calls


def test_the_hub_is_asked_for_name_config_and_revision(tmp_path, monkeypatch):
    calls = hub(monkeypatch, ["train", "validation", "test", "unsupervised"])
    splits, facts = load(tmp_path, source="hub", name="org/set", config="raw", revision="abc")
    cache = str(tmp_path / "cache")
    assert calls == [(("org/set", "raw"), {"revision": "abc", "cache_dir": cache})]
    assert list(splits) == ["train", "validation", "test"]
    assert facts["name"] == "org/set"
    assert facts["revision"] == "abc"


def test_splits_of_the_hub_are_taken_by_name(tmp_path, monkeypatch):
    hub(monkeypatch, ["train", "dev", "test"])
    splits, facts = load(tmp_path, source="hub", name="x", validation="dev", test="dev")
    assert splits["test"]["text"][0] == "dev 0"
    assert facts["splits"] == {"train": "train", "validation": "dev", "test": "dev"}
    with pytest.raises(LowrankError, match="no split 'valid': there are dev, test, train"):
        load(tmp_path, source="hub", name="x", validation="valid")


def test_splits_the_hub_lacks_are_taken_out_of_training(tmp_path, monkeypatch):
    hub(monkeypatch, ["train"])
    spec = TextSpec(source="hub", name="x", vocabulary=257, validation_fraction=0.1)
    data = load_text(prepare_text(spec, tmp_path / "out"))
    counts = {split: data.counts(split)["documents"] for split in ("train", "validation", "test")}
    assert counts == {"train": 43, "validation": 5, "test": 2}
    assert data.manifest["source"]["splits"] == {"train": "train"}


def test_a_failure_of_the_hub_is_one_sentence(tmp_path, monkeypatch):
    def fail(*_, **__):
        raise ConnectionError("Couldn't reach\n the hub")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    with pytest.raises(LowrankError, match=r"'x' \(raw\) could not be loaded: Couldn't reach the"):
        load(tmp_path, source="hub", name="x", config="raw")
