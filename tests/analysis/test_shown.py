"""Which cells and names a figure depends on. That it shows no others: tests/plot/test_figures.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from lowrank.analysis.shown import names_beside, shown
from lowrank.experiment import config as settings
from lowrank.experiment.expand import expand

ROOT = Path(__file__).parents[2]


def beside(extensions=None, **studies):
    values = settings.read_yaml(ROOT / "config/smoke.yaml")
    values["extensions"] = extensions or {}
    for name, section in studies.items():
        values["tracks"]["language"]["studies"][name] = section
    config = settings.parse(values)
    return names_beside(config, expand(config, ROOT))


def test_a_study_shows_its_own_cells_what_they_are_compared_with_and_dense():
    config = settings.read_config(ROOT / "config/smoke.yaml")
    cells = shown(config, expand(config, ROOT))
    assert set(cells["small-images", "decay"]) >= {
        "small-images/dense",
        "small-images/spectral-r0.3",
        "small-images/spectral-r0.3-frobenius-halfrate",
    }
    assert "small-images/spectral-r0.3-frobenius" not in cells["small-images", "initialisation"]


def test_own_methods_share_their_looks_with_other_own_ones_only(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from lowrank.factor.init import initialisation\n\n\n"
        '@initialisation("mine_for_looks")\n'
        "def mine(weight, rank, generator, scale=1.0):\n"
        "    return weight[:, :rank], weight[:rank].T\n",
        encoding="utf-8",
    )
    own = "mine_for_looks"
    study = {"ranks": [0.5], "inits": ["spectral", own]}
    found = beside(extensions={own: str(file)}, initialisation=study)
    assert found["language", "initialisation"] == [own]
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
