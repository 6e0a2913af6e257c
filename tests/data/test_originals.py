"""What counts as a change of the user's own files, and what does not."""

from __future__ import annotations

import gzip
import os
import shutil
from pathlib import Path

import pytest
from test_images import image_folder
from tokenizers import Tokenizer, models, pre_tokenizers

from lowrank.data import originals
from lowrank.data.images import load_images, prepare_images
from lowrank.data.images_spec import ImageSpec
from lowrank.data.spec import TextSpec
from lowrank.data.text import load_text, prepare_text

TEXT = TextSpec(
    source="local",
    train="texts/*.txt",
    test="held.txt.gz",
    tokenizer="words",
    validation_fraction=0.2,
)
IMAGES = ImageSpec(source="local", path="pictures", validation_fraction=0.2)


@pytest.fixture
def text(tmp_path, monkeypatch):
    """Prepared text of three files, one of them a link, a compressed one and a tokenizer."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "texts").mkdir()
    (tmp_path / "elsewhere").mkdir()
    for number, name in enumerate(("texts/a.txt", "texts/b.txt", "elsewhere/c.txt", "held.txt")):
        lines = "".join(f"line {number} {line}\n" for line in range(20))
        (tmp_path / name).write_text(lines, encoding="utf-8")
    Path("held.txt.gz").write_bytes(gzip.compress(Path("held.txt").read_bytes()))
    (tmp_path / "texts" / "c.txt").symlink_to(tmp_path / "elsewhere" / "c.txt")
    words = Tokenizer(models.WordLevel({"[UNK]": 0, "</s>": 1, "line": 2}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    (tmp_path / "words").mkdir()
    words.save("words/tokenizer.json")
    prepare_text(TEXT, "out")
    return originals.state(TEXT, "out")


@pytest.fixture
def images(tmp_path, monkeypatch):
    """Prepared images of two classes, one of them a linked folder."""
    monkeypatch.chdir(tmp_path)
    image_folder(tmp_path / "pictures", "train", [0, 1] * 6)
    (tmp_path / "pictures/train/class1").rename("elsewhere")
    (tmp_path / "pictures/train/class1").symlink_to(tmp_path / "elsewhere")
    image_folder(tmp_path / "pictures", "test", [0, 1])
    prepare_images(IMAGES, "out")
    return originals.state(IMAGES, "out")


def overwrite(name: str) -> None:
    """Change one byte and put the date back."""
    status = os.stat(name)
    content = bytearray(Path(name).read_bytes())
    content[-2] ^= 1
    Path(name).write_bytes(content)
    os.utime(name, ns=(status.st_atime_ns, status.st_mtime_ns))


def append(name: str) -> None:
    with open(name, "ab") as file:
        file.write(b"more\n")


CHANGES = {
    "edited": lambda: append("texts/a.txt"),
    "edited in size and date": lambda: overwrite("texts/a.txt"),
    "edited behind a link": lambda: overwrite("elsewhere/c.txt"),
    "edited when compressed": lambda: overwrite("held.txt.gz"),
    "link to another file": lambda: (
        os.remove("texts/c.txt"),
        os.symlink("../texts/a.txt", "texts/c.txt"),
    ),
    "added": lambda: shutil.copy("texts/a.txt", "texts/d.txt"),
    "deleted": lambda: os.remove("texts/b.txt"),
    "renamed": lambda: os.rename("texts/b.txt", "texts/e.txt"),
    "swapped": lambda: (
        os.rename("texts/a.txt", "x"),
        os.rename("texts/b.txt", "texts/a.txt"),
        os.rename("x", "texts/b.txt"),
    ),
    "test deleted": lambda: os.remove("held.txt.gz"),
    "tokenizer": lambda: append("words/tokenizer.json"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_text_is_another_state(text, change):
    assert text not in ("", originals.UNREADABLE)
    CHANGES[change]()
    assert originals.state(TEXT, "out") != text


IMAGE_CHANGES = {
    "edited in size and date": lambda: overwrite("pictures/test/class0/000.png"),
    "edited behind a link": lambda: overwrite("elsewhere/001.png"),
    "added": lambda: shutil.copy("elsewhere/001.png", "pictures/train/class0/new.PNG"),
    "deleted": lambda: os.remove("elsewhere/001.png"),
    "class renamed": lambda: os.rename("pictures/train/class0", "pictures/train/class9"),
    "moved to another class": lambda: os.rename(
        "elsewhere/001.png", "pictures/train/class0/001.png"
    ),
    "split deleted": lambda: shutil.rmtree("pictures/test"),
}


@pytest.mark.parametrize("change", IMAGE_CHANGES)
def test_changed_images_are_another_state(images, change):
    assert images not in ("", originals.UNREADABLE)
    IMAGE_CHANGES[change]()
    assert originals.state(IMAGES, "out") != images


def rewrite(folder: str) -> None:
    for path in Path(folder).rglob("*"):
        if path.is_file() and "out" not in path.parts:
            content = path.read_bytes()
            path.unlink()
            path.write_bytes(content)


@pytest.mark.parametrize("kind", ["text", "images"])
def test_touched_and_rewritten_files_are_the_same_state(kind, request):
    state = request.getfixturevalue(kind)
    spec, load = {"text": (TEXT, load_text), "images": (IMAGES, load_images)}[kind]
    rewrite(".")
    record = Path("out", originals.RECORD).read_bytes()
    assert originals.state(spec, "out") == state
    assert Path("out", originals.RECORD).read_bytes() == record
    assert originals.state(spec, "out", remember=True) == state
    assert Path("out", originals.RECORD).read_bytes() != record
    load("out")


def test_unchanged_files_are_not_read(images, monkeypatch):
    def refuse(path):
        raise AssertionError(path)

    monkeypatch.setattr(originals, "known_sha256", refuse)
    assert originals.state(IMAGES, "out") == images


def test_what_is_prepared_again_has_the_state_it_is_told(text):
    append("texts/a.txt")
    changed = originals.state(TEXT, "out")
    prepare_text(TEXT, "out", state=changed)
    assert originals.state(TEXT, "out") == changed
    append("texts/a.txt")
    assert originals.state(TEXT, "out") not in (text, changed)


def test_a_file_that_changes_while_it_is_read_counts_as_changed(text, monkeypatch):
    from lowrank.data import sources

    real = sources.load_splits

    def load_and_change(*arguments, **keys):
        loaded = real(*arguments, **keys)
        append("texts/a.txt")
        return loaded

    monkeypatch.setattr(sources, "load_splits", load_and_change)
    prepare_text(TEXT, "again", state="told")
    assert originals.state(TEXT, "again") != "told"


@pytest.mark.parametrize("content", ["", "[]", '{"state": "x", "files": {"train: a": 1}}', "{"])
def test_without_a_readable_record_a_changed_file_is_still_seen(text, content):
    Path("out", originals.RECORD).write_text(content, encoding="utf-8")
    assert originals.state(TEXT, "out") == text
    append("texts/a.txt")
    assert originals.state(TEXT, "out") not in (text, originals.UNREADABLE)


@pytest.mark.parametrize("kind", ["text", "images"])
def test_prepared_data_are_current_until_settings_files_or_version_change(
    kind, request, monkeypatch
):
    request.getfixturevalue(kind)
    spec = {"text": TEXT, "images": IMAGES}[kind]
    assert originals.current(spec, "out")
    assert not originals.current(spec, "nowhere")
    assert not originals.current(spec.model_copy(update={"validation_fraction": 0.3}), "out")
    with monkeypatch.context() as patched:
        patched.setitem(originals.VERSIONS, kind, 10**6)
        assert not originals.current(spec, "out")
    files = Path({"text": "texts", "images": "pictures/train/class0"}[kind])
    next(path for path in files.iterdir() if path.is_file()).unlink()
    assert not originals.current(spec, "out")


def test_a_folder_without_a_readable_manifest_is_not_current(text):
    for content in ("", "[]", "{}"):
        Path("out/manifest.json").write_text(content, encoding="utf-8")
        assert not originals.current(TEXT, "out")


def test_embedded_data_depend_on_no_file(tmp_path):
    for spec in (TextSpec(), ImageSpec(), TextSpec(source="hub", name="a/b", tokenizer="gpt2")):
        assert originals.state(spec, tmp_path) == ""
