"""The line from a dense solution to a low-rank one, and the barrier on it.

theta(t) = (1 - t) theta_dense + t theta_low-rank over *effective* weights: each factorised layer
enters as its product, since factors are only defined up to an invertible r x r matrix. All other
parameters (layer norms, biases, embeddings, head) are interpolated too, so both ends are the trained
models; nothing is aligned or permuted. Batch-norm statistics are recomputed on training batches at
every point. Losses are validation losses: the test set is not read here.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from lowrank.experiment.build import build_model
from lowrank.experiment.cell import Cell
from lowrank.factor.batch_norm import recompute_batch_norm
from lowrank.factor.convert import effective_weights
from lowrank.jobs.train import runs_of
from lowrank.studies.interpolation import InterpolationStudy
from lowrank.train.build import choose_device
from lowrank.train.run import FinishedRun
from lowrank.train.task import Task, make_task


def interpolate(
    study: InterpolationStudy,
    dense: Cell,
    others: list[Cell],
    rates: dict[str, float],
    data: Path,
    cache: Path,
    device: str,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The line's points (cell, seed, t, loss) and its summary (cell, seed, barrier, distance).

    The cell `<track>/dense-other-seed` is the control: from each dense solution to that of the next
    seed, which shares neither initialisation nor data order.
    """
    where = choose_device(device)
    ends = runs_of(dense, rates, data, cache, device)
    lines = [
        (cell.name, start, end)
        for cell in others
        for start, end in zip(ends, runs_of(cell, rates, data, cache, device), strict=True)
    ]
    if len(ends) > 1:
        control = f"{dense.track}/dense-other-seed"
        lines += [(control, a, b) for a, b in zip(ends, ends[1:] + ends[:1], strict=True)]
    points: list[dict[str, Any]] = []
    summary: list[dict[str, Any]] = []
    for name, start, end in lines:
        if start.result["diverged"] or end.result["diverged"]:
            continue
        key = {"cell": name, "track": dense.track, "seed": start.spec.seed}
        found = _line(study, start, end, data, where)
        if found is None:
            continue
        line, facts = found
        points += [{**key, **row} for row in line]
        summary.append({**key, **facts})
    # Where every line has a diverged end the tables are empty, but they have their columns.
    return (
        pd.DataFrame(points, columns=None if points else ["cell", "track", "seed", "t", "loss"]),
        pd.DataFrame(
            summary,
            columns=None if summary else ["cell", "track", "seed", "barrier", "distance"],
        ),
    )


def _line(
    study: InterpolationStudy,
    start: FinishedRun,
    end: FinishedRun,
    data: Path,
    where: torch.device,
) -> tuple[list[dict[str, float]], dict[str, float]] | None:
    """The points of a line and its summary; None where an end has no dense weights."""
    spec = start.spec
    task = make_task(spec, data, where)
    first = effective_weights(start.model(task.outputs))
    last = effective_weights(end.model(task.outputs))
    if first is None or last is None:
        return None
    model = build_model(spec, task.outputs).to(where)
    rows = []
    for index in range(study.points):
        t = index / (study.points - 1)
        model.load_state_dict({name: _mix(first[name], last[name], t) for name in first})
        batches = (task.batch(step, 0, 1) for step in range(study.batches))
        recompute_batch_norm(model, batches, task.loss)
        limit, batch = spec.evaluation.validation_examples, spec.evaluation.batch
        rows.append({"t": t, **task.evaluate(model, "validation", limit, batch)})
    losses = [row["loss"] for row in rows]
    barrier = max(
        loss - ((1 - row["t"]) * losses[0] + row["t"] * losses[-1])
        for loss, row in zip(losses, rows, strict=True)
    )
    return rows, {"barrier": barrier, "distance": _distance(start, end, first, last, task)}


def _mix(a: Tensor, b: Tensor, t: float) -> Tensor:
    return torch.lerp(a, b, t) if a.is_floating_point() else a


def _distance(
    start: FinishedRun,
    end: FinishedRun,
    first: dict[str, Tensor],
    last: dict[str, Tensor],
    task: Task,
) -> float:
    """|W_end - W_start|_F / |W_start|_F over the layers that may be factorised."""
    from lowrank import models

    dense = build_model(start.spec, task.outputs)
    targets = models.family(start.spec.model.family).targets(dense)
    names = [f"{target.name}.weight" for target in targets]
    moved = sum(float((last[name] - first[name]).square().sum()) for name in names)
    size = sum(float(first[name].square().sum()) for name in names)
    return math.sqrt(moved / size)
