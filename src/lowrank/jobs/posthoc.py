"""Truncating the trained dense model, with or without fine-tuning, at the ranks low-rank training used.

The same layers get the same ranks as in low-rank training, so parameters and FLOPs kept are equal.
Batch-norm statistics are recomputed from training batches before the test: those that the dense model
left, or a short fine-tuning, describe the inputs that other weights gave.
"""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from lowrank.experiment.cell import Cell
from lowrank.experiment.config import PostHocStudy
from lowrank.experiment.sections import FactorSpec, ModelSpec, TrainingSpec
from lowrank.factor.batch_norm import recompute_batch_norm
from lowrank.factor.convert import parameter_count
from lowrank.factor.flops import forward_flops
from lowrank.factor.truncate import truncate_model
from lowrank.jobs.train import runs_of
from lowrank.models import family
from lowrank.optimizers.base import standard_groups
from lowrank.train.build import choose_device, select_targets
from lowrank.train.optimizer import Optimizer
from lowrank.train.run import FinishedRun
from lowrank.train.schedule import learning_rate
from lowrank.train.step import train_step
from lowrank.train.task import Task, make_task


def posthoc(
    study: PostHocStudy,
    factors: FactorSpec,
    dense: Cell,
    rates: dict[str, float],
    data: Path,
    cache: Path,
    device: str,
) -> pd.DataFrame:
    """One row a (method, rank fraction, fine-tuning length, seed) with test metrics and cost.

    A model with batch norm has `stale_test_accuracy` and `stale_test_loss` beside them: its metrics
    before the statistics were recomputed.
    Where fine-tuning diverges, or the truncated model's metrics are not finite, `diverged` is true
    and there are no metrics.
    """
    where = choose_device(device)
    rows: list[dict[str, Any]] = []
    for run in runs_of(dense, rates, data, cache, device):
        if run.result["diverged"]:
            continue
        for method in study.methods:
            for rank in study.ranks:
                factor = factors.model_copy(update={"rank_fraction": rank})
                rows += _truncated(study, factor, method, run, dense, data, where)
    keys = ["track", "method", "rank_fraction", "fine_tune_steps", "seed"]
    return pd.DataFrame(rows, columns=None if rows else keys)  # empty where every run diverged


def _truncated(
    study: PostHocStudy,
    factor: FactorSpec,
    method: str,
    run: FinishedRun,
    dense: Cell,
    data: Path,
    where: torch.device,
) -> list[dict[str, Any]]:
    task = make_task(run.spec, data, where)
    rows = []
    model = run.model(task.outputs).to(where)
    targets = select_targets(model, run.spec.model, factor)
    size, dense_flops = parameter_count(model), forward_flops(model.cpu(), task.example())
    model.to(where)
    steps = run.spec.training.steps
    truncate_model(
        model,
        {target.name: target.scale for target in targets},
        method=method,
        rank_fraction=factor.rank_fraction,
        rank_multiple=factor.rank_multiple,
        matricisation=factor.matricisation,
        batches=[task.batch(step, 0, 1) for step in range(study.calibration_batches)],
        loss=task.loss,
    )
    flops = forward_flops(model.cpu(), task.example())
    truncated = model
    for length in study.fine_tune_steps:
        model = copy.deepcopy(truncated).to(where)
        finite = _fine_tune(
            model,
            task,
            run.spec.training,
            factor,
            study.fine_tune_rate_factor,
            length,
            run.spec.model,
        )
        held_out = ("test", dense.evaluation.test_examples, dense.evaluation.batch)
        metrics = {f"test_{k}": v for k, v in task.evaluate(model, *held_out).items()}
        batches = (task.batch(step, 0, 1) for step in range(study.batch_norm_batches))
        if recompute_batch_norm(model, batches, task.loss):
            metrics = {f"stale_{name}": value for name, value in metrics.items()}
            metrics |= {f"test_{k}": v for k, v in task.evaluate(model, *held_out).items()}
        finite = finite and math.isfinite(metrics["test_loss"])
        examples = run.spec.training.batch
        rows.append(
            {
                "track": run.spec.track,
                "method": method,
                "rank_fraction": factor.rank_fraction,
                "fine_tune_steps": length,
                "seed": run.spec.seed,
                "diverged": not finite,
                **{
                    name: value if finite and math.isfinite(value) else None
                    for name, value in metrics.items()
                },
                "kept_parameters": parameter_count(model) / size,
                "kept_flops": flops / dense_flops,
                "training_flops": 3 * examples * (steps * dense_flops + length * flops),
            }
        )
    return rows


def _fine_tune(
    model: nn.Module,
    task: Task,
    training: TrainingSpec,
    factor: FactorSpec,
    rate_factor: float,
    length: int,
    spec: ModelSpec,
) -> bool:
    """Train the truncated model for `length` steps, on the batches that follow the dense run's, with
    a cosine schedule of its own; whether every loss and gradient was finite."""
    if length == 0:
        return True
    assert training.learning_rate is not None
    short = training.model_copy(
        update={
            "steps": length,
            "learning_rate": rate_factor * training.learning_rate,
            "schedule": "cosine",
        }
    )
    model.train()
    record = family(spec.family)
    names = [target.name for target in record.targets(model)]
    groups = standard_groups(model, short, names, record.embeddings)
    optimizer = Optimizer(model, short, factor.decay, groups)
    finite = torch.tensor(True, device=task.device)
    for step in range(short.steps):
        position = training.steps + step
        parts = [
            task.batch(position, part, short.accumulation) for part in range(short.accumulation)
        ]
        loss, norm = train_step(model, task, parts, optimizer, learning_rate(step, short))
        finite &= torch.isfinite(loss) & torch.isfinite(norm)
    return bool(finite)
