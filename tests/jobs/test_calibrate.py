"""The step by which costs are said: the least of several, on one thread, and what a publication makes of it."""

from __future__ import annotations

import pandas as pd
import pytest
import torch
from click.testing import CliRunner

from lowrank.analysis import publish
from lowrank.cli import main
from lowrank.files import read_json
from lowrank.jobs import calibrate


def test_the_least_of_several_steps_counts_and_threads_are_as_before(monkeypatch):
    now, steps, threads = [0.0], iter([3.0, 0.5, 2.0]), []

    def step():
        threads.append(torch.get_num_threads())
        now[0] += next(steps)

    monkeypatch.setattr(calibrate, "training_step", lambda *_: (step, 0, 0))
    monkeypatch.setattr(calibrate.time, "perf_counter", lambda: now[0])
    before = torch.get_num_threads()
    assert calibrate.calibration_step(3) == 0.5
    assert threads == [1, 1, 1] and torch.get_num_threads() == before


def test_the_command_says_milliseconds_the_processor_and_the_step():
    result = CliRunner().invoke(main, ["bench", "--calibrate"])
    assert result.exit_code == 0, result.output
    milliseconds, rest = result.output.split(" ms on ")
    assert 0 < float(milliseconds) < 60_000
    assert rest.strip().endswith(f": {calibrate.WORDS}.")


@pytest.mark.parametrize(
    ("known", "steps"), [({"One": 0.5, "Other": 2.0}, 9), ({"One": 0.5}, None)]
)
def test_a_manifest_says_seconds_and_multiples_of_the_step_by_processor(known, steps, tmp_path):
    """4 seconds at half a second a step, and 2 at two."""
    runs = pd.DataFrame({"processor": ["One", "One", "Other"], "train_seconds": [3.0, 1.0, 2.0]})
    ledger = tmp_path / "claims.yaml"
    ledger.write_text("claims", encoding="utf-8")
    publish._write(tmp_path / "out", {"runs": runs}, {}, ledger, {**known, "Third": 1.0})
    manifest = read_json(tmp_path / "out/manifest.json")
    assert manifest["train_seconds"] == {"One": 4.0, "Other": 2.0}
    assert manifest["calibration_seconds"] == known
    assert manifest["calibration_steps"] == steps
