"""Seconds a training step takes, dense and factorised, measured so that they can be compared.

The models take turns, round after round, in one process: whatever else the machine does falls on all
of them alike, and a round is a pair. Wall times of whole runs have no such partner.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from lowrank.experiment.cell import Cell
from lowrank.experiment.extensions import load_extensions
from lowrank.train.build import choose_device
from lowrank.train.loop import Watch, run_steps
from lowrank.train.task import make_task
from lowrank.train.trainer import Trainer


def measure_speed(
    cells: list[Cell],
    rates: dict[str, float],
    data: Path,
    device: str,
    rounds: int = 5,
    seconds: float = 0.4,
) -> pd.DataFrame:
    """One row a (cell, round): seconds a step, positions a second, bytes of training state.

    Each round gives each cell about `seconds` of steps, at least two. `seed` numbers the rounds, the
    pairs of a contrast. On a GPU, `peak_memory_bytes` is what the steps allocated at most.
    """
    where = choose_device(device)
    trainers = {}
    for cell in cells:
        spec = cell.runs(rates)[0]
        load_extensions(spec.extensions)
        trainers[cell.name] = Trainer(spec, make_task(spec, data, where), data)
    steps = {
        name: max(2, round(seconds / _time(trainer, 3)[0])) for name, trainer in trainers.items()
    }
    rows: list[dict[str, Any]] = []
    for turn in range(rounds):
        for name, trainer in trainers.items():
            step_seconds, peak = _time(trainer, steps[name])
            training = trainer.spec.training
            positions = training.batch * (trainer.spec.model.context or 1)
            rows.append(
                {
                    "cell": name,
                    "track": trainer.spec.track,
                    "seed": turn,
                    "step_seconds": step_seconds,
                    "positions_per_second": positions / step_seconds,
                    "state_bytes": trainer.optimizer.state_bytes(),
                    "peak_memory_bytes": peak,
                }
            )
    return pd.DataFrame(rows)


def _time(trainer: Trainer, steps: int) -> tuple[float, int | None]:
    """Seconds a step over `steps` steps, and the peak memory of a GPU."""
    cuda = trainer.task.device.type == "cuda"
    if cuda:
        torch.cuda.reset_peak_memory_stats()
        torch.cuda.synchronize()
    started = time.perf_counter()
    run_steps(trainer, trainer.step + steps, Watch())
    if cuda:
        torch.cuda.synchronize()
    elapsed = time.perf_counter() - started
    return elapsed / steps, torch.cuda.max_memory_allocated() if cuda else None
