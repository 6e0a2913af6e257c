"""The prepared data of a run."""

from __future__ import annotations

import pytest


@pytest.fixture
def folder_of(text_folder, digits_folder):
    """A function from a run to its prepared data."""
    return lambda spec: text_folder if spec.track == "language" else digits_folder
