"""What a configuration would cost, before anything is launched.

Every cell's model is built on the meta device, where it has shapes and no values, so a wrong shape
shows in seconds and a model of any size fits.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from lowrank import models
from lowrank.analysis.publish import read_published
from lowrank.data.images_spec import ImageSpec
from lowrank.data.spec import TextSpec
from lowrank.errors import LowrankError
from lowrank.experiment.cell import Cell
from lowrank.experiment.config import Config, TrackConfig
from lowrank.experiment.expand import expand
from lowrank.experiment.extensions import load_extensions
from lowrank.experiment.sections import FactorSpec, ModelSpec, TrainingSpec
from lowrank.factor.convert import factors, parameter_count
from lowrank.factor.flops import forward_flops
from lowrank.optimizers import OPTIMIZERS
from lowrank.optimizers.base import standard_groups
from lowrank.report.closing import larger_than_dense
from lowrank.train.build import factorise

PRETRAINED_VOCABULARY = 50_257
"""Tokens assumed for a pretrained tokeniser (GPT-2's)."""
HUB_CLASSES = {"uoft-cs/cifar100": (100, 32), "ILSVRC/imagenet-1k": (1000, 224)}
"""Classes and image side of the hub data sets the configurations name."""


def make_plan(config: Config, flops_per_second: float | None = None) -> pd.DataFrame:
    """One row a cell: parameters, forward FLOPs, training FLOPs of all seeds, hours, bytes of state.

    `hours` is training FLOPs over `flops_per_second` (of all devices), without sweeps; missing
    without it. `state_bytes` holds weights, gradients and optimiser moments, not activations.
    """
    grid = expand(config)
    load_extensions(grid.extensions)
    rows = []
    for cell in grid.cells.values():
        rows.append(_row(cell, config.tracks[cell.track], len(cell.seeds), flops_per_second))  # type: ignore[index]
    for sweep in grid.sweeps.values():
        runs = len(sweep.sweep.rates) - 1  # its seed's run at the best rate is the cell's own
        cell = Cell(
            name=sweep.name + "-sweep",
            track=sweep.track,
            studies=("sweep",),
            model=sweep.model,
            training=sweep.training,
            factors=sweep.factors,
            seeds=(sweep.sweep.seed,),
        )
        if runs:
            rows.append(_row(cell, config.tracks[cell.track], runs, flops_per_second))  # type: ignore[index]
    return pd.DataFrame(rows)


def _row(cell: Cell, track: TrackConfig, runs: int, speed: float | None) -> dict[str, Any]:
    shape = _shape(track)
    dense = _measure(cell.model, None, shape, cell.training)
    own = _measure(cell.model, cell.factors, shape, cell.training)
    training = cell.training
    share = cell.fork_step / training.steps
    forward = share * dense[1] + (1 - share) * own[1]
    total = 3 * training.steps * training.batch * forward * runs
    return {
        "cell": cell.name,
        "runs": runs,
        "steps": training.steps,
        "parameters": own[0],
        "kept_parameters": own[0] / dense[0],
        "smallest_rank": own[2],
        "largest_rank": own[3],
        "forward_flops": own[1],
        "kept_flops": own[1] / dense[1],
        "training_flops": total,
        "hours": total / speed / 3600 if speed else None,
        "state_bytes": own[4],
    }


def _shape(track: TrackConfig) -> tuple[int, int]:
    """Outputs (tokens or classes) and, for images, the side the model sees (text: 0)."""
    data = track.data
    if isinstance(data, TextSpec):
        return (PRETRAINED_VOCABULARY if data.tokenizer else data.vocabulary), 0
    assert isinstance(data, ImageSpec)
    classes, side = (
        (10, 8) if data.source == "embedded" else HUB_CLASSES.get(data.path or "", (0, 0))
    )
    side = track.training.crop or data.size or side
    if not classes or not side:
        raise LowrankError(
            f"{data.path}: classes and image size are known after preparation only; planning needs "
            f"one of {', '.join(HUB_CLASSES)} or the embedded data."
        )
    return classes, side


@cache
def _measure(
    spec: ModelSpec, factor: FactorSpec | None, shape: tuple[int, int], training: TrainingSpec
) -> tuple[int, int, int | None, int | None, int]:
    """Parameters, forward FLOPs of one example, smallest and largest rank, and bytes of weights,
    gradients and optimiser state."""
    outputs, side = shape
    with torch.device("meta"):
        family = models.family(spec.family)
        model = family.build(spec, outputs)
        if factor is not None:
            factorise(model, spec, factor, seed=0)
        if family.task == "language":
            example = torch.zeros((1, int(spec.context or 0)), dtype=torch.long)
        else:
            example = torch.zeros((1, spec.channels, side, side))
        flops = forward_flops(model, example)
    ranks = [layer.rank for layer in factors(model).values()]
    count = parameter_count(model)
    targets = [target.name for target in family.targets(model)]
    groups = standard_groups(model, training, targets, family.embeddings)
    values = sum(OPTIMIZERS[training.optimizer].values(group) for group in groups)
    size = 4 * (2 * count + values)
    return count, flops, min(ranks, default=None), max(ranks, default=None), size


def measured_speed(published: Path) -> float | None:
    """Training FLOPs a second that published runs reached (median), if there are any."""
    speeds = []
    for folder in sorted(published.glob("*")) if published.is_dir() else []:
        runs = read_published(folder)["runs"]
        speeds += list(runs["training_flops"] / runs["train_seconds"])
    return float(pd.Series(speeds).median()) if speeds else None


def show(table: pd.DataFrame) -> str:
    """The plan as aligned text, with its total."""
    shown = pd.DataFrame(
        {
            "cell": table["cell"],
            "runs": table["runs"],
            "parameters": table["parameters"].map("{:,}".format),
            "kept": table["kept_parameters"].map("{:.2f}".format),
            "ranks": [
                "" if pd.isna(low) else f"{low:.0f}-{high:.0f}"
                for low, high in zip(table["smallest_rank"], table["largest_rank"], strict=True)
            ],
            "forward FLOPs": table["forward_flops"].map("{:.3g}".format),
            "training FLOPs": table["training_flops"].map("{:.3g}".format),
            "hours": table["hours"].map(lambda hours: "" if pd.isna(hours) else f"{hours:.3g}"),
            "state (MB)": (table["state_bytes"] / 1e6).map("{:,.1f}".format),
        }
    )
    total = f"{int(table['runs'].sum())} runs, {table['training_flops'].sum():.3g} training FLOPs"
    if table["hours"].notna().all():
        total += f", {table['hours'].sum():.3g} device-hours"
    else:
        total += "; for hours give --peak, or publish measured runs"
    lines = [shown.to_string(index=False), total, *larger_than_dense(table)]
    return "\n".join(lines)
