"""Local files of every kind, and what is asked of the hub."""

from __future__ import annotations

import json
from pathlib import Path

import datasets
import pytest

from lowrank.data.sources import find_files, load_splits
from lowrank.data.spec import TextSpec
from lowrank.data.text import load_text, prepare_text
from lowrank.errors import LowrankError


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
        return [str(path.relative_to(tmp_path)) for path in find_files(where, tmp_path)]

    assert names("a.txt") == ["a.txt"]
    assert names("*.txt") == ["a.txt", "b.txt"]
    assert names("**/*.txt") == ["a.txt", "b.txt", "sub/c.txt"]
    assert names(".") == ["a.txt", "b.txt", "sub/c.txt"]
    assert names(("sub", "b.txt", "*.txt")) == ["a.txt", "b.txt", "sub/c.txt"]
    assert names(str(tmp_path / "notes")) == ["notes"]


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


@pytest.mark.parametrize("ending", ["json", "jsonl", "csv", "parquet"])
def test_tables_are_read_by_their_ending(tmp_path, ending):
    rows = [{"text": "one, two", "n": 1}, {"text": "three", "n": 2}]
    table = datasets.Dataset.from_list(rows)
    file = tmp_path / f"data.{ending}"
    if ending == "csv":
        table.to_csv(file)
    elif ending == "parquet":
        table.to_parquet(file)
    else:
        file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    splits, _ = load(tmp_path, source="local", train=file.name, test=(file.name,))
    assert splits["train"]["text"][:] == splits["test"]["text"][:] == ["one, two", "three"]


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
