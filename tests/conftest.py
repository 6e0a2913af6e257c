"""Small real data, prepared once for the whole test session."""

from __future__ import annotations

import pytest
import torch

from lowrank.data.images_spec import ImageSpec
from lowrank.data.spec import TextSpec

torch.set_num_threads(1)


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
