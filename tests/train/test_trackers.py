"""Trackers are told every row of a history, and neither their words nor their failures change a run."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest
from click.testing import CliRunner
from runs import RUNS, write_config
from test_run import assert_equal_runs

from lowrank.cli import main
from lowrank.train import trackers
from lowrank.train.run import ensure_run

SPEC = RUNS["spectral"]


class Told:
    """A tracker that remembers, and fails where it is asked to."""

    rows: list[dict]
    failing = ""

    def __init__(self, spec, digest, folder):
        Told.opened.append((digest, folder))
        self.at("open")

    def at(self, moment):
        if self.failing == moment:
            raise RuntimeError(f"no network to {moment}")

    def log(self, row):
        self.at("log")
        Told.rows.append(dict(row))

    def close(self):
        self.at("close")
        Told.closed += 1


@pytest.fixture
def told(monkeypatch):
    monkeypatch.setattr(Told, "rows", [], raising=False)
    monkeypatch.setattr(Told, "opened", [], raising=False)
    monkeypatch.setattr(Told, "closed", 0, raising=False)
    monkeypatch.setitem(trackers.TRACKERS, "wandb", Told)
    return Told


def trained(text_folder, folder, names=("wandb",), **options):
    with trackers.session(names, folder):
        return ensure_run(SPEC, text_folder, folder / "runs", "cpu", **options)


def test_every_row_of_the_history_is_told_and_the_run_is_the_same(told, text_folder, tmp_path):
    run = trained(text_folder, tmp_path / "followed")
    history = run.table("history")
    assert [row["step"] for row in told.rows] == history["step"].tolist()
    assert [row["train_loss"] for row in told.rows] == history["train_loss"].tolist()
    assert told.opened == [(run.folder.name, tmp_path / "followed/wandb")] and told.closed == 1
    assert_equal_runs(run, trained(text_folder, tmp_path / "alone", ()))
    assert len(told.opened) == 1


def test_a_finished_run_is_told_no_more_and_a_resumed_one_goes_on(told, text_folder, tmp_path):
    trained(text_folder, tmp_path, until=4)
    before = len(told.rows)
    run = trained(text_folder, tmp_path)
    assert 0 < before < len(told.rows)
    assert [row["step"] for row in told.rows] == run.table("history")["step"].tolist()
    trained(text_folder, tmp_path)
    assert len(told.opened) == 2


@pytest.mark.parametrize("moment", ["open", "log", "close"])
def test_a_failing_tracker_costs_a_line_and_nothing_else(
    moment, told, text_folder, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(told, "failing", moment)
    run = trained(text_folder, tmp_path / "followed")
    output = capsys.readouterr().out
    assert output.count(f"The tracker wandb is left out: no network to {moment}.") == 1
    assert_equal_runs(run, trained(text_folder, tmp_path / "alone", ()))


def test_one_that_is_not_installed_is_left_out(text_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "wandb", None)
    trained(text_folder, tmp_path)
    assert "The tracker wandb is left out: import of wandb halted" in capsys.readouterr().out


def test_nothing_of_them_is_imported_when_off():
    code = (
        "import sys, lowrank.train.run, lowrank.job_commands;"
        "assert not {'wandb', 'tensorboard'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_names_tell_runs_apart():
    assert trackers.name_of(SPEC, "1234567") == "factored-spectral-r0.5-rate0.01-seed0-123456"
    other = SPEC.model_copy(update={"factors": None, "seed": 3})
    assert trackers.name_of(other, "1234567") == "dense-rate0.01-seed3-123456"


def test_tensorboard_reads_the_history(text_folder, tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = trained(text_folder, tmp_path, ("tensorboard",))
    [folder] = (tmp_path / "tensorboard/language").iterdir()
    assert folder.name == trackers.name_of(SPEC, run.folder.name)
    events = EventAccumulator(str(folder)).Reload()
    history = run.table("history")
    found = [(event.step, event.value) for event in events.Scalars("train_loss")]
    assert found == [
        (step, pytest.approx(loss, rel=1e-6))
        for step, loss in zip(history["step"], history["train_loss"], strict=True)
    ]
    validated = history.dropna(subset="validation_loss")["step"].tolist()
    assert [event.step for event in events.Scalars("validation_loss")] == validated


def test_a_configuration_says_who_is_told(told, text_folder, tmp_path):
    file = tmp_path / "one.yaml"
    cell = write_config(SPEC, file)
    file.write_text(file.read_text(encoding="utf-8") + "trackers: [wandb]\n", encoding="utf-8")
    arguments = [
        "train",
        "--config",
        file,
        "--cell",
        cell,
        "--data",
        text_folder,
        "--device",
        "cpu",
    ]
    places = {"--rates": "rates", "--cache": "results/runs", "--output": "cell"}
    arguments += [word for key, place in places.items() for word in (key, tmp_path / place)]
    result = CliRunner().invoke(main, [str(word) for word in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert [folder for _, folder in told.opened] == [tmp_path / "results/wandb"]


def logged(data: bytes) -> Iterator[bytes]:
    """The records of a file in LevelDB's log format: blocks of 32 KiB, in which each part of a record has a
    checksum (4 bytes), a length (2) and its kind (1: whole, 2: first, 3: middle, 4: last) before it."""
    at, whole = 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        whole, at = whole + data[at + 7 : at + 7 + length], at + 7 + length
        if kind in (1, 4):
            yield whole
            whole = b""


def test_weights_and_biases_keeps_the_history_offline(text_folder, tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    from wandb.proto.wandb_internal_pb2 import Record

    monkeypatch.setenv("WANDB_MODE", "offline")
    run = trained(text_folder, tmp_path, ("wandb",))
    [file] = (tmp_path / "wandb").rglob(f"run-{run.folder.name}.wandb")
    steps = []
    for data in logged(file.read_bytes()):
        record = Record()
        record.ParseFromString(data)
        if record.HasField("history"):
            items = {i.key or ".".join(i.nested_key): i.value_json for i in record.history.item}
            steps.append((int(items["_step"]), float(items["train_loss"])))
    history = run.table("history")
    assert steps == [*zip(history["step"], history["train_loss"], strict=True)]
