"""A tiny image track whose every artefact is made once, and copied for each test that spoils it."""

from __future__ import annotations

import pytest
from faulty import Track


@pytest.fixture(scope="session")
def whole(tmp_path_factory) -> Track:
    """A track with everything that its jobs write, made without interruption."""
    track = Track(tmp_path_factory.mktemp("whole") / "results/tiny")
    track.begin()
    for job in track.jobs():
        assert track.run(job) == (0, "")
    return track
