"""A user's own text and images through Snakemake: what changes is prepared again."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import yaml
from PIL import Image
from sklearn.datasets import load_digits
from test_pipeline import copy_project, planned, snakemake

pytestmark = pytest.mark.pipeline

TARGETS = [f"results/mine/data/{track}/manifest.json" for track in ("language", "small-images")]


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A project whose text and images are files of its own, prepared."""
    folder = copy_project(tmp_path_factory.mktemp("own") / "project")
    config = yaml.safe_load((folder / "config/smoke.yaml").read_text(encoding="utf-8"))
    del config["tracks"]["large-images"]
    tracks = config["tracks"]
    tracks["language"]["data"] = {
        "kind": "text",
        "source": "local",
        "train": "texts/*.txt",
        "vocabulary": 300,
    }
    tracks["small-images"]["data"] = {"kind": "images", "source": "local", "path": "pictures"}
    (folder / "config/mine.yaml").write_text(
        yaml.safe_dump(config | {"scale": "mine"}), encoding="utf-8"
    )
    (folder / "texts").mkdir()
    for name in "ab":
        lines = "".join(f"{name} says {n} and {n * n}\n" for n in range(200))
        (folder / "texts" / f"{name}.txt").write_text(lines, encoding="utf-8")
    digits = load_digits()
    for number in range(60):
        path = folder / "pictures/train" / str(digits.target[number]) / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((digits.images[number] * 15).astype("uint8")).save(path)
    snakemake(folder, *TARGETS, scale="mine")
    return folder


def to_prepare(project: Path) -> int:
    return planned(snakemake(project, *TARGETS, "-n", scale="mine")).get("prepare_data", 0)


def test_only_what_changed_is_prepared_again(project):
    assert to_prepare(project) == 0
    for path in [*project.glob("texts/*"), *project.glob("pictures/*/*/*")]:
        path.touch()
    assert to_prepare(project) == 0

    text = project / "texts/a.txt"
    status = text.stat()
    text.write_bytes(text.read_bytes().replace(b"a says 1 ", b"a said 1 "))
    os.utime(text, ns=(status.st_atime_ns, status.st_mtime_ns))
    before = sorted(path.name for path in project.glob("results/mine/data/language/*"))
    assert to_prepare(project) == 1
    assert sorted(path.name for path in project.glob("results/mine/data/language/*")) == before

    (project / "pictures/train/3").rename(project / "pictures/train/three")
    assert to_prepare(project) == 2
    snakemake(project, *TARGETS, scale="mine")
    assert "three" in (project / TARGETS[1]).read_text(encoding="utf-8")
    assert to_prepare(project) == 0

    shutil.copy(text, project / "texts/c.txt")
    (project / "pictures/train/three").rename(project / "pictures/train/3")
    assert to_prepare(project) == 2


def test_a_file_that_is_gone_is_named_in_one_sentence(project):
    shutil.rmtree(project / "texts")
    for _ in range(2):
        output = snakemake(project, *TARGETS, "--forceall", scale="mine", status=2)
        assert "tracks.language.data: No file matches" in output and "Traceback" not in output
        assert "Preparing" not in output, "said before the first job"
    snakemake(project, TARGETS[1], "--forceall", scale="mine")
