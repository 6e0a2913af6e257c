"""A study of one's own: one file that a configuration names; its section is typed like any other."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from click.testing import CliRunner

from lowrank.analysis.contrasts import contrasts
from lowrank.analysis.shown import shown
from lowrank.cli import main
from lowrank.errors import LowrankError
from lowrank.experiment import config
from lowrank.experiment.expand import expand
from lowrank.experiment.experiment import Experiment
from lowrank.experiment.ground import Published
from lowrank.files import write_sealed
from lowrank.parquet import read_table
from lowrank.workflow.scale import Scale

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


# A job of its own

JOB = """
from pydantic import Field
from lowrank.experiment.sections import Count, Strict
from lowrank.experiment.study import STUDIES, Job, Study

class LengthsStudy(Strict):
    \"""How long the texts are.\"""
    parts: tuple[Count, ...] = Field(description="Parts of the text.")

def run(given):
    import pandas as pd
    return {"lengths": pd.DataFrame({"parts": given.told.parts, "device": given.device})}

job = Job("Counting", ("lengths",), run)
STUDIES.add("lengths", Study("Lengths", section=LengthsStudy, job=job))
"""


@pytest.fixture
def counting(values, tmp_path):
    """The same with a job that reads data alone."""
    (tmp_path / "lengths.py").write_text(JOB, encoding="utf-8")
    values["tracks"]["language"]["studies"]["lengths"] = {"parts": [2, 3]}
    return values


def measured(values, folder: Path, digest: str) -> tuple[int, str]:
    """Status and last line of its command on data of nothing but a manifest."""
    write_sealed(folder / "config.json", values.model_dump(mode="json"))
    write_sealed(folder / "data/language/manifest.json", {"digest": "data"})
    words = ["measure", "lengths", "--config", folder / "config.json", "--digest", digest]
    words += ["--track", "language", "--rates", folder, "--cache", folder, "--output", folder]
    words += ["--data", folder / "data/language", "--device", "cpu"]
    result = CliRunner().invoke(main, list(map(str, words)))
    return result.exit_code, (result.output.splitlines() or [""])[-1]


def test_its_job_is_known_to_the_command_the_workflow_and_published_tables(counting, tmp_path):
    settings = config.parse(counting)
    experiment, scale = Experiment(settings), Scale(settings, ROOT)
    assert measured(settings, tmp_path, experiment.of_study("lengths", "language")) == (0, "")
    table = read_table(tmp_path / "lengths/language.parquet")
    assert table["parts"].tolist() == [2, 3] and set(table["device"]) == {"cpu"}
    assert set(table["digest"]) == {experiment.made_from("lengths", "language", {}, "data")[None]}
    assert scale.contributors["lengths"] == ["language"]
    assert scale.table("lengths") in scale.gathered
    assert scale.measured_on("lengths", "language")["data"] == [scale.prepared("language")]
    runs = pd.DataFrame(columns=["track", "data_digest", "cell", "seed"])
    tables = {"runs": runs, "lengths": table.assign(track="language")}
    ground = Experiment(settings, Published(tables, {"language": "data"})).ground
    assert ground is not None and ground.has("lengths", "language")
    other = Experiment(settings, Published(tables, {"language": "other"})).ground
    assert other is not None and not other.has("lengths", "language")


def test_another_text_of_its_file_is_another_job(counting, tmp_path, forget_extensions):
    digests = Experiment(config.parse(counting)).digests()
    file = tmp_path / "lengths.py"
    file.write_text(f"{JOB}\n# more\n", encoding="utf-8")
    forget_extensions()
    after = Experiment(config.parse(counting)).digests()
    changed = {name for name in after if after[name] != digests.get(name)}
    assert changed == {"lengths language"}


@pytest.mark.parametrize(
    ("was", "becomes", "sentence"),
    [
        ('return {"lengths"', 'return {"length"', "returned the tables length, not lengths"),
        (
            "run)\n",
            "run, arms=lambda *_: [Arm()])\n",
            "lengths of the job of lengths has no column seed",
        ),
    ],
)
def test_a_job_that_returns_something_else_is_one_sentence(
    was, becomes, sentence, counting, tmp_path
):
    text = f"from lowrank.experiment.track import Arm\n{JOB.replace(was, becomes)}"
    (tmp_path / "lengths.py").write_text(text, encoding="utf-8")
    counting["tracks"]["language"]["training"]["learning_rate"] = 0.1
    settings = config.parse(counting)
    digest = Experiment(settings).of_study("lengths", "language")
    status, said = measured(settings, tmp_path, digest)
    assert status == 2 and sentence in said


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ("arms=lambda *_: []", "The job of the study lengths reads no model of tracks.language"),
        ("arms=lambda *_: [1], times=True", "that writes lengths has `arms` and `times`"),
    ],
)
def test_a_job_that_reads_no_model_or_times_what_it_reads_is_one_sentence(
    more, sentence, counting, tmp_path
):
    (tmp_path / "lengths.py").write_text(JOB.replace("run)\n", f"run, {more})\n"), encoding="utf-8")
    (tmp_path / "own.json").write_text(json.dumps(counting), encoding="utf-8")
    result = CliRunner().invoke(main, ["plan", "--config", str(tmp_path / "own.json")])
    assert result.exit_code == 2 and sentence in " ".join(result.output.split())
