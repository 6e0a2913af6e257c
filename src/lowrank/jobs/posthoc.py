"""Truncating the trained dense model, with or without fine-tuning, at the ranks low-rank training used.

The same layers get the same ranks as in low-rank training, so parameters and FLOPs kept are equal.
Batch-norm statistics are recomputed from training batches before the test: those that the dense model
left, or a short fine-tuning, describe the inputs that other weights gave.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from torch import Tensor, nn

from lowrank.experiment.cell import Cell, RunSpec
from lowrank.experiment.sections import FactorSpec, TrainingSpec
from lowrank.factor.batch_norm import recompute_batch_norm
from lowrank.factor.convert import parameter_count
from lowrank.factor.flops import forward_flops
from lowrank.factor.truncate import truncate_model
from lowrank.jobs.kept import kept_beside
from lowrank.jobs.train import runs_of
from lowrank.methods import Options
from lowrank.methods.base import Life, select_targets
from lowrank.train.build import choose_device
from lowrank.train.loop import Watch, run_steps
from lowrank.train.optimizer import Optimizer
from lowrank.train.run import FinishedRun
from lowrank.train.task import Task, make_task
from lowrank.versions import VERSIONS

if TYPE_CHECKING:
    from lowrank.studies.posthoc import PostHocStudy


def posthoc(
    study: PostHocStudy,
    factors: FactorSpec,
    dense: Cell,
    rates: dict[str, float],
    data: Path,
    cache: Path,
    device: str,
    made_by: Any = None,
) -> pd.DataFrame:
    """One row a (method, rank fraction, fine-tuning length, seed) with test metrics and cost.

    The rows of each truncation are kept with its run; `made_by` (JSON) says which code made them.

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
                key = {
                    "made_by": made_by,
                    "study": study.model_dump(mode="json", exclude={"ranks", "methods"}),
                    "factors": factor.model_dump(mode="json"),
                    "evaluation": [
                        VERSIONS["evaluation"],
                        dense.evaluation.model_dump(mode="json"),
                    ],
                    "method": method,
                }
                find = partial(_truncated, study, factor, method, run, dense, data, where)
                rows += kept_beside([run], "posthoc", key, find)
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
        finite = _fine_tune(model, task, run.spec, factor, study.fine_tune_rate_factor, length)
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


@dataclass
class FineTuning:
    """A truncated model in training, on the batches that follow the dense run's."""

    model: nn.Module
    forward: nn.Module
    task: Task
    training: TrainingSpec
    life: Life
    optimizer: Optimizer
    first_batch: int
    step: int = 0

    def replace(
        self, layers: Mapping[str, nn.Module], state: Mapping[str, Tensor] | None = None
    ) -> None:
        """Nothing changes layers here."""
        raise NotImplementedError


class _Finite(Watch):
    """Whether every loss and gradient was finite; a GPU is not waited for."""

    def __init__(self, device: torch.device) -> None:
        self.finite = torch.tensor(True, device=device)

    def sound(self, rate: float, loss: Tensor, norm: Tensor) -> bool:
        """Note it, and go on."""
        self.finite &= torch.isfinite(loss) & torch.isfinite(norm)
        return True


def _fine_tune(
    model: nn.Module,
    task: Task,
    spec: RunSpec,
    factor: FactorSpec,
    rate_factor: float,
    length: int,
) -> bool:
    """Train the truncated model of a dense run for `length` steps, with a cosine schedule of its own;
    whether every loss and gradient was finite."""
    if length == 0:
        return True
    training = spec.training
    assert training.learning_rate is not None
    short = training.model_copy(
        update={
            "steps": length,
            "learning_rate": rate_factor * training.learning_rate,
            "schedule": "cosine",
        }
    )
    model.train()
    life = Life(spec, Options())
    optimizer = Optimizer(model, short, factor.decay, life.groups(model))
    watch = _Finite(task.device)
    run_steps(FineTuning(model, model, task, short, life, optimizer, training.steps), length, watch)
    return bool(watch.finite)
