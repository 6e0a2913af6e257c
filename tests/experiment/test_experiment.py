"""A job's digest stands for all that it computes from, and for nothing else."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
from click.testing import CliRunner

from lowrank.cli import main
from lowrank.errors import LowrankError
from lowrank.experiment import config as settings
from lowrank.experiment.experiment import Experiment, read_experiment
from lowrank.experiment.study import jobs
from lowrank.files import write_sealed
from lowrank.versions import VERSIONS

ROOT = Path(__file__).parents[2]
SMOKE = settings.read_yaml(ROOT / "config/smoke.yaml")
LANGUAGE = ("tracks", "language")


def digests(values: dict) -> dict[str, str]:
    """The digest of every job of a configuration."""
    return Experiment(settings.parse(values)).digests()


def changed(*place_and_value) -> set[str]:
    """The jobs whose digests change with one value of the configuration, by rule and track."""
    *place, key, value = place_and_value
    values = section = copy.deepcopy(SMOKE)
    for name in place:
        section = section.setdefault(name, {})
    assert section.get(key) != value
    section[key] = value
    before, after = digests(SMOKE), digests(values)
    return {name for name in after if name in before and after[name] != before[name]}


def test_what_concerns_no_job_changes_no_digest():
    assert not changed("scale", "other")
    assert not changed("device", "cpu")
    assert not changed("devices", 2)


def test_a_tracks_training_concerns_all_of_that_track_but_its_data():
    jobs = changed(*LANGUAGE, "training", "weight_decay", 0.123)
    assert {name.split()[1].split("/")[0] for name in jobs} == {"language"}
    rules = {name.split()[0] for name in jobs}
    assert rules == {"train", "evaluate", "interpolation", "posthoc", "speed"}


def test_a_study_of_trained_models_concerns_its_own_job():
    assert changed(*LANGUAGE, "studies", "posthoc", "calibration_batches", 3) == {
        "posthoc language"
    }
    assert changed(*LANGUAGE, "studies", "interpolation", "batches", 3) == {
        "interpolation language"
    }
    assert changed(*LANGUAGE, "data", "vocabulary", 301) == {"prepare language"}


def test_cells_that_fork_elsewhere_concern_the_dense_one():
    """It keeps checkpoints at the steps of the forks."""
    jobs = changed(*LANGUAGE, "studies", "pretraining", "fractions", [0.75])
    assert "train language/dense" in jobs


@pytest.mark.parametrize("part", [*VERSIONS, *jobs()])
def test_a_raised_version_changes_the_digests_of_its_jobs(part, raise_version):
    before = digests(SMOKE)
    raise_version(part)
    after = digests(SMOKE)
    rules = {name.split()[0] for name in after if after[name] != before[name]}
    assert rules == {
        "text": {"prepare"},
        "images": {"prepare"},
        "training": {"train", "sweep"},
        "evaluation": {"evaluate"},
    }.get(part, {part})


def test_the_configuration_that_the_workflow_writes_has_the_same_digests(tmp_path):
    config = settings.parse(SMOKE)
    path = tmp_path / "config.json"
    write_sealed(path, config.model_dump(mode="json"))
    read, known = read_experiment(path), Experiment(config)
    assert read.config == config and read.grid == known.grid
    assert read.of_tables() == known.of_tables()


def test_a_job_that_is_not_the_one_that_was_sent_does_nothing(tmp_path):
    output = tmp_path / "data"
    config = ROOT / "config/smoke.yaml"
    arguments = ["prepare", "--config", config, "--track", "small-images", "--output", output]
    result = CliRunner().invoke(main, [*map(str, arguments), "--digest", "0" * 16])
    assert result.exit_code == 2 and "has changed since the workflow began" in result.output
    assert not output.exists()


@pytest.mark.parametrize(
    ("ask", "sentence"),
    [
        (lambda e: e.of_prepare("langage"), "did you mean 'language'"),
        (lambda e: e.of_train("language/dens"), "did you mean 'language/dense'"),
        (lambda e: e.of_sweep("language/dens"), "Unknown sweep"),
        (lambda e: e.of_study("posthoc", "large-images"), "has no posthoc"),
        (lambda e: e.of_study("posthog", "language"), "did you mean 'posthoc'"),
        (lambda e: e.of_study("decay", "language"), "Unknown study with a job of its own"),
    ],
)
def test_what_is_not_there_is_one_sentence(ask, sentence):
    with pytest.raises(LowrankError, match=sentence):
        ask(Experiment(settings.parse(SMOKE)))
