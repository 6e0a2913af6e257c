"""What the pipeline costs beside training: processes, planning, data; CPU seconds, children included."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage
from typing import Any

import yaml

from lowrank.data.spec import TextSpec
from lowrank.data.text import prepare_text
from lowrank.experiment import config
from lowrank.experiment.expand import expand

ROOT = Path(__file__).parents[1]
Row = dict[str, Any]
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
run_steps(run, 1, Watch())
"""


def pipeline(seconds: float) -> list[Row]:
    """Each once or thrice: processes are long enough."""
    from parts import data, trainer

    found = []
    for track in ("language", "small-images"):
        spec = trainer(track, rank_fraction=0.3).spec
        command = [
            sys.executable,
            "-W",
            "ignore",
            "-c",
            READY,
            spec.model_dump_json(),
            str(data(track)),
        ]
        found.append(_row(f"training process until its first step, {track}", _cpu(command)))
    found.append(_row("lowrank --help", _cpu([sys.executable, "-m", "lowrank", "--help"])))
    for scale in ("smoke", "laptop"):
        command = ["snakemake", "-n", "-q", "--cores", "1", "figures", "--config", f"scale={scale}"]
        found.append(_row(f"dry run of all figures, {scale}", _cpu(command, times=1)))
    for tracks in (1, 4, 16):
        count, spent = _planned(tracks)
        found.append(_row(f"reading a configuration of {count:,} cells", spent))
    with tempfile.TemporaryDirectory() as folder:
        started = time.process_time()
        spec = TextSpec(vocabulary=512, max_characters=5_000_000)
        prepare_text(spec, Path(folder) / "data")
        found.append(_row("preparing 5 MB of text", time.process_time() - started))
    return found


def _row(name: str, spent: float) -> Row:
    return {"part": "pipeline", "name": name, "seconds": spent}


def _cpu(command: list[str], times: int = 3) -> float:
    """CPU seconds of a command and its children, the least of several calls."""
    spent = []
    for _ in range(times):
        before = getrusage(RUSAGE_CHILDREN)
        subprocess.run(
            command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        after = getrusage(RUSAGE_CHILDREN)
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(spent)


def _planned(tracks: int) -> tuple[int, float]:
    """Cells of a configuration of so many large tracks, and the CPU seconds of reading it."""
    values = yaml.safe_load((ROOT / "config/laptop.yaml").read_text(encoding="utf-8"))
    track = values["tracks"]["language"]
    study = track["studies"]["initialisation"]
    study["ranks"] = study["control_ranks"] = [round(0.01 * n, 2) for n in range(1, 100)]
    values["tracks"] = {f"language-{number}": track for number in range(tracks)}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "many.yaml"
        path.write_text(yaml.safe_dump({**values, "scale": "many"}), encoding="utf-8")
        started = time.process_time()
        grid = expand(config.read_config(path))
        return len(grid.cells), time.process_time() - started
