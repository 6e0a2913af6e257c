"""Which cells and names a figure depends on. That it shows no others: tests/plot/test_figures.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from lowrank.study import config as settings
from lowrank.study.grid import expand
from lowrank.study.shown import names_beside, shown

ROOT = Path(__file__).parents[2]


def beside(**studies):
    values = settings.read_yaml(ROOT / "config/smoke.yaml")
    values["extensions"] = {"mine": "config/smoke.yaml"}
    for name, section in studies.items():
        values["tracks"]["language"]["studies"][name] = section
    config = settings.parse(values)
    return names_beside(config, expand(config, ROOT))


def test_a_study_shows_its_own_cells_what_they_are_compared_with_and_dense():
    config = settings.load(ROOT / "config/smoke.yaml")
    cells = shown(config, expand(config, ROOT))
    assert set(cells["small-images", "decay"]) >= {
        "small-images/dense",
        "small-images/spectral-r0.3",
        "small-images/spectral-r0.3-frobenius-halfrate",
    }
    assert "small-images/spectral-r0.3-frobenius" not in cells["small-images", "initialisation"]


def test_own_methods_share_their_looks_with_other_own_ones_only():
    found = beside(initialisation={"ranks": [0.5], "inits": ["spectral", "mine"]})
    assert found["language", "initialisation"] == ["mine"]
    assert not found.get(("language", "pretraining"))
    assert ("language", "initialisation") not in beside()


@pytest.mark.parametrize("study", ["scaling", "interpolation"])
def test_switches_share_their_looks_within_a_track(study):
    found = beside(scaling={"widths": [16, 32], "fraction": 0.5})
    assert found["language", study] == [
        "language/spectral-r0.5-pre0.25",
        "language/spectral-r0.5-pre0.5",
        "language/spectral-r0.5-pre0.5-w16",
    ]
    assert not found["small-images", study]
