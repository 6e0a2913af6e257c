"""Jobs in forks of a process that has imported what they need are as good as programs of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from lowrank import serve, warm

sys.path.insert(0, str(Path(__file__).parents[1] / "bench"))

import pipeline

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only there jobs are forked")

OWNER = """
import json, os, sys
from lowrank import warm
warm.start()
print(json.dumps(os.environ["LOWRANK_WARM"]), flush=True)
sys.stdin.read()
"""
PROGRAM = [sys.executable, "-m", "lowrank"]
SLEEPS = """
import os, signal, time
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, lambda number, frame: os._exit(128 + number))
print(os.getpid(), flush=True)
time.sleep(600)
"""


@pytest.fixture(autouse=True)
def heard():
    """Signals that whoever started the tests ignores, as nohup does, reach the processes of these tests."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    ignored = [number for number in numbers if signal.getsignal(number) is signal.SIG_IGN]
    for number in ignored:
        signal.signal(number, signal.SIG_DFL)
    yield
    for number in ignored:
        signal.signal(number, signal.SIG_IGN)


@pytest.fixture
def costs(monkeypatch, tmp_path):
    """The file of jobs' costs, which the environment names."""
    monkeypatch.setenv(serve.COSTS, str(tmp_path / "costs"))
    return tmp_path / "costs"


@pytest.fixture
def owner(monkeypatch):
    """A process that has started one for jobs, which the environment names."""
    process = subprocess.Popen(
        [sys.executable, "-c", OWNER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    monkeypatch.setenv(warm.PLACE, json.loads(process.stdout.readline()))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    yield process
    process.communicate(timeout=60)


def serving(owner: subprocess.Popen) -> psutil.Process:
    """The process that waits for jobs."""
    (child,) = psutil.Process(owner.pid).children()
    return child


def lowrank(*arguments: str, **environment: str) -> subprocess.CompletedProcess:
    env = os.environ | environment
    return subprocess.run([*PROGRAM, *arguments], env=env, capture_output=True, text=True)


@pytest.fixture
def sleeping(tmp_path):
    """A job that prints its process and waits, and its caller."""
    (tmp_path / "own.py").write_text(SLEEPS, encoding="utf-8")
    caller = subprocess.Popen(
        [*PROGRAM, "check", str(tmp_path / "own.py")],
        stdout=subprocess.PIPE,
        text=True,
        # Where the tests run in the background Ctrl-C is ignored, which is inherited.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert caller.stdout is not None
    return caller, psutil.Process(int(caller.stdout.readline()))


def gone(process: psutil.Process) -> bool:
    for _ in range(1000):
        if not process.is_running() or process.status() == psutil.STATUS_ZOMBIE:
            return True
        time.sleep(0.01)
    return False


@pytest.mark.parametrize("command", ["methods", "plan --scale none", "check", "--version"])
def test_a_job_says_and_ends_as_without(owner, command):
    with_it, without = lowrank(*command.split()), lowrank(*command.split(), LOWRANK_WARM="")
    assert (with_it.returncode, with_it.stdout, with_it.stderr) == (
        without.returncode,
        without.stdout,
        without.stderr,
    )


def test_a_job_sees_the_environment_and_the_folder_of_its_caller(owner, tmp_path, monkeypatch):
    lines = (
        "import os, sys, torch\nprint(os.environ['SEEN'], os.getcwd(), os.getppid(), sys.argv)\n"
    )
    (tmp_path / "own.py").write_text(lines, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    said = lowrank("check", "own.py", SEEN="here").stdout.splitlines()[0]
    assert said == f"here {tmp_path} {serving(owner).pid} ['lowrank', 'check', 'own.py']"


@pytest.mark.parametrize(
    ("name", "value"),
    [("OMP_NUM_THREADS", "2"), ("RANK", "0"), (warm.PLACE, f"/elsewhere:{Path.cwd()}")],
)
def test_what_such_a_process_is_not_for_runs_by_itself(owner, name, value, tmp_path):
    (tmp_path / "own.py").write_text("import os\nprint(os.getppid())\n", encoding="utf-8")
    said = lowrank("check", str(tmp_path / "own.py"), **{name: value}).stdout.splitlines()[0]
    assert said == str(os.getpid())


def test_the_process_that_forks_has_one_thread(owner):
    assert lowrank("methods").returncode == 0  # by now pandas and pyarrow are imported
    assert serving(owner).num_threads() == 1


def test_a_job_runs_by_itself_where_the_process_has_ended(owner, tmp_path):
    process = serving(owner)
    process.kill()
    assert gone(process)
    assert lowrank("methods").returncode == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_the_caller_ends_the_job(owner, sleeping, number):
    caller, job = sleeping
    caller.send_signal(number)
    assert caller.wait(20) == 128 + number
    assert gone(job)


def test_a_job_ends_with_its_caller_and_its_caller_as_it_did(owner, sleeping):
    caller, job = sleeping
    caller.kill()
    assert gone(job)
    assert lowrank("methods").returncode == 0, "and others go on"


def test_a_killed_job_is_seen_as_killed(owner, sleeping):
    caller, job = sleeping
    job.kill()
    assert caller.wait(20) == -signal.SIGKILL


def test_a_caller_that_is_stopped_stops_its_job(owner, sleeping):
    caller, job = sleeping
    caller.send_signal(signal.SIGTSTP)
    process = psutil.Process(caller.pid)
    while {process.status(), job.status()} != {psutil.STATUS_STOPPED}:
        time.sleep(0.01)
    caller.send_signal(signal.SIGCONT)
    while psutil.STATUS_STOPPED in (process.status(), job.status()):
        time.sleep(0.01)
    caller.terminate()
    assert caller.wait(20) == 128 + signal.SIGTERM


def test_it_ends_with_its_owner_once_its_last_job_has(owner, sleeping):
    caller, job = sleeping
    process, folder = serving(owner), Path(os.environ[warm.PLACE].split(":")[1]).parent
    assert folder.is_dir()
    owner.kill()
    while folder.exists():
        time.sleep(0.01)
    assert process.is_running() and job.is_running()
    caller.terminate()
    assert caller.wait(20) == 128 + signal.SIGTERM
    assert gone(process)


def test_costs_are_those_of_each_command_and_of_each_study_that_is_measured(costs, owner):
    for command in (["measure", "posthoc"], ["methods"], ["measure", "speed"], ["methods"]):
        lowrank(*command)
    jobs = pipeline.added(costs.read_text(encoding="utf-8"))
    assert set(jobs) == {"lowrank measure posthoc", "lowrank methods", "lowrank measure speed"}
    assert all(seconds > 0 for seconds in jobs.values())
    assert pipeline.added("methods 1.5\nmethods 2\n") == {"lowrank methods": 3.5}


def test_costs_that_cannot_be_written_end_no_job(costs, owner):
    costs.mkdir()
    process = serving(owner)
    assert lowrank("methods").returncode == lowrank("methods").returncode == 0
    assert serving(owner) == process and process.status() != psutil.STATUS_ZOMBIE


def test_the_jobs_of_studies_find_imported_what_their_records_ask_for():
    of_models = serve.needs(["measure", "posthoc", "--track", "language"])
    assert "lowrank.jobs.train" in of_models
    assert (
        serve.needs(["measure", "speed"]) == serve.needs(["measure", "interpolation"]) == of_models
    )
    assert "lowrank.jobs.train" not in serve.needs(["measure", "baselines"])
    assert serve.needs(["measure"]) == serve.needs(["measure", "none"]) == serve.needs(["prepare"])
