"""What the pipeline costs beside training: processes, planning, figures; children included."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage
from typing import Any

ROOT = Path(__file__).parents[1]
Row = dict[str, Any]
CPU, WALL = "CPU s", "s"
READY = """
import sys
from pathlib import Path
from lowrank.experiment.cell import RunSpec
from lowrank.train.build import choose_device
from lowrank.train.loop import Watch, run_steps
from lowrank.train.task import make_task
from lowrank.train.trainer import Trainer
spec = RunSpec.model_validate_json(sys.argv[1])
run = Trainer(spec, make_task(spec, Path(sys.argv[2]), choose_device("cpu")), Path(sys.argv[2]))
run_steps(run, int(sys.argv[3]), Watch())
print(*(line for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""
"""Trains one run for a few steps, and says how large the process has been."""


def row(part: str, name: str, value: float, unit: str) -> Row:
    """One number of a part."""
    return {"part": part, "name": name, "value": value, "unit": unit}


def training(spec: Any, data: Path, steps: int) -> list[str]:
    """The command that trains a run of a spec for some steps."""
    given = [spec.model_dump_json(), str(data), str(steps)]
    return [sys.executable, "-W", "ignore", "-c", READY, *given]


def pipeline(seconds: float) -> list[Row]:
    """Each once or thrice: processes are long enough."""
    from parts import data, trainer

    found = []
    for track in ("language", "small-images"):
        command = training(trainer(track, rank_fraction=0.3).spec, data(track), 1)
        name = f"training process until its first step, {track}"
        found.append(row("pipeline", name, min(spent(command)[0] for _ in range(3)), CPU))
    taken, _ = spent([sys.executable, "-m", "lowrank", "--help"])
    found.append(row("pipeline", "lowrank --help", taken, CPU))
    with tempfile.TemporaryDirectory() as folder:
        where = ["--directory", folder]
        for scale in ("smoke", "laptop"):
            taken, _ = spent(snakemake("figures", scale, *where, "-n", "-q", cores=1))
            found.append(row("pipeline", f"dry run of all figures, {scale}", taken, CPU))
        taken, wall = spent(snakemake("figures", "smoke", *where))
        found.append(row("pipeline", "all figures of smoke", taken, CPU))
        found.append(row("pipeline", "all figures of smoke, on two cores", wall, WALL))
        taken, _ = spent(snakemake("figures", "smoke", *where))
        found.append(row("pipeline", "the same with nothing to do", taken, CPU))
    with tempfile.TemporaryDirectory() as folder:
        settings = ["results_from=published", "--directory", folder]
        published = snakemake("figures paper", "laptop", *settings)
        taken, wall = spent(published)
        found.append(row("pipeline", "figures and paper from published tables", taken, CPU))
        found.append(row("pipeline", "the same, on two cores", wall, WALL))
        taken, _ = spent(published)
        found.append(row("pipeline", "the same with nothing to do, from published", taken, CPU))
    return found


def whole(seconds: float) -> list[Row]:
    """All figures of the laptop scale from nothing, on two cores: where the CPU's time goes. Takes as long
    as that does."""
    with tempfile.TemporaryDirectory() as folder:
        costs = Path(folder) / "costs"
        command = snakemake("figures", "laptop", "--directory", folder)
        taken, wall = spent(command, LOWRANK_COSTS=str(costs))
        jobs = added(costs.read_text(encoding="utf-8"))
    trains = ("lowrank train", "lowrank sweep")
    training = sum(jobs[name] for name in trains)
    found = [
        row("whole", "share of CPU time in jobs that train", training / taken, ""),
        row("whole", "share of the time of two cores that is used", taken / (2 * wall), ""),
        row("whole", "wall time", wall, WALL),
        row("whole", "CPU time", taken, CPU),
        row("whole", "in jobs that train", training, CPU),
    ]
    most = sorted(jobs.items(), key=lambda item: -item[1])
    others = [(name, value) for name, value in most if name not in trains]
    found += [row("whole", name, value, CPU) for name, value in others]
    rest = taken - sum(jobs.values())
    return [*found, row("whole", "Snakemake, imports and callers", rest, CPU)]


def added(costs: str) -> dict[str, float]:
    """The CPU seconds of all jobs of a command, from the file that `LOWRANK_COSTS` names."""
    jobs: defaultdict[str, float] = defaultdict(float)
    for line in costs.splitlines():
        name, value = line.split()
        jobs[f"lowrank {name.replace('/', ' ')}"] += float(value)
    return jobs


def snakemake(targets: str, scale: str, *more: str, cores: int = 2) -> list[str]:
    """Snakemake's command; settings among `more` have an `=`."""
    settings = [word for word in more if "=" in word]
    others = [word for word in more if "=" not in word]
    command = ["snakemake", *targets.split(), "--cores", str(cores)]
    command += ["--snakefile", str(ROOT / "Snakefile")]
    return [*command, *others, "--config", f"scale={scale}", *settings]


def spent(command: list[str], **environment: str) -> tuple[float, float]:
    """CPU seconds of a command and its children, and how long it took."""
    before, started = getrusage(RUSAGE_CHILDREN), time.perf_counter()
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"PATH": path} | environment,
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    after, wall = getrusage(RUSAGE_CHILDREN), time.perf_counter() - started
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall
