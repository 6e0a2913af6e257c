"""What a run costs, from shapes alone: its models are built on the meta device, which holds no values."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from lowrank.data.images_spec import ImageSpec
from lowrank.data.spec import TextSpec
from lowrank.errors import LowrankError
from lowrank.experiment.build import build_model
from lowrank.experiment.cell import RunSpec
from lowrank.experiment.metrics import task_of
from lowrank.experiment.track import Track
from lowrank.factor.convert import factors, parameter_count
from lowrank.factor.flops import forward_flops, saved_flops
from lowrank.methods import begin
from lowrank.optimizers import OPTIMIZERS

PRETRAINED_VOCABULARY = 50_257
"""Tokens assumed for a pretrained tokeniser (GPT-2's)."""
CLASSES = {"cifar100": (100, 32), "imagenet-1k": (1000, 224)}
"""Classes and image side of data sets by the last part of their name on the hub, or of the folder of a copy."""


def shape(track: Track) -> tuple[int, int]:
    """Outputs (tokens or classes) and, for images, the side the model sees (text: 0)."""
    data = track.data
    if isinstance(data, TextSpec):
        return (PRETRAINED_VOCABULARY if data.tokenizer else data.vocabulary), 0
    assert isinstance(data, ImageSpec)
    classes, side = (
        (10, 8) if data.source == "embedded" else CLASSES.get(Path(data.path or "").name, (0, 0))
    )
    side = track.training.crop or data.size or side
    if not classes or not side:
        raise LowrankError(
            f"{data.path}: classes and image size are known after preparation only; planning needs "
            f"a data set called {' or '.join(CLASSES)}, or the embedded data."
        )
    return classes, side


@dataclass(frozen=True)
class Size:
    """What shapes alone tell of a model."""

    parameters: int
    flops: int
    """Of the forward pass of one example."""
    saved: int
    """What its backward pass saves at weights that are not trained."""
    smallest_rank: int | None
    largest_rank: int | None
    state_bytes: int
    """Weights, gradients and optimiser state."""


@cache
def sizes(run: str, shape: tuple[int, int]) -> list[tuple[int, Size]]:
    """The model of a run (JSON), from each step on at which it becomes another; where the run decides on
    that, the most that it may cost."""
    spec = RunSpec.model_validate_json(run)
    life, (outputs, side), found = begin(spec), shape, []
    for first, convert in life.expected():
        with torch.device("meta"):
            model = build_model(spec, outputs, converted=False)
            convert(model)
            if task_of(spec.model.family).language:
                example = torch.zeros((1, int(spec.model.context or 0)), dtype=torch.long)
            else:
                example = torch.zeros((1, spec.model.channels, side, side))
            flops, saved = forward_flops(model, example), saved_flops(model, example)
        ranks = [layer.rank for layer in factors(model).values()]
        count = parameter_count(model)
        values = sum(
            (group.optimizer or OPTIMIZERS[spec.training.optimizer]).values(group)
            + sum(parameter.numel() for parameter in group.parameters.values())
            for group in life.groups(model)
        )
        size = 4 * (count + values)
        low, high = min(ranks, default=None), max(ranks, default=None)
        found.append((first, Size(count, flops, saved, low, high, size)))
    return found


def training_flops(spec: RunSpec, shape: tuple[int, int]) -> float:
    """FLOPs of a whole run, a backward pass counted as two forward ones less what is not trained."""
    phases, training = sizes(spec.model_dump_json(), shape), spec.training
    starts = [first / training.steps for first, _ in phases]
    shares = [end - start for start, end in zip(starts, [*starts[1:], 1.0], strict=True)]
    passes = begin(spec).passes * training.steps * training.batch
    forward = sum(share * size.flops for share, (_, size) in zip(shares, phases, strict=True))
    saved = sum(share * size.saved for share, (_, size) in zip(shares, phases, strict=True))
    return 3 * passes * forward - passes * saved
