"""Methods of the user's own through every job: found wherever they are named, said when they fail."""

from __future__ import annotations

import copy
import re

import pytest
from click.testing import CliRunner
from faulty import DENSE, NAME, ROOT, VALUES, Track

from lowrank.cli import main
from lowrank.experiment.expand import expand
from lowrank.parquet import read_table

IDEA = """
import torch
from lowrank.factor.decay import decay
from lowrank.factor.init import initialisation
from lowrank.factor.truncate import plain, truncation


@initialisation("{name}_start")
def start(weight, rank, generator, scale=1.0):
    U, V = weight[..., :rank].clone(), torch.eye(weight.shape[-1])[:, :rank]
    return {start}


@decay("{name}_shrink")
def shrink(U, V):
    U, V = U.sign(), V.sign()
    return {shrink}


@truncation("{name}_cut")
def cut(weight, rank, statistic=None):
    U, V = plain(weight, rank)
    U, V = 0.5 * U, 2 * V
    return {cut}
"""
KINDS = ("start", "shrink", "cut")


def with_idea(root, name: str, kinds=KINDS, **faults: str) -> Track:
    """A track whose initialisation, decay and truncation are the user's own, in one file."""
    faults = {kind: faults.get(kind, "U, V") for kind in KINDS}
    idea = root / "idea.py"
    root.mkdir(exist_ok=True)
    idea.write_text(IDEA.format(name=name, **faults), encoding="utf-8")
    values = copy.deepcopy(VALUES)
    values["extensions"] = {f"{name}_{kind}": str(idea) for kind in kinds}
    track = values["tracks"][NAME]
    track["training"] |= {"learning_rate": 0.05, "checkpoint_every": 1000}
    track["studies"]["speed"] = {"widths": [1], "ranks": [0.5]}
    if "start" in kinds:
        track["factors"] |= {"init": f"{name}_start"}
        track["studies"]["pretraining"]["inits"] = [f"{name}_start"]
    if "shrink" in kinds:
        track["factors"] |= {"decay": {"kind": f"{name}_shrink"}}
    if "cut" in kinds:
        track["studies"]["posthoc"] |= {"methods": [f"{name}_cut", "plain"]}
        track["studies"]["posthoc"] |= {"fine_tune_steps": [0, 2]}
    made = Track(root, values)
    made.begin()
    return made


@pytest.fixture(autouse=True)
def as_in_a_new_process(monkeypatch, forget_extensions):
    """Each command of a test meets registries in which nothing of the user's is, as a process does."""
    run = Track.run
    monkeypatch.setattr(Track, "run", lambda track, job: (forget_extensions(), run(track, job))[1])


def test_every_job_finds_the_methods_of_the_users_own(tmp_path):
    track = with_idea(tmp_path, "every")
    low = "every_start-r0.5"
    arms = [DENSE, low, f"{low}-pre0.5"]
    root = tmp_path
    cells = " ".join(f"--cell {root}/cells/{NAME}/{arm}" for arm in arms)
    commands = f"""
        plan --config {root}/config.json
        tables --config {root}/config.json {cells} --output {root}/tables \
          --evaluation {root}/evaluations/{NAME}.parquet --other posthoc={root}/posthoc/{NAME}.parquet
        claims --config {root}/config.json --tables {root}/tables \
          --ledger {ROOT}/config/claims.yaml --output {root}/claims.parquet
    """.replace("\\\n", "")
    jobs = [track.prepare(), *(track.train(arm) for arm in arms), track.evaluate()]
    jobs += map(track.measure, ("interpolation", "posthoc", "speed"))
    jobs += [line.split() for line in commands.splitlines() if line.strip()]
    for job in jobs:
        assert track.run(job) == (0, ""), job[0]
    runs = read_table(tmp_path / "tables/runs.parquet")
    assert set(runs["init"]) == {"dense", "every_start"}
    assert set(runs["decay"].dropna()) == {"every_shrink"} and not runs["diverged"].any()
    cut = read_table(tmp_path / "tables/posthoc.parquet").set_index(["method", "fine_tune_steps"])
    assert cut["test_loss"].notna().all() and len(cut) == 4
    own, plain = cut.loc[("every_cut", 0), "test_loss"], cut.loc[("plain", 0), "test_loss"]
    assert own == pytest.approx(plain, rel=1e-4)  # balanced otherwise, the same product


