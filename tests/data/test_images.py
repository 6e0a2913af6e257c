"""Image data sets: what is written, from which source, and what is refused."""

import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from sklearn.datasets import load_digits

from lowrank.data.image_sources import stratified
from lowrank.data.images import load_images, prepare_images
from lowrank.data.images_spec import ImageSpec
from lowrank.data.pixels import eight_bit
from lowrank.errors import LowrankError

DIGITS = load_digits()
PIXELS = np.round(DIGITS.images * (255 / 16)).astype(np.uint8)
COLOURED = np.stack([PIXELS, PIXELS // 2, 255 - PIXELS], axis=-1)


def encoded(pixels, kind="PNG"):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def write_parquet(path, images, labels, names=None):
    """A file laid out as the hub copies of CIFAR-100 are."""
    table = {"img": [{"bytes": data, "path": None} for data in images], "fine_label": list(labels)}
    label = datasets.ClassLabel(names=names) if names else datasets.Value("int64")
    features = datasets.Features({"img": datasets.Image(decode=False), "fine_label": label})
    datasets.Dataset.from_dict(table, features=features).to_parquet(path)


@pytest.fixture
def parquet(tmp_path):
    """A local data set of 60 training and 20 test images with class names; the folder it is in."""
    folder = tmp_path / "source"
    folder.mkdir()
    names = list(DIGITS.target_names.astype(str))
    for split, part in (("train", slice(0, 60)), ("test", slice(60, 80))):
        images = [encoded(pixels) for pixels in COLOURED[part]]
        write_parquet(folder / f"{split}-00000.parquet", images, DIGITS.target[part], names)
    return folder


def local(folder, **more):
    values = {"image_column": "img", "label_column": "fine_label", "validation_fraction": 0.25}
    return ImageSpec(source="local", path=str(folder), **{**values, **more})


def image_folder(root, split, labels, name="{:03}.png"):
    for number, label in enumerate(labels):
        path = root / split / f"class{label}" / name.format(number)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(COLOURED[number]).save(path)


def test_embedded_digits_are_all_there_once_and_unchanged(tmp_path):
    manifest = prepare_images(ImageSpec(), tmp_path / "digits")
    assert manifest["digest"] == "4864260af1bbbdbf"  # of the first version: runs stay usable
    data = load_images(tmp_path / "digits")
    images = np.concatenate([data.images[split] for split in data.images])
    labels = np.concatenate([data.labels[split] for split in data.labels])
    assert manifest["counts"] == {"train": 1294, "validation": 144, "test": 359}
    assert images.shape == (1797, 8, 8, 1)
    assert images.dtype == np.uint8
    assert labels.dtype == np.int64
    expected = sorted((*p.ravel(), t) for p, t in zip(PIXELS, DIGITS.target, strict=True))
    found = sorted((*p.ravel(), t) for p, t in zip(images, labels, strict=True))
    assert found == expected


@pytest.mark.parametrize("broken", [[], [0, 17, 40, 59]])
def test_statistics_are_those_of_the_training_split_as_it_is_kept(broken, parquet, tmp_path):
    corrupt(parquet, broken)
    manifest = prepare_images(local(parquet, skip_corrupt=True), tmp_path / "out")
    assert bool(manifest["skipped"]["train"]) == bool(broken)
    train = load_images(tmp_path / "out").images["train"] / 255
    np.testing.assert_allclose(manifest["mean"], train.mean((0, 1, 2)), rtol=1e-12)
    np.testing.assert_allclose(manifest["std"], train.std((0, 1, 2)), rtol=1e-12)
    assert manifest["shape"] == [8, 8, 3]


def test_statistics_of_images_that_are_wider_than_high(tmp_path):
    spec = folder_of(tmp_path / "source", [Image.fromarray(STEPS[:4])] * 2)
    manifest = prepare_images(spec, tmp_path / "out")
    assert manifest["shape"] == [4, 16, 1]
    np.testing.assert_allclose(manifest["mean"], STEPS[:4].mean() / 255, rtol=1e-12)
    np.testing.assert_allclose(manifest["std"], STEPS[:4].std() / 255, rtol=1e-12)


def test_splits_are_stratified_disjoint_and_decided_by_the_seed():
    labels = np.repeat(np.arange(7), [100, 50, 30, 20, 10, 3, 2])
    for count in (1, 40, 107, 215):
        held, rest = stratified(labels, count, seed=3)
        assert len(held) == count
        assert sorted([*held, *rest]) == list(range(215))
        share = np.bincount(labels[held], minlength=7) - np.bincount(labels) * count / 215
        assert np.abs(share).max() < 1
    assert (stratified(labels, 40, 3)[0] == stratified(labels, 40, 3)[0]).all()
    assert (stratified(labels, 40, 3)[0] != stratified(labels, 40, 4)[0]).any()


def test_the_same_spec_gives_the_same_digest_and_another_seed_another(tmp_path):
    digests = [
        prepare_images(ImageSpec(split_seed=seed), tmp_path / str(number))["digest"]
        for number, seed in enumerate((0, 0, 1))
    ]
    assert digests[0] == digests[1] != digests[2]


def test_parquet_keeps_names_pixels_and_the_test_split(parquet, tmp_path):
    prepare_images(local(parquet), tmp_path / "out")
    data = load_images(tmp_path / "out")
    assert data.classes == list("0123456789")
    assert data.manifest["counts"] == {"train": 45, "validation": 15, "test": 20}
    assert (data.images["test"] == COLOURED[60:80]).all()
    assert (data.labels["test"] == DIGITS.target[60:80]).all()


def test_nothing_is_left_beside_the_data_set(parquet, tmp_path):
    prepare_images(local(parquet), tmp_path / "prepared" / "out")
    assert os.listdir(tmp_path / "prepared") == ["out"]
    assert len(os.listdir(tmp_path / "prepared" / "out")) == 8


def test_image_folders_are_read_by_class_and_split(tmp_path):
    root = tmp_path / "source"
    image_folder(root, "train", [0, 1, 2] * 8)
    image_folder(root, "val", [2, 0])
    spec = ImageSpec(source="local", path=str(root), test_split="val")
    manifest = prepare_images(spec, tmp_path / "out")
    data = load_images(tmp_path / "out")
    assert data.classes == ["class0", "class1", "class2"]
    assert manifest["counts"] == {"train": 22, "validation": 2, "test": 2}
    assert (data.images["test"] == COLOURED[[1, 0]]).all()
    assert list(data.labels["test"]) == [0, 2]


def test_linked_folders_and_nested_ones_are_classes_like_others(tmp_path):
    root = tmp_path / "source"
    image_folder(root, "train", [0, 1] * 8)
    image_folder(root, "test", [0, 1] * 4)
    plain = prepare_images(ImageSpec(source="local", path=str(root)), tmp_path / "plain")
    for split in ("train", "test"):
        (root / split / "class1").rename(tmp_path / f"{split}-elsewhere")
        (root / split / "class1").symlink_to(tmp_path / f"{split}-elsewhere")
        (root / split / "class0").rename(root / split / "inside")
        (root / split / "class0").mkdir()
        (root / split / "inside").rename(root / split / "class0" / "images")
    (tmp_path / "link").symlink_to(root)
    again = prepare_images(ImageSpec(source="local", path=str(tmp_path / "link")), tmp_path / "out")
    assert again["digest"] == plain["digest"]
    (root / "train" / "class2").symlink_to(tmp_path / "nowhere")
    with pytest.raises(LowrankError, match="class2 is a broken link"):
        prepare_images(ImageSpec(source="local", path=str(root)), tmp_path / "out")


def test_what_an_image_folder_leaves_out_is_said(tmp_path, capsys):
    image_folder(tmp_path, "train", [0, 1] * 8)
    image_folder(tmp_path, "test", [0, 1])
    (tmp_path / "train" / "class0" / "notes.txt").write_text("x", encoding="utf-8")
    (tmp_path / "train" / "class7").mkdir()
    shutil.copy(tmp_path / "train" / "class1" / "001.png", tmp_path / "train" / "loose.png")
    prepare_images(ImageSpec(source="local", path=str(tmp_path)), tmp_path / "out")
    said = capsys.readouterr().err
    assert "The train split leaves out notes.txt, loose.png." in said
    assert "The train split has no images in class7." in said


@pytest.mark.parametrize("layout", ["folders", "parquet"])
def test_a_share_is_held_out_where_there_is_no_test_split(tmp_path, layout, capsys):
    root = tmp_path / "source"
    if layout == "folders":
        image_folder(root, "train", [0, 1] * 10)
    else:
        root.mkdir()
        write_parquet(root / "train.parquet", [encoded(p) for p in COLOURED[:20]], [0, 1] * 10)
    names = {} if layout == "folders" else {"image_column": "img", "label_column": "fine_label"}
    spec = ImageSpec(source="local", path=str(root), test_fraction=0.3, **names)
    manifest = prepare_images(spec, tmp_path / "out")
    assert manifest["counts"] == {"train": 13, "validation": 1, "test": 6}
    data = load_images(tmp_path / "out")
    images = np.concatenate([data.images[split] for split in data.images])
    assert sorted(map(bytes, images)) == sorted(map(bytes, COLOURED[:20]))
    assert sorted(data.labels["test"]) == [0] * 3 + [1] * 3
    assert "There is no test split: 30% of training data become one." in capsys.readouterr().err
    with pytest.raises(LowrankError, match=r"test is missing: neither a folder"):
        prepare_images(spec.model_copy(update={"test_split": "test"}), tmp_path / "out")


@pytest.mark.parametrize("pattern", ["train*.parquet", "train-00000.parquet", "train"])
def test_paths_may_be_absolute_or_below_home(parquet, tmp_path, pattern, monkeypatch):
    expected = prepare_images(local(parquet), tmp_path / "plain")["digest"]
    spec = local(parquet, train_split=str(parquet / pattern))
    assert prepare_images(spec, tmp_path / "out")["digest"] == expected
    monkeypatch.setenv("HOME", str(parquet.parent))
    spec = local("~/source", train_split=f"~/source/{pattern}")
    assert prepare_images(spec, tmp_path / "out")["digest"] == expected


def test_odd_names_and_stray_files_do_no_harm(parquet, tmp_path):
    plain = prepare_images(local(parquet), tmp_path / "plain")
    odd = parquet.rename(tmp_path / "odd [1] *names")
    assert prepare_images(local(odd), tmp_path / "again")["digest"] == plain["digest"]
    image_folder(odd / "folders", "train", [0, 1] * 5)
    image_folder(odd / "folders", "test", [0, 1])
    for name in (".DS_Store", "notes.txt"):
        (odd / "folders" / "train" / "class0" / name).write_text("not an image", encoding="utf-8")
    spec = ImageSpec(source="local", path=str(odd / "folders"))
    counts = prepare_images(spec, tmp_path / "out")["counts"]
    assert counts == {"train": 9, "validation": 1, "test": 2}


def test_a_validation_split_that_is_named_is_used(parquet, tmp_path):
    images = [encoded(pixels) for pixels in COLOURED[80:90]]
    names = list(DIGITS.target_names.astype(str))
    write_parquet(parquet / "valid.parquet", images, DIGITS.target[80:90], names)
    prepare_images(local(parquet, validation_split="valid.parquet"), tmp_path / "out")
    data = load_images(tmp_path / "out")
    assert data.manifest["counts"] == {"train": 60, "validation": 10, "test": 20}
    assert (data.images["validation"] == COLOURED[80:90]).all()


def test_max_images_caps_every_split(parquet, tmp_path):
    manifest = prepare_images(local(parquet, max_images=12), tmp_path / "out")
    assert manifest["counts"] == {"train": 12, "validation": 12, "test": 12}


def test_size_resizes_the_shorter_side_and_crops_the_centre(tmp_path):
    wide = np.random.default_rng(0).integers(0, 256, (20, 60, 3), np.uint8)
    tall = wide.transpose(1, 0, 2)
    (tmp_path / "source").mkdir()
    for split in ("train", "test"):
        images = [encoded(wide), encoded(tall)] * 5
        write_parquet(tmp_path / "source" / f"{split}.parquet", images, [0, 1] * 5)
    prepare_images(local(tmp_path / "source", size=10), tmp_path / "out")
    data = load_images(tmp_path / "out")
    small = Image.fromarray(wide).resize((30, 10), Image.Resampling.BILINEAR)
    expected = np.asarray(small.crop((10, 0, 20, 10)))
    for image, label in zip(data.images["train"], data.labels["train"], strict=True):
        assert (image == (expected if label == 0 else expected.transpose(1, 0, 2))).all()


def test_images_of_several_sizes_need_size(tmp_path):
    (tmp_path / "source").mkdir()
    images = [encoded(COLOURED[0]), encoded(COLOURED[1][:, :7])] * 5
    for split in ("train", "test"):
        write_parquet(tmp_path / "source" / f"{split}.parquet", images, [0, 1] * 5)
    with pytest.raises(LowrankError, match="8 x 7 pixels, the first one 8 x 8: set size"):
        prepare_images(local(tmp_path / "source"), tmp_path / "out")


def folder_of(root, images, ending="png"):
    """A data set of image folders, the same Pillow images in both splits and classes."""
    for split in ("train", "test"):
        for label in ("cat", "dog"):
            folder = root / split / label
            folder.mkdir(parents=True)
            for number, image in enumerate(images):
                image.save(folder / f"{number:03}.{ending}")
    return ImageSpec(source="local", path=str(root), validation_fraction=0.5)


RAMP = np.arange(0, 65536, 257, np.uint16).reshape(16, 16)
"""From black to white in 16 bits; in 8 bits 0, 1, ..., 255."""
STEPS = (RAMP // 257).astype(np.uint8)
SHAPE = np.zeros((16, 16), np.uint8)
SHAPE[4:12, 4:12] = 255


def layers(*channels, mode):
    return Image.merge(mode, [Image.fromarray(channel) for channel in channels])


def palette_with_transparency():
    image = Image.fromarray(SHAPE // 255, "P")
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.info["transparency"] = 0
    return image


WHITE = np.full((16, 16), 255, np.uint8)
BLACK = np.zeros((16, 16), np.uint8)
BLUE = np.where(SHAPE[..., None], [0, 0, 255], [255, 255, 255])
MODES = {
    "16-bit png": (Image.fromarray(RAMP), "png", STEPS[..., None]),
    "16-bit tiff": (Image.fromarray(RAMP), "tif", STEPS[..., None]),
    "16-bit big-endian tiff": (Image.fromarray(RAMP.astype(">u2")), "tif", STEPS[..., None]),
    "16-bit pgm": (Image.fromarray(RAMP), "pgm", STEPS[..., None]),
    "1-bit": (Image.fromarray(SHAPE).convert("1"), "png", SHAPE[..., None]),
    "RGBA": (
        layers(BLACK, BLACK, BLACK, SHAPE, mode="RGBA"),
        "png",
        255 - np.stack([SHAPE] * 3, -1),
    ),
    "LA": (layers(BLACK, SHAPE, mode="LA"), "png", 255 - SHAPE[..., None]),
    "half LA": (layers(BLACK, WHITE // 5 * 2, mode="LA"), "png", np.full((16, 16, 1), 153)),
    "opaque RGBA": (
        layers(STEPS, BLACK, WHITE, WHITE, mode="RGBA"),
        "png",
        np.stack([STEPS, BLACK, WHITE], -1),
    ),
    "palette": (palette_with_transparency(), "png", BLUE),
    "CMYK": (
        layers(BLACK, WHITE, WHITE, BLACK, mode="CMYK"),
        "tif",
        np.stack([WHITE, BLACK, BLACK], -1),
    ),
}


@pytest.mark.parametrize("mode", MODES)
def test_images_of_every_mode_keep_their_range_and_their_shape(tmp_path, mode):
    image, ending, expected = MODES[mode]
    spec = folder_of(tmp_path / "source", [image, image], ending)
    prepare_images(spec, tmp_path / "out")
    found = load_images(tmp_path / "out").images["test"][0]
    assert found.shape == expected.shape
    assert (found == expected).all()


def test_a_tiff_of_12_bits_is_scaled_by_them(tmp_path):
    every = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    buffer = io.BytesIO()
    Image.fromarray(every).save(buffer, "TIFF")
    buffer.seek(0)
    image = Image.open(buffer)
    image.tag_v2[258] = (12,)
    found, _ = eight_bit(image, None, "white")
    assert (np.asarray(found) == np.round(every / 4095 * 255)).all()


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.zeros((4, 4), np.float32), "floating-point numbers, whose range is not known"),
        (np.zeros((4, 4), np.int32), "32-bit integers, whose range is not known"),
    ],
)
def test_images_without_a_range_are_refused_whatever_skip_corrupt_says(tmp_path, pixels, message):
    spec = folder_of(tmp_path / "source", [Image.fromarray(pixels)] * 2, "tif")
    for skip in (False, True):
        with pytest.raises(
            LowrankError, match=rf"00\d\.tif\) cannot be used: its pixels are {message}"
        ):
            prepare_images(spec.model_copy(update={"skip_corrupt": skip}), tmp_path / "out")


def test_transparent_images_are_counted_and_laid_on_the_background(tmp_path, capsys):
    image = layers(WHITE, SHAPE, mode="LA")
    spec = folder_of(tmp_path / "source", [image, Image.fromarray(SHAPE)])
    spec = spec.model_copy(update={"background": "black"})
    manifest = prepare_images(spec, tmp_path / "out")
    assert sum(manifest["transparent"].values()) == 4
    said = "4 images are transparent: they are laid on black."
    assert manifest["notes"] == [said]
    assert said in capsys.readouterr().err
    assert (load_images(tmp_path / "out").images["test"] == SHAPE[..., None]).all()


@pytest.mark.parametrize(("channels", "expected"), [(None, 1), (1, 1), (3, 3)])
def test_grey_images_become_what_channels_says(tmp_path, channels, expected):
    (tmp_path / "source").mkdir()
    images = [encoded(pixels) for pixels in PIXELS[:10]] + [encoded(COLOURED[10])] * 10
    for split in ("train", "test"):
        write_parquet(tmp_path / "source" / f"{split}.parquet", images, [0, 1] * 10)
    spec = local(tmp_path / "source", channels=channels)
    assert prepare_images(spec, tmp_path / "out")["shape"] == [8, 8, expected]


def corrupt(folder, rows):
    """Cut two thirds off some images of the first training file."""
    path = folder / "train-00000.parquet"
    table = pq.read_table(path)
    images = table["img"].to_pylist()
    for row in rows:
        images[row]["bytes"] = images[row]["bytes"][: len(images[row]["bytes"]) // 3]
    column = pa.array(images, table["img"].type)
    pq.write_table(table.set_column(0, table.schema.field("img"), column), path)


def test_a_truncated_image_is_named_by_its_row(parquet, tmp_path):
    corrupt(parquet, [17])
    with pytest.raises(LowrankError, match=r"^Image 17 of the train split of .*cannot be decoded"):
        prepare_images(local(parquet), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_truncated_image_of_a_folder_is_named_by_its_file(tmp_path):
    image_folder(tmp_path / "source", "train", [0, 1] * 6)
    image_folder(tmp_path / "source", "test", [0, 1])
    broken = tmp_path / "source" / "train" / "class1" / "003.png"
    broken.write_bytes(broken.read_bytes()[:60])
    spec = ImageSpec(source="local", path=str(tmp_path / "source"), validation_fraction=0.2)
    with pytest.raises(LowrankError, match=r"class1/003\.png\) cannot be decoded"):
        prepare_images(spec, tmp_path / "out")


def test_skip_corrupt_leaves_out_and_counts(parquet, tmp_path):
    clean = prepare_images(local(parquet), tmp_path / "clean")
    corrupt(parquet, [0, 17, 59])
    manifest = prepare_images(local(parquet, skip_corrupt=True), tmp_path / "out")
    assert sum(manifest["skipped"].values()) == 3
    assert sum(manifest["counts"].values()) == sum(clean["counts"].values()) - 3
    data = load_images(tmp_path / "out")
    for split, images in data.images.items():
        assert len(images) == len(data.labels[split]) == manifest["counts"][split]
        for pixels, label in zip(images, data.labels[split], strict=True):
            assert label in DIGITS.target[(pixels == COLOURED).all((1, 2, 3))]


def test_a_wrong_column_lists_the_columns(parquet, tmp_path):
    with pytest.raises(LowrankError, match=r"no column 'image': set image_column .*fine_label"):
        prepare_images(local(parquet, image_column="image"), tmp_path / "out")
    with pytest.raises(LowrankError, match=r"no column 'coarse': set label_column .*fine_label"):
        prepare_images(local(parquet, label_column="coarse"), tmp_path / "out")


def test_columns_of_the_wrong_kind_are_refused(parquet, tmp_path):
    with pytest.raises(LowrankError, match="holds no images"):
        prepare_images(local(parquet, image_column="fine_label"), tmp_path / "out")
    with pytest.raises(LowrankError, match="class number"):
        prepare_images(local(parquet, label_column="img"), tmp_path / "out")


def test_missing_files_are_named(parquet, tmp_path):
    with pytest.raises(LowrankError, match=r"There is no folder .*nowhere"):
        prepare_images(local(tmp_path / "nowhere"), tmp_path / "out")
    with pytest.raises(LowrankError, match=r"dev is missing: neither a folder dev nor dev\*"):
        prepare_images(local(parquet, test_split="dev"), tmp_path / "out")


def test_a_damaged_parquet_file_is_one_sentence(parquet, tmp_path):
    (parquet / "train-00000.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(LowrankError, match=r"The files of .* could not be read: .*\.$"):
        prepare_images(local(parquet), tmp_path / "out")


@pytest.mark.parametrize(
    ("labels", "test_labels", "message"),
    [
        ([3] * 10, [3], "All 10 images of the train split of .* have class 3"),
        ([0, 1] * 5, [-1], "run from -1 to -1, out of the range 0 to 1"),
        ([0, 1] * 5, [7], "run from 7 to 7, out of the range 0 to 1"),
        ([0, 1] * 5, [], "no images in the test split|could not be read"),
        ([0, 1], [0], "leaves 2 to train on and 0 to validate on"),
    ],
)
def test_useless_labels_and_splits_are_refused(tmp_path, labels, test_labels, message):
    (tmp_path / "source").mkdir()
    for split, numbers in (("train", labels), ("test", test_labels)):
        images = [encoded(COLOURED[0])] * len(numbers)
        write_parquet(tmp_path / "source" / f"{split}.parquet", images, numbers)
    with pytest.raises(LowrankError, match=message):
        prepare_images(local(tmp_path / "source"), tmp_path / "out")


def test_the_hub_is_asked_for_the_named_splits_and_a_temporary_cache(
    parquet, tmp_path, monkeypatch
):
    asked = []

    def load_dataset(name, split, cache_dir):
        asked.append((name, split, Path(cache_dir).parent))
        path = parquet / ("train-00000.parquet" if split == "train" else "test-00000.parquet")
        return datasets.Dataset.from_parquet(str(path), cache_dir=str(tmp_path / "fake"))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    spec = ImageSpec(
        source="hub",
        path="someone/cifar",
        image_column="img",
        label_column="fine_label",
        test_split="validation",
    )
    manifest = prepare_images(spec, tmp_path / "out")
    assert manifest["counts"] == {"train": 54, "validation": 6, "test": 20}
    assert asked == [("someone/cifar", split, tmp_path) for split in ("train", "validation")]


def test_an_unreachable_hub_is_one_sentence(tmp_path, monkeypatch):
    def load_dataset(*_, **__):
        raise ConnectionError("Couldn't reach\nthe hub.")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    message = r"^The hub's data set a/b could not be loaded: Couldn't reach the hub\.$"
    with pytest.raises(LowrankError, match=message):
        prepare_images(ImageSpec(source="hub", path="a/b"), tmp_path / "out")


def test_local_data_touches_neither_network_nor_home(parquet, tmp_path):
    program = (
        "import socket, sys\n"
        "def refuse(*_): raise SystemExit('network')\n"
        "socket.socket.connect = socket.getaddrinfo = refuse\n"
        "import lowrank.data.images, lowrank.data.augment, lowrank.models.resnet\n"
        "assert not {'datasets', 'transformers'} & set(sys.modules), 'imported too early'\n"
        "from lowrank.data.images_spec import ImageSpec\n"
        f"spec = ImageSpec.model_validate_json({local(parquet).model_dump_json()!r})\n"
        f"lowrank.data.images.prepare_images(spec, {str(tmp_path / 'out')!r})\n"
    )
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "XDG_"))}
    environment |= {"HOME": str(tmp_path / "home"), "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment, timeout=120)
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_the_manifest_detects_damage(tmp_path, split):
    prepare_images(ImageSpec(max_images=30), tmp_path / "out")
    path = tmp_path / "out" / f"images-{split}.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(LowrankError, match=f"images-{split}.npy does not match"):
        load_images(tmp_path / "out")


def test_a_folder_of_another_kind_is_refused(tmp_path):
    (tmp_path / "manifest.json").write_text('{"kind": "text", "files": {}}', encoding="utf-8")
    with pytest.raises(LowrankError, match="kind 'text': images are expected"):
        load_images(tmp_path)


def test_a_split_moves_to_the_device_only_within_the_limit(tmp_path):
    prepare_images(ImageSpec(max_images=30), tmp_path / "out")
    data = load_images(tmp_path / "out")
    whole = data.tensor("train", "cpu")
    assert isinstance(whole, torch.Tensor)
    assert whole.dtype == torch.uint8
    mapped = data.tensor("train", "cpu", limit=30 * 64 - 1)
    assert isinstance(mapped, np.memmap)
    assert (whole.numpy() == mapped).all()
    with pytest.raises(LowrankError, match="Unknown split 'trian': did you mean 'train'"):
        data.tensor("trian")


def test_specs_are_described_frozen_and_strict():
    assert all(field.description for field in ImageSpec.model_fields.values())
    with pytest.raises(ValidationError, match="path is needed for the source hub"):
        ImageSpec(source="hub")
    with pytest.raises(ValidationError, match="Extra inputs"):
        ImageSpec(colour="red")
    with pytest.raises(ValidationError, match="frozen"):
        ImageSpec().size = 3


def test_real_cifar_100_has_its_published_counts_and_statistics(tmp_path):
    folder = Path(os.environ.get("LOWRANK_DATA", "/nonexistent")) / "cifar100"
    if not folder.is_dir():
        pytest.skip("LOWRANK_DATA names no folder that holds cifar100")
    spec = local(folder, validation_fraction=0.1, max_images=2000)
    manifest = prepare_images(spec, tmp_path / "out")
    assert manifest["counts"] == {"train": 2000, "validation": 2000, "test": 2000}
    assert manifest["shape"] == [32, 32, 3]
    assert manifest["classes"][:2] == ["apple", "aquarium_fish"]
    data = load_images(tmp_path / "out")
    assert all((np.bincount(labels) == 20).all() for labels in data.labels.values())
    np.testing.assert_allclose(manifest["mean"], [0.5071, 0.4865, 0.4409], atol=0.01)
    np.testing.assert_allclose(manifest["std"], [0.2673, 0.2564, 0.2762], atol=0.01)
