"""A study of one's own: one file that a configuration names; its section is typed like any other."""

from __future__ import annotations

from pathlib import Path

import pytest

from lowrank.analysis.contrasts import contrasts
from lowrank.analysis.shown import shown
from lowrank.errors import LowrankError
from lowrank.experiment import config
from lowrank.experiment.expand import expand

ROOT = Path(__file__).parents[2]
FILE = '''
from pydantic import Field
from lowrank.experiment.sections import Positive, Strict
from lowrank.experiment.study import STUDIES, Figure, Study
from lowrank.experiment.track import Arm

class LengthsStudy(Strict):
    """Dense and low rank at several lengths."""
    lengths: tuple[Positive, ...] = Field(min_length=1, description="Shares of the steps.")

def arms(section, track):
    for length in section.lengths:
        yield Arm(length=length)
        yield Arm(factors=track.factors, length=length)

def contrasts(section, track):
    for length in section.lengths:
        yield Arm(factors=track.factors, length=length), Arm(length=length)

figure = Figure("lengths", ("runs", "contrasts"))
STUDIES.add("lengths", Study("Length of training", 100, LengthsStudy, arms, contrasts, figures=(figure,)))
'''


@pytest.fixture
def values(tmp_path, forget_extensions):
    """The smoke configuration with a study of one's own, in a new process."""
    file = tmp_path / "lengths.py"
    file.write_text(FILE, encoding="utf-8")
    found = config.read_yaml(ROOT / "config/smoke.yaml")
    found["extensions"] = {"lengths": str(file)}
    found["tracks"]["language"]["studies"]["lengths"] = {"lengths": [1, 2]}
    return found


def test_its_arms_contrasts_and_figure_are_there_beside_the_projects_own(values):
    settings = config.parse(values)
    grid = expand(settings)
    assert grid.cells["language/dense"].studies[-1] == "lengths"
    assert grid.cells["language/dense-long2"].facts()["varied"] == "init,length"
    assert contrasts(settings)["language", "lengths"][1] == (
        "language/spectral-r0.5-long2",
        "language/dense-long2",
    )
    assert list(settings.tracks["language"].figures())[-1] == "lengths"
    assert "lengths" not in settings.tracks["small-images"].figures()
    assert "language/dense-long2" in shown(settings, grid)["language", "lengths"]


def test_a_configuration_that_was_written_is_read_again(values):
    once = config.parse(values)
    again = config.parse(once.model_dump(mode="json"))
    assert again.model_dump() == once.model_dump()
    assert expand(again) == expand(once)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"lengths": [0]}, r"studies.lengths.lengths.0: 0 must be above 0"),
        ({"length": [1]}, "did you mean 'lengths'"),
        ({}, "lengths is missing"),
    ],
)
def test_what_is_wrong_in_its_section_is_said_as_of_any_other(values, section, message):
    values["tracks"]["language"]["studies"]["lengths"] = section
    with pytest.raises(LowrankError, match=message):
        config.parse(values)


def test_a_file_that_registers_no_such_study_is_refused(values, tmp_path):
    (tmp_path / "lengths.py").write_text(
        FILE.replace('"lengths", Study', '"other", Study'), encoding="utf-8"
    )
    with pytest.raises(LowrankError, match="registers the study 'other', and no 'lengths'"):
        config.parse(values)


def test_a_study_that_no_extension_names_is_an_unknown_key(values):
    del values["extensions"]
    with pytest.raises(LowrankError, match="Unknown key 'lengths'"):
        config.parse(values)


def test_the_name_of_a_built_in_study_is_taken(values):
    values["extensions"] = {"decay": values["extensions"].pop("lengths")}
    del values["tracks"]["language"]["studies"]["lengths"]
    with pytest.raises(LowrankError, match="decay is built in"):
        config.parse(values)
