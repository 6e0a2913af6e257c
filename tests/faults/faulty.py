"""A tiny track, the jobs that make it, and what a comparison of two of them takes into account."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from click.testing import CliRunner
from safetensors.torch import load_file

from lowrank.cli import main
from lowrank.experiment import config
from lowrank.experiment.expand import Grid
from lowrank.experiment.experiment import Experiment
from lowrank.files import read_json, write_sealed
from lowrank.parquet import read_table

ROOT = Path(__file__).parents[2]
NAME = "small-images"
CLOCKS = [
    "seconds",
    "train_seconds",
    "positions_per_second",
    "peak_memory_bytes",
    "finished_at",
    "seconds_a_pair",
]

VALUES = {
    "scale": "tiny",
    "seeds": [0],
    "device": "cpu",
    "tracks": {
        NAME: {
            "data": {"kind": "images", "source": "embedded", "max_images": 80},
            "model": {"family": "wide_resnet", "depth": 10, "width": 1, "channels": 1},
            "training": {
                **{"optimizer": "sgd", "weight_decay": 5e-4, "steps": 6, "batch": 8},
                **{"log_points": 6, "probe_points": 2, "validation_points": 2},
                "checkpoint_every": 1,
            },
            "factors": {"rank_fraction": 0.5, "rank_multiple": 1},
            "evaluation": {"validation_examples": 16, "test_examples": 16, "batch": 8},
            "sweep": {"rates": [0.01, 0.05], "extend": 0, "seeds": [0]},
            "studies": {
                "pretraining": {"fractions": [0.5], "inits": ["spectral"]},
                "interpolation": {"points": 3, "batches": 1, "fractions": []},
                "posthoc": {"methods": ["plain"], "ranks": [0.5], "calibration_batches": 1},
            },
        }
    },
}
DENSE, LOW, PRE = "dense", "spectral-r0.5", "spectral-r0.5-pre0.5"


class Track:
    """The folder of one scale with a single tiny image track, driven by the command line."""

    def __init__(self, root: Path, values: dict = VALUES) -> None:
        self.root = root
        self.config = config.parse(values)
        self.experiment = Experiment(self.config)
        self.grid: Grid = self.experiment.grid

    def begin(self) -> None:
        """What the workflow writes before any job."""
        write_sealed(self.root / "config.json", self.config.model_dump(mode="json"))

    def job(self, name: str, cell: str = "") -> list[str]:
        """The beginning of a job's command, as the workflow sends it."""
        of, told = (f"{NAME}/{cell}", "--cell") if cell else (NAME, "--track")
        digest = getattr(self.experiment, f"of_{name}")(of)
        return [name, "--config", f"{self.root}/config.json", "--digest", digest, told, of]

    @property
    def common(self) -> list[str]:
        folders = ["--data", f"{self.root}/data/{NAME}", "--cache", f"{self.root}/runs"]
        return [*folders, "--device", "cpu"]

    @property
    def swept(self) -> list[str]:
        return [name.split("/")[1] for name in self.grid.sweeps]

    @property
    def rates(self) -> list[str]:
        return ["--rates", f"{self.root}/rates"]

    def prepare(self) -> list[str]:
        return [*self.job("prepare"), "--output", f"{self.root}/data/{NAME}"]

    def sweep(self, arm: str) -> list[str]:
        output = f"{self.root}/rates/{NAME}/{arm}.json"
        return [*self.job("sweep", arm), *self.rates, "--output", output, *self.common]

    def train(self, arm: str) -> list[str]:
        output = f"{self.root}/cells/{NAME}/{arm}"
        return [*self.job("train", arm), *self.rates, "--output", output, *self.common]

    def evaluate(self) -> list[str]:
        output = f"{self.root}/evaluations/{NAME}.parquet"
        return [*self.job("evaluate"), *self.rates, "--output", output, *self.common]

    def measure(self, study: str) -> list[str]:
        digest = self.experiment.of_study(study, NAME)
        command = ["measure", study, "--config", f"{self.root}/config.json", "--digest", digest]
        command += ["--track", NAME, "--output", str(self.root)]
        return [*command, *self.rates, *self.common]

    def tables(self) -> list[str]:
        command = ["tables", "--config", f"{self.root}/config.json"]
        for arm in (DENSE, LOW, PRE):
            command += ["--cell", f"{self.root}/cells/{NAME}/{arm}"]
        for arm in self.swept:
            command += ["--rates", f"{self.root}/rates/{NAME}/{arm}.json"]
        command += ["--evaluation", f"{self.root}/evaluations/{NAME}.parquet"]
        for name in ("interpolation", "barriers", "posthoc"):
            command += ["--other", f"{name}={self.root}/{name}/{NAME}.parquet"]
        return [*command, "--output", f"{self.root}/tables"]

    def claims(self) -> list[str]:
        command = ["claims", "--config", f"{self.root}/config.json"]
        command += ["--ledger", f"{ROOT}/config/claims.yaml", "--tables", f"{self.root}/tables"]
        return [*command, "--output", f"{self.root}/tables/claims.parquet"]

    def publish(self, output: Path) -> list[str]:
        command = ["publish", "--tables", f"{self.root}/tables", "--output", str(output)]
        command += ["--config", f"{self.root}/config.json"]
        return [*command, "--ledger", f"{ROOT}/config/claims.yaml"]

    def jobs(self) -> list[list[str]]:
        """All commands in an order in which each finds what it needs."""
        trained = [self.train(arm) for arm in (DENSE, LOW, PRE)]
        measured = map(self.measure, ("interpolation", "posthoc"))
        read = [self.evaluate(), *measured, self.tables(), self.claims()]
        return [self.prepare(), *map(self.sweep, self.swept), *trained, *read]

    def run(self, command: list[str]) -> tuple[int, str]:
        """Exit status and the error message of a command, run in this process."""
        result = CliRunner().invoke(main, command)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        errors = [line for line in result.output.splitlines() if line.startswith("Error")]
        return result.exit_code, "\n".join(errors)

    def temporary(self) -> list[Path]:
        """Everything that a job should have taken away."""
        found = [path for path in self.root.rglob("*") if path.name.endswith(".part")]
        finished = [path.parent for path in self.root.glob("runs/*/manifest.json")]
        return found + [path for run in finished for path in run.glob("checkpoint-*")]


