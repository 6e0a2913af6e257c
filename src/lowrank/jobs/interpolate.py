"""The line from a dense solution to a low-rank one, the barrier on it, and how close its ends are.

theta(t) = (1 - t) theta_dense + t theta_low-rank over *effective* weights: each factorised layer
enters as its product, since factors are only defined up to an invertible r x r matrix. All other
parameters (layer norms, biases, embeddings, head) are interpolated too, so both ends are the trained
models; nothing is aligned or permuted. Batch-norm statistics are recomputed on training batches at
every point. Losses are validation losses: the test set is not read here.

Arms that share steps with the dense run end near it whatever came after, so weights are not all that is
compared: `disagreement` is the share of validation predictions (tokens or images) in which the ends differ,
`cosine_distance` one minus the cosine of their weights, and `floor` the distance of the dense solution to the
nearest one of the arm's ranks, its own truncation: no arm's distance is below it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from torch import Tensor

from lowrank import models
from lowrank.experiment.build import build_model
from lowrank.experiment.cell import Cell, RunSpec
from lowrank.factor.batch_norm import recompute_batch_norm
from lowrank.factor.convert import effective_weights
from lowrank.factor.truncate import truncate_model
from lowrank.jobs.kept import kept_beside
from lowrank.jobs.train import runs_of
from lowrank.methods.base import select_targets
from lowrank.train.build import choose_device
from lowrank.train.run import FinishedRun
from lowrank.train.task import Task, make_task

if TYPE_CHECKING:
    from lowrank.studies.interpolation import InterpolationStudy

CLOSENESS = ("barrier", "distance", "cosine_distance", "disagreement", "floor")
"""What is said of a line, beside its points."""


def interpolate(
    study: InterpolationStudy,
    dense: Cell,
    others: list[Cell],
    rates: dict[str, float],
    data: Path,
    cache: Path,
    device: str,
    made_by: Any = None,
    seeds: Sequence[int] = (),
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The line's points (cell, seed, t, loss) and its summary (cell, seed and `CLOSENESS`).

    The cell `<track>/dense-other-seed` is the control: from each dense solution to that of the next
    of `seeds` (those of `dense`, and those whose lines are there already), which shares neither
    initialisation nor data order.

    Each line is kept with the run at its start; `made_by` (JSON) says which code found it.
    """
    where = choose_device(device)
    ends = runs_of(dense, rates, data, cache, device)
    lines = [
        (cell.name, start, end)
        for cell in others
        for start, end in zip(ends, runs_of(cell, rates, data, cache, device), strict=True)
    ]
    ring = tuple(seeds) or dense.seeds
    if len(ring) > 1:
        following = dict(zip(ring, (*ring[1:], ring[0]), strict=True))
        known = {run.spec.seed: run for run in ends}
        if more := tuple(following[seed] for seed in known if following[seed] not in known):
            further = dense.model_copy(update={"seeds": more})
            found = runs_of(further, rates, data, cache, device)
            known |= {run.spec.seed: run for run in found}
        control = f"{dense.track}/dense-other-seed"
        lines += [(control, run, known[following[run.spec.seed]]) for run in ends]
    points: list[dict[str, Any]] = []
    summary: list[dict[str, Any]] = []
    for name, start, end in lines:
        if start.result["diverged"] or end.result["diverged"]:
            continue
        key = {"cell": name, "track": dense.track, "seed": start.spec.seed}
        told = {
            "made_by": made_by,
            "study": study.model_dump(mode="json", exclude={"fractions"}),
            "evaluation": start.spec.evaluation.model_dump(mode="json"),
        }
        find = partial(_line, study, start, end, data, where)
        kept = kept_beside([start, end], "line", told, find)
        if kept is None:
            continue
        line, facts = kept
        points += [{**key, **row} for row in line]
        summary.append({**key, **facts})
    # Where every line has a diverged end the tables are empty, but they have their columns.
    return (
        pd.DataFrame(points, columns=None if points else ["cell", "track", "seed", "t", "loss"]),
        pd.DataFrame(
            summary,
            columns=None if summary else ["cell", "track", "seed", *CLOSENESS],
        ),
    )


def _line(
    study: InterpolationStudy,
    start: FinishedRun,
    end: FinishedRun,
    data: Path,
    where: torch.device,
) -> tuple[list[dict[str, float]], dict[str, float | None]] | None:
    """The points of a line and its summary; None where an end has no dense weights."""
    spec = start.spec
    task = make_task(spec, data, where)
    first = effective_weights(start.model(task.outputs))
    last = effective_weights(end.model(task.outputs))
    if first is None or last is None:
        return None
    model = build_model(spec, task.outputs).to(where)
    rows, predictions = [], []
    for index in range(study.points):
        t = index / (study.points - 1)
        model.load_state_dict({name: _mix(first[name], last[name], t) for name in first})
        batches = (task.batch(step, 0, 1) for step in range(study.batches))
        recompute_batch_norm(model, batches, task.loss)
        limit, batch = spec.evaluation.validation_examples, spec.evaluation.batch
        rows.append({"t": t, **task.evaluate(model, "validation", limit, batch)})
        if t in (0.0, 1.0):
            predictions.append(task.predictions(model, "validation", limit, batch))
    losses = [row["loss"] for row in rows]
    barrier = max(
        loss - ((1 - row["t"]) * losses[0] + row["t"] * losses[-1])
        for loss, row in zip(losses, rows, strict=True)
    )
    names = _compared(spec, task)
    facts = {
        "barrier": barrier,
        "distance": _distance(first, last, names),
        "cosine_distance": _cosine_distance(first, last, names),
        "disagreement": float((predictions[0] != predictions[1]).float().mean()),
        "floor": _floor(start, end, first, task, names),
    }
    return rows, facts


def _mix(a: Tensor, b: Tensor, t: float) -> Tensor:
    return torch.lerp(a, b, t) if a.is_floating_point() else a


def _compared(spec: RunSpec, task: Task) -> list[str]:
    """The weights of the layers that may be factorised."""
    targets = models.family(spec.model.family).targets(build_model(spec, task.outputs))
    return [f"{target.name}.weight" for target in targets]


def _distance(first: dict[str, Tensor], last: dict[str, Tensor], names: list[str]) -> float:
    """|W_end - W_start|_F / |W_start|_F over the named weights."""
    moved = sum(float((last[name] - first[name]).square().sum()) for name in names)
    return math.sqrt(moved / sum(float(first[name].square().sum()) for name in names))


def _cosine_distance(first: dict[str, Tensor], last: dict[str, Tensor], names: list[str]) -> float:
    """One minus the cosine of the named weights as one vector: a common scale does not count."""
    product = sum(float((first[name] * last[name]).sum()) for name in names)
    sizes = (sum(float(w[name].square().sum()) for name in names) for w in (first, last))
    return 1 - product / math.sqrt(math.prod(sizes))


def _floor(
    start: FinishedRun, end: FinishedRun, first: dict[str, Tensor], task: Task, names: list[str]
) -> float | None:
    """The distance of the dense solution to its own truncation at the ranks of the end (Eckart and Young);
    None where the end is dense."""
    factors = end.spec.factors
    if factors is None:
        return None
    model = start.model(task.outputs)
    targets = select_targets(model, end.spec.model, factors)
    truncate_model(
        model,
        {target.name: target.scale for target in targets},
        method="plain",
        rank_fraction=factors.rank_fraction,
        rank_multiple=factors.rank_multiple,
        matricisation=factors.matricisation,
    )
    truncated = effective_weights(model)
    assert truncated is not None
    return _distance(first, truncated, names)
