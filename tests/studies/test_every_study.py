"""What every study must have, whichever is registered: its record is all that the rest knows of it."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from lowrank.errors import LowrankError
from lowrank.experiment import config
from lowrank.experiment.expand import expand
from lowrank.experiment.study import STUDIES, Job, Study, jobs, studies, writers
from lowrank.experiment.track import Arm, arm_name

ROOT = Path(__file__).parents[2]
FIGURES = {
    figure.name: (name, figure) for name, study in studies().items() for figure in study.figures
}


@pytest.fixture(scope="module")
def tracks():
    """The tracks of the default scale, which ask for every study."""
    return config.read_config(ROOT / "config/laptop.yaml").tracks


def test_each_file_enters_one_study_of_its_name_and_places_differ():
    files = {path.stem for path in (ROOT / "src/lowrank/studies").glob("[a-z]*.py")}
    assert set(STUDIES) == files
    places = [study.place for study in studies().values()]
    assert places == sorted(set(places))


def test_studies_are_read_without_torch_matplotlib_or_pandas():
    code = "import sys, lowrank.experiment.config, lowrank.experiment.expand\n"
    code += "sys.exit(bool({'torch', 'matplotlib', 'pandas'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_sections_of_a_configuration_are_those_of_the_studies_in_their_places():
    asked = [name for name, study in studies().items() if study.section]
    assert list(config.Studies.model_fields) == asked


@pytest.mark.parametrize("name", FIGURES)
def test_a_figure_has_its_notebook_its_drawing_function_and_studies_that_exist(name):
    _, figure = FIGURES[name]
    module, function = figure.drawn_by
    assert callable(getattr(importlib.import_module(f"lowrank.plot.{module}"), function))
    text = (ROOT / f"notebooks/{name}.ipynb").read_text(encoding="utf-8")
    assert f"{module}.{function}(read_results(tables, track))" in text
    assert set(figure.beside) <= set(STUDIES)


def test_no_two_studies_have_a_figure_of_one_name():
    assert len(FIGURES) == sum(len(study.figures) for study in studies().values())


def test_arms_that_have_other_names_have_other_facts(tracks):
    """Else tables could not tell them apart but by their names."""
    cells = expand(config.read_config(ROOT / "config/laptop.yaml"), ROOT).cells.values()
    for track in tracks:
        facts = [
            tuple((k, v) for k, v in cell.facts().items() if k not in ("cell", "arm", "studies"))
            for cell in cells
            if cell.track == track
        ]
        assert len(set(facts)) == len(facts)


@pytest.mark.parametrize("name", [name for name, study in studies().items() if study.section])
def test_what_a_study_compares_is_trained_by_some_study(name, tracks):
    for track in tracks.values():
        section = track.studies.asked().get(name)
        trained = {arm_name(arm, track) for _, arm in track.arms()}
        for pair in STUDIES[name].contrasts(section, track) if section else ():
            assert {arm_name(arm, track) for arm in pair} <= trained


def test_a_job_reads_the_dense_model_first(tracks):
    reading = {name: job for name, job in jobs().items() if job.arms}
    assert set(reading) >= {"interpolation", "posthoc"}
    for name, job in reading.items():
        for track in tracks.values():
            if section := track.studies.asked().get(name):
                assert next(iter(job.arms(section, track))) == Arm()
                assert job.spec(section, track, {})


def test_what_is_made_in_one_go_is_a_seed_of_models_a_processor_of_times_or_a_track():
    units = {name: job.unit for name, job in jobs().items()}
    assert units["interpolation"] == units["posthoc"] == ["track", "seed"]
    assert units["speed"] == ["track", "processor"] and units["baselines"] == ["track"]


@pytest.mark.parametrize(
    "table", ["barriers", "runs", "data", "logs", "notebooks", "paper", "slice"]
)
def test_no_two_jobs_write_one_table(table, monkeypatch):
    job = Job("Measuring", (table,), lambda given: {})
    monkeypatch.setitem(STUDIES, "mine", Study("Mine", job=job))
    other = "the study interpolation" if table == "barriers" else "the project itself"
    with pytest.raises(LowrankError, match=f"mine writes the table {table}, and so does {other}"):
        writers()


def test_a_job_reads_models_or_times_steps():
    with pytest.raises(LowrankError, match="that writes mine has `arms` and `times`"):
        Job("Measuring", ("mine",), lambda given: {}, arms=lambda *_: [Arm()], times=True)


def test_a_study_that_is_left_out_asks_for_nothing(tracks):
    track = tracks["language"]
    bare = track.model_copy(update={"studies": config.Studies()})
    assert bare.arms() == bare.timed() == []
    assert list(bare.figures()) == ["learning_rate"]
    given = track.training.model_copy(update={"learning_rate": 0.1})
    assert not bare.model_copy(update={"training": given}).figures()


@pytest.mark.parametrize("study", ["pretraining", "scaling", "interpolation"])
def test_one_step_cannot_be_parted_whichever_study_asks_for_it(study):
    values = config.read_yaml(ROOT / "config/laptop.yaml")
    track = values["tracks"]["language"]
    track["training"]["steps"] = 1
    track["studies"] = {study: track["studies"][study]}
    with pytest.raises(LowrankError, match="cannot be parted into dense and low-rank steps"):
        config.parse(values)