def snakemake(folder: Path, target: str, values: dict, *more: str) -> list[str]:
    """A Snakemake command to run in `folder`, which gets links to the project's sources and these
    values as its configuration."""
    for name in ("Snakefile", "workflow", "profiles", "config", "notebooks", "paper", "src"):
        if not (folder / name).exists() and (ROOT / name).exists():
            (folder / name).symlink_to(ROOT / name)
    (folder / "tiny.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    program = [sys.executable, "-m", "snakemake", target, "--cores", "1", *more]
    return [*program, "--configfile", "tiny.yaml"]


def assert_same_results(one: Track, other: Track) -> None:
    """Both hold the same files, equal to the bit in all but clocks."""
    left, right = (
        {p.relative_to(t.root).as_posix(): p for p in t.root.rglob("*") if p.is_file()}
        for t in (one, other)
    )
    assert left.keys() == right.keys()
    for name, path in left.items():
        assert_same_file(path, right[name])


def assert_same_file(one: Path, other: Path) -> None:
    if one.suffix == ".parquet":
        a, b = (read_table(p).drop(columns=CLOCKS, errors="ignore") for p in (one, other))
        pd.testing.assert_frame_equal(a, b, check_exact=True)
    elif one.suffix == ".safetensors":
        a, b = load_file(one), load_file(other)
        assert a.keys() == b.keys() and all(a[name].equal(b[name]) for name in a)
    elif one.suffix == ".npy":
        assert np.array_equal(np.load(one), np.load(other))
    elif one.name.startswith(("test.", "posthoc-", "line-")):
        # Manifests, with clocks, are part of their keys.
        assert read_json(one)["metrics"] == read_json(other)["metrics"]
    elif one.suffix == ".json" and one.name not in ("manifest.json", "record.json"):
        a, b = ({k: v for k, v in read_json(p).items() if k not in CLOCKS} for p in (one, other))
        assert a == b


def forked(action: Callable[[], int | None]) -> int:
    """Run an action in a forked child; returns the child's process id."""
    # A signal that came before the child is ready would make a second pytest of it.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    child = os.fork()
    if child:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        return child
    status = 99
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
        os.setsid()
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        status = action() or 0
    except SystemExit as leaving:
        status = leaving.code if isinstance(leaving.code, int) else 1
    finally:
        os._exit(status)


def ended(child: int, seconds: float = 120) -> int:
    """Wait for a child; its exit status, or minus the signal that ended it. One that hangs is killed
    and fails the test."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    raise AssertionError(f"a command did not end within {seconds:g} seconds")


def command_in_child(command: list[str], before: Callable[[], None] = lambda: None) -> int:
    """Start a command in a forked child, as the command line would run it."""

    def action() -> None:
        before()
        main(command, standalone_mode=True)

    return forked(action)
