"""Classes are matched by name across splits and files, or refused."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import ClassLabel, Dataset, Features, Image
from sklearn.datasets import load_digits
from test_images import PIXELS, encoded, image_folder

from lowrank.data.images import load_images, prepare_images
from lowrank.data.images_spec import ImageSpec
from lowrank.errors import LowrankError

DIGITS = load_digits()
KINDS = ("cat", "dog", "eel")
ANIMALS = [KINDS[n % 3] for n in range(24)]
PNG = [encoded(pixels) for pixels in PIXELS[:24]]


def hugging(path, animals, names):
    """A file whose metadata name the classes, in the order of `names`."""
    features = Features({"image": Image(decode=False), "label": ClassLabel(names=list(names))})
    images = [{"bytes": data, "path": None} for data in PNG[: len(animals)]]
    labels = [names.index(animal) for animal in animals]
    Dataset.from_dict({"image": images, "label": labels}, features=features).to_parquet(path)


def plain(path, labels, kind=None):
    """A file as pandas or polars write it, images as plain bytes."""
    images = pa.array(PNG[: len(labels)], pa.large_binary() if kind == "large" else pa.binary())
    column = pa.array(labels).dictionary_encode() if kind == "dictionary" else pa.array(labels)
    pq.write_table(pa.table({"image": images, "label": column}), path)


def animals_of(folder, split):
    data = load_images(folder)
    by_pixels = {PIXELS[n].tobytes(): animal for n, animal in enumerate(ANIMALS)}
    found = [data.classes[n] for n in data.labels[split]]
    assert found == [by_pixels[image.tobytes()] for image in data.images[split]]
    return found


WRITERS = {
    "other order": lambda path: hugging(path, ANIMALS[:12], ["eel", "dog", "cat"]),
    "fewer names": lambda path: hugging(path, ["cat", "dog"], ["dog", "cat"]),
    "more names": lambda path: hugging(path, ANIMALS[:12], ["ant", "eel", "dog", "cat"]),
    "text": lambda path: plain(path, ANIMALS[:12]),
    "large bytes": lambda path: plain(path, ANIMALS[:12], "large"),
    "categories": lambda path: plain(path, ANIMALS[:12], "dictionary"),
}


@pytest.mark.parametrize("split", ["test", "validation"])
@pytest.mark.parametrize("train", ["names", "text"])
@pytest.mark.parametrize("writer", WRITERS)
def test_classes_are_matched_by_name(tmp_path, writer, train, split):
    if train == "names":
        hugging(tmp_path / "train.parquet", ANIMALS, KINDS)
    else:
        plain(tmp_path / "train.parquet", ANIMALS)
    WRITERS[writer](tmp_path / "other.parquet")
    spec = ImageSpec(source="local", path=str(tmp_path), **{f"{split}_split": "other"})
    manifest = prepare_images(spec, tmp_path / "out")
    assert manifest["classes"] == list(KINDS)
    assert set(animals_of(tmp_path / "out", split)) == {"cat", "dog"} | (
        set() if writer == "fewer names" else {"eel"}
    )
    assert animals_of(tmp_path / "out", "train")


def test_files_of_one_split_may_number_classes_differently(tmp_path):
    hugging(tmp_path / "train-0.parquet", ANIMALS[:12], KINDS)
    images = [{"bytes": data, "path": None} for data in PNG[12:]]
    names = ["eel", "cat", "dog"]
    features = Features({"image": Image(decode=False), "label": ClassLabel(names=names)})
    table = {"image": images, "label": [names.index(animal) for animal in ANIMALS[12:]]}
    Dataset.from_dict(table, features=features).to_parquet(tmp_path / "train-1.parquet")
    prepare_images(ImageSpec(source="local", path=str(tmp_path)), tmp_path / "out")
    for split in ("train", "validation", "test"):
        assert animals_of(tmp_path / "out", split)


def test_the_hub_s_classes_are_matched_by_name(tmp_path, monkeypatch):
    hugging(tmp_path / "train.parquet", ANIMALS, KINDS)
    hugging(tmp_path / "test.parquet", ANIMALS[:6], ["eel", "dog", "cat"])

    def load_dataset(name, split, cache_dir):
        if split not in ("train", "test"):
            raise ValueError(f'Unknown split "{split}". Should be one of ["train", "test"].')
        return Dataset.from_parquet(str(tmp_path / f"{split}.parquet"), cache_dir=cache_dir)

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    spec = ImageSpec(source="hub", path="a/b")
    prepare_images(spec, tmp_path / "out")
    assert animals_of(tmp_path / "out", "test") == ANIMALS[:6]
    with pytest.raises(LowrankError, match="Unknown split"):
        prepare_images(spec.model_copy(update={"test_split": "dev"}), tmp_path / "out")


def test_numbers_match_names_that_are_numbers(tmp_path):
    names = ["2", "0", "1"]
    hugging(tmp_path / "train.parquet", [names[n % 3] for n in range(24)], names)
    plain(tmp_path / "test.parquet", [0, 1, 2])
    prepare_images(ImageSpec(source="local", path=str(tmp_path)), tmp_path / "out")
    data = load_images(tmp_path / "out")
    assert [data.classes[n] for n in data.labels["test"]] == ["0", "1", "2"]


STRANGE = {
    "name": (
        lambda path: plain(path, ["cat", "fox"]),
        "class fox of the test split .* cat, dog, eel",
    ),
    "numbers": (lambda path: plain(path, [0, 1]), "class 0, 1 of the test split .* on one side do"),
    "case": (lambda path: plain(path, ["Cat"]), "class Cat of the test split"),
    "null": (lambda path: plain(path, ["cat", None]), "class number or name in every row"),
    "float": (lambda path: plain(path, [0.5]), "class number or name in every row"),
}


@pytest.mark.parametrize("case", STRANGE)
def test_classes_that_training_does_not_know_are_refused(tmp_path, case):
    writer, message = STRANGE[case]
    hugging(tmp_path / "train.parquet", ANIMALS, KINDS)
    writer(tmp_path / "test.parquet")
    with pytest.raises(LowrankError, match=message):
        prepare_images(ImageSpec(source="local", path=str(tmp_path)), tmp_path / "out")


def test_named_and_bare_numbers_in_files_of_one_split_are_refused(tmp_path):
    hugging(tmp_path / "train-0.parquet", ANIMALS, KINDS)
    plain(tmp_path / "train-1.parquet", [0, 1])
    with pytest.raises(LowrankError, match="class 0, 1 of the train split"):
        prepare_images(ImageSpec(source="local", path=str(tmp_path)), tmp_path / "out")


def test_a_class_that_a_split_lacks_is_said(tmp_path, capsys):
    hugging(tmp_path / "train.parquet", ["cat", "dog"] * 8, ["cat", "dog", "eel", "fox"])
    hugging(tmp_path / "test.parquet", ["cat", "eel"], ["cat", "dog", "eel", "fox"])
    spec = ImageSpec(source="local", path=str(tmp_path))
    notes = prepare_images(spec, tmp_path / "out")["notes"]
    assert notes == [
        "The train split has no image of 1 of 4 classes (eel).",
        "The test split has no image of 1 of 4 classes (dog).",
        "No split has an image of 1 classes (fox).",
    ]
    said = capsys.readouterr().err
    assert all(f"Note: {note}\n" in said for note in notes)


def test_a_class_folder_that_only_test_has_is_refused(tmp_path):
    image_folder(tmp_path, "train", [0, 1] * 8)
    image_folder(tmp_path, "test", [0, 2])
    with pytest.raises(LowrankError, match="class class2 of the test split"):
        prepare_images(ImageSpec(source="local", path=str(tmp_path)), tmp_path / "out")


def test_true_and_false_are_classes(tmp_path):
    plain(tmp_path / "train.parquet", [True, False] * 12)
    spec = ImageSpec(source="local", path=str(tmp_path))
    assert prepare_images(spec, tmp_path / "out")["classes"] == ["false", "true"]
    assert np.unique(load_images(tmp_path / "out").labels["train"]).tolist() == [0, 1]
