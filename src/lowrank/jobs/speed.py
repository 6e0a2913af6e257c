"""Seconds a training step takes, dense and factorised, measured so that they can be compared.

The models take turns, round after round, in one process: whatever else the machine does falls on all
of them alike, and a round is a pair. Wall times of whole runs have no such partner.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from lowrank.experiment.build import build_model
from lowrank.experiment.cell import RunSpec
from lowrank.experiment.expand import Timed
from lowrank.experiment.extensions import load_extensions
from lowrank.factor.convert import parameter_count
from lowrank.factor.layers import matricise
from lowrank.methods.base import select_targets
from lowrank.processor import processor
from lowrank.train.build import choose_device
from lowrank.train.loop import Watch, run_steps
from lowrank.train.task import make_task
from lowrank.train.trainer import Trainer


def measure_speed(
    timed: Sequence[Timed], data: Path, device: str, rounds: int = 5, seconds: float = 0.4
) -> pd.DataFrame:
    """One row a (cell, round): the cell's facts, kept parameters, seconds a step, positions a second, bytes of
    training state, processor.

    Models of one width take turns, each round giving each about `seconds` of steps, at least one; then those
    of the next width, so that only one width's models are held. `seed` numbers the rounds, the pairs of a
    contrast. On a GPU, `peak_memory_bytes` is what the steps allocated at most.
    """
    where = choose_device(device)
    rows: list[dict[str, Any]] = []
    for width in dict.fromkeys(one.cell.model.width for one in timed):
        of_width = [one for one in timed if one.cell.model.width == width]
        rows += _take_turns(of_width, data, where, rounds, seconds)
    return pd.DataFrame(rows)


def _take_turns(
    timed: Sequence[Timed], data: Path, where: torch.device, rounds: int, seconds: float
) -> list[dict[str, Any]]:
    trainers: dict[str, Trainer] = {}
    facts: dict[str, dict[str, Any]] = {}
    dense: int | None = None
    for one in timed:
        cell, share = one.cell, one.kept
        load_extensions(cell.extensions)
        task = make_task(cell.runs({})[0], data, where)
        if share is not None:
            assert cell.factors is not None
            fraction = rank_fraction_of(cell.runs({})[0], task.outputs, share)
            factors = cell.factors.model_copy(update={"rank_fraction": fraction})
            cell = cell.model_copy(update={"factors": factors})
        spec = cell.runs({})[0]
        trainers[cell.name] = trainer = Trainer(spec, task, data)
        if dense is None:
            plain = spec.model_copy(update={"factors": None, "pretraining": None})
            with torch.device("meta"):
                dense = parameter_count(build_model(plain, task.outputs))
        count = parameter_count(trainer.model)
        facts[cell.name] = {
            **cell.facts(),
            "kept_share": share,
            "kept_parameters": count / dense,
            "processor": processor(where),
        }
    steps = {name: _steps(trainer, seconds) for name, trainer in trainers.items()}
    rows: list[dict[str, Any]] = []
    for turn in range(rounds):
        for name, trainer in trainers.items():
            step_seconds, peak = _time(trainer, steps[name])
            training = trainer.spec.training
            positions = training.batch * (trainer.spec.model.context or 1)
            rows.append(
                {
                    **facts[name],
                    "seed": turn,
                    "step_seconds": step_seconds,
                    "positions_per_second": positions / step_seconds,
                    "state_bytes": trainer.optimizer.state_bytes(),
                    "peak_memory_bytes": peak,
                }
            )
    return rows


def rank_fraction_of(spec: RunSpec, outputs: int, share: float) -> float:
    """The rank fraction at which the layers that are factorised keep this share of their parameters, but
    for the rounding of ranks: f with f * sum(min(m, n) (m + n)) = share * sum(m n) over m x n matrices."""
    assert spec.factors is not None
    plain = spec.model_copy(update={"factors": None, "pretraining": None})
    with torch.device("meta"):
        model = build_model(plain, outputs)
    whole, per_fraction = 0, 0
    for target in select_targets(model, spec.model, spec.factors):
        layer = model.get_submodule(target.name)
        matrices = matricise(layer, spec.factors.matricisation)
        m, n = matrices.shape[-2:]
        whole += matrices.numel()
        per_fraction += matrices.numel() // (m * n) * min(m, n) * (m + n)
    return min(1.0, share * whole / per_fraction)


def _steps(trainer: Trainer, seconds: float) -> int:
    """How many steps take about `seconds`, by three of them, or by one that takes as long."""
    first, _ = _time(trainer, 1)
    return max(1, round(seconds / (first if first > seconds else _time(trainer, 2)[0])))


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