def test_the_posthoc_job_is_another_when_a_file_that_it_uses_changes(tmp_path):
    track = with_idea(tmp_path, "identity")
    before = track.grid
    idea = tmp_path / "idea.py"
    idea.write_text(idea.read_text(encoding="utf-8") + "\n# more\n", encoding="utf-8")
    after = expand(track.config)
    assert before.jobs["posthoc"][NAME] != after.jobs["posthoc"][NAME]
    assert set(after.jobs["posthoc"][NAME].extensions) == {"identity_cut", "identity_shrink"}
    assert before.cells[f"{NAME}/{DENSE}"] == after.cells[f"{NAME}/{DENSE}"]


FAULTS = {
    "raises": ("U, torch.zeros(3) @ torch.zeros(4)", r"idea\.py:{line}: RuntimeError: "),
    "three": ("U, V, 1", "returned a tuple of 3 where two tensors"),
    "none": ("None", "returned a NoneType where two tensors"),
    "text": ("'a', 'b'", "returned a str for U where a tensor"),
    "shape": ("U, V.mT", r"returned shape \(.*\) for V where"),
    "whole": ("U, V.int()", r"returned torch.int32 for V where floating-point"),
    "nan": ("U, V * float('nan')", "returned NaN or infinity for V"),
}
LINES = {"start": 11, "shrink": 17, "cut": 24}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """The track's prepared data, and its dense cell trained."""
    track = Track(tmp_path_factory.mktemp("prepared"))
    plain = with_idea(track.root, "prepared", kinds=())
    for job in (plain.prepare(), plain.train(DENSE)):
        assert plain.run(job) == (0, "")
    return plain.root


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_method_that_fails_is_said_with_name_file_and_line(fault, kind, prepared, tmp_path):
    change, words = FAULTS[fault]
    name = f"{fault}_{kind}"
    track = with_idea(tmp_path, fault, (kind,), **{kind: change})
    for folder in ("data", "runs"):
        (tmp_path / folder).symlink_to(prepared / folder)
    low = f"{fault}_start-r0.5" if kind == "start" else "spectral-r0.5"
    job = track.measure("posthoc") if kind == "cut" else track.train(low)
    status, sentence = track.run(job)
    assert status == 2 and "\n" not in sentence
    title = {"start": "initialisation", "shrink": "decay", "cut": "truncation"}[kind]
    assert f"The {title} '{name}' ({tmp_path}/idea.py)" in sentence
    assert re.search(words.format(line=LINES[kind]), sentence), sentence


def test_a_run_that_diverges_is_said_and_counted_at_the_end(prepared, tmp_path):
    """Here by a decay that is finite when it is tried, and large."""
    track = with_idea(tmp_path, "large", ("shrink",), shrink="1e30 * U, 1e30 * V")
    (tmp_path / "data").symlink_to(prepared / "data")
    (tmp_path / "runs").symlink_to(prepared / "runs")
    for arm in (DENSE, "spectral-r0.5"):
        assert track.run(track.train(arm)) == (0, "")
    result = CliRunner().invoke(main, track.train("spectral-r0.5"))
    assert f"{NAME}/spectral-r0.5 seed 0 diverged at step" in result.output
    assert "diverged" not in CliRunner().invoke(main, track.train(DENSE)).output
    command = ["tables", "--config", f"{tmp_path}/config.json", "--output", f"{tmp_path}/t"]
    for arm in (DENSE, "spectral-r0.5"):
        command += ["--cell", f"{tmp_path}/cells/{NAME}/{arm}"]
    output = CliRunner().invoke(main, command).output
    assert f"1 of 2 runs diverged, cell (seeds): {NAME}/spectral-r0.5 (0)." in output
