"""Small real data, prepared once for the whole test session."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from invented import invent_images, invent_text

from lowrank.data.images_spec import ImageSpec
from lowrank.data.spec import TextSpec

torch.set_num_threads(1)

LONGEST = (
    "test_slurm",
    "test_pipeline",
    "test_timed",
    "test_contributing",
    "test_manual",
    "test_killed",
    "test_paper",
    "test_methods_pipeline",
    "test_parallel",
    "test_second_calls",
    "test_golden",
)
"""The files that take longest, in this order, begun first, so that neither process is left alone with one of them."""


def pytest_collection_modifyitems(items):
    """Begin with the longest."""
    order = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))


@pytest.fixture(scope="session")
def text_folder(tmp_path_factory):
    """A prepared text of 200,000 characters of documentation, 300 tokens."""
    from lowrank.data.text import prepare_text

    folder = tmp_path_factory.mktemp("text") / "data"
    prepare_text(TextSpec(vocabulary=300, max_characters=200_000), folder)
    return folder


@pytest.fixture(scope="session")
def digits_folder(tmp_path_factory):
    """scikit-learn's digits, prepared."""
    from lowrank.data.images import prepare_images

    folder = tmp_path_factory.mktemp("digits") / "data"
    prepare_images(ImageSpec(), folder)
    return folder


@pytest.fixture
def folder_of(text_folder, digits_folder):
    """A function from a run to its prepared data."""
    return lambda spec: text_folder if spec.track == "language" else digits_folder


@pytest.fixture(scope="session")
def invented_text(tmp_path_factory):
    """A prepared text of invented words, 300 tokens: the same with every version of Python."""
    from lowrank.data.text import prepare_text

    folder = tmp_path_factory.mktemp("invented-text")
    spec = TextSpec(
        source="local",
        train=str(invent_text(folder / "text.jsonl")),
        vocabulary=300,
        validation_fraction=0.2,
        test_fraction=0.2,
    )
    prepare_text(spec, folder / "data")
    return folder / "data"


@pytest.fixture(scope="session")
def invented_images(tmp_path_factory):
    """Prepared images of three invented classes, 10 x 10 in colour: 96 to train on, 24 and 40 held out."""
    from lowrank.data.images import prepare_images

    folder = tmp_path_factory.mktemp("invented-images")
    source = invent_images(folder / "source")
    spec = ImageSpec(
        source="local",
        path=str(source),
        train_split="train.parquet",
        test_split="test.parquet",
        validation_fraction=0.2,
    )
    prepare_images(spec, folder / "data")
    return folder / "data"


@pytest.fixture
def raise_version(monkeypatch):
    """A function that raises the version of a part of the code, or of a study's job."""
    from lowrank.experiment.study import STUDIES
    from lowrank.versions import VERSIONS

    def change(part: str) -> None:
        if part in VERSIONS:
            monkeypatch.setitem(VERSIONS, part, VERSIONS[part] + 1)
        else:
            study = STUDIES[part]
            job = replace(study.job, version=study.job.version + 1)
            monkeypatch.setitem(STUDIES, part, replace(study, job=job))

    return change


@pytest.fixture
def forget_extensions():
    """A function that empties the registries of what is not built in, as in a new process; it is
    called at the end of the test, too."""
    from lowrank.experiment import extensions
    from lowrank.experiment.study import STUDIES
    from lowrank.factor.decay import DECAYS
    from lowrank.factor.init import INITIALISATIONS
    from lowrank.factor.truncate import TRUNCATIONS
    from lowrank.methods import METHODS
    from lowrank.optimizers import OPTIMIZERS

    registries = (INITIALISATIONS, DECAYS, TRUNCATIONS, METHODS, OPTIMIZERS, STUDIES)
    kept = [(registry, dict(registry)) for registry in registries]

    def forget() -> None:
        extensions.LOADED.clear()
        for registry, entries in kept:
            registry.clear()
            registry.update(entries)

    yield forget
    forget()
