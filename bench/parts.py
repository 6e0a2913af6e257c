"""What is timed: each part returns rows of a table."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import floors
import torch
import yardsticks
from growth import growth
from pipeline import pipeline, whole
from timing import Elsewhere, Timer, here, race, rows
from torch import nn
from yardsticks import Size

from lowrank.data.images import prepare_images
from lowrank.data.images_spec import ImageSpec
from lowrank.data.spec import TextSpec
from lowrank.data.text import prepare_text
from lowrank.experiment.cell import RunSpec
from lowrank.experiment.config import TrackConfig, read_config
from lowrank.experiment.sections import DecaySpec
from lowrank.factor.convert import choose_rank, factors
from lowrank.factor.dense import Conv1D
from lowrank.factor.layers import from_dense
from lowrank.train import probe
from lowrank.train.loop import Watch, run_steps
from lowrank.train.task import make_task
from lowrank.train.trainer import Trainer

WIDTHS = (64, 256, 768)
RANKS = (0.12, 0.25, 0.62)
Row = dict[str, Any]


@cache
def laptop() -> dict[str, TrackConfig]:
    """The tracks of the laptop scale."""
    return read_config(Path(__file__).parents[1] / "config/laptop.yaml").tracks


@cache
def scratch() -> Path:
    """A folder that lasts as long as this process."""
    folder = tempfile.TemporaryDirectory(prefix="bench-")
    KEPT.append(folder)
    return Path(folder.name)


KEPT: list[Any] = []


@cache
def data(kind: str) -> Path:
    """Prepared data of a track: a million characters of documentation, or digits."""
    folder = scratch() / kind
    asked = laptop()[kind].data
    if isinstance(asked, ImageSpec):
        prepare_images(ImageSpec(size=asked.size), folder)
    else:
        prepare_text(TextSpec(vocabulary=512, max_characters=1_000_000), folder)
    return folder


def trainer(track: str, width: int | None = None, **factor: Any) -> Trainer:
    """A run of a track of the laptop scale, or of 32 x 64 tokens at a width; `factor` are keys of its factor
    section, without any dense."""
    config = laptop()[track]
    model, training = config.model, config.training.model_copy(update={"learning_rate": 1e-3})
    if width:
        model = model.model_copy(update={"width": width, "heads": heads(width), "context": 64})
        training = training.model_copy(update={"batch": 32})
    section = config.factors.model_copy(update=factor) if factor else None
    spec = RunSpec(track=track, model=model, training=training, factors=section, seed=0)
    return Trainer(spec, make_task(spec, data(track), torch.device("cpu")), scratch())


def heads(width: int) -> int:
    """Heads of 32, or of 64 from width 768 on as GPT-2 has them."""
    return width // (64 if width >= 768 else 32)


def step(run: Trainer) -> Timer:
    """Training steps as the pipeline takes them, batch included."""
    return here(lambda: run_steps(run, run.step + 1, Watch()))


def language(seconds: float) -> list[Row]:
    """GPT-2 of two blocks, 32 x 64 tokens of 512: ours dense and in factors against others, and floors."""
    found: list[Row] = []
    for width in WIDTHS:
        size = Size(width, 2, heads(width), 64, 512, 32)
        dense = trainer("language", width)
        calls: dict[str, Timer] = {
            "dense": step(dense),
            "nanoGPT-like": Elsewhere(yardsticks.lean, size),
            "nanoGPT-like, tanh GELU": Elsewhere(yardsticks.lean, size, "tanh"),
            "transformers": Elsewhere(yardsticks.transformers_stock, size),
            "transformers' Trainer": Elsewhere(
                yardsticks.transformers_trainer, size, str(scratch())
            ),
            "floor of dense": here(floors.language_model(size)),
        }
        flops = {}
        for fraction in RANKS:
            low = trainer("language", width, rank_fraction=fraction, decay=DecaySpec(kind="none"))
            ranks = [layer.rank for layer in factors(low.model).values()][:4]
            calls[f"rank {fraction}"] = step(low)
            calls[f"floor of rank {fraction}"] = here(floors.language_model(size, ranks))
            flops[f"rank {fraction}"] = kept_flops(low, dense)
        for row in rows(race(calls, seconds), part="language", width=width):
            found.append({**row, "kept_flops": flops.get(row["name"])})
    return found


def kept_flops(low: Trainer, dense: Trainer) -> float:
    """FLOPs of a forward pass over those of the dense model."""
    from lowrank.factor.flops import forward_flops

    ours, theirs = (forward_flops(run.model, run.task.example()) for run in (low, dense))
    return ours / theirs


def layers(seconds: float) -> list[Row]:
    """A factorised layer forward and backward against the dense one and against its two bare products."""
    found: list[Row] = []
    count = 2048
    for width in WIDTHS:
        shapes = [(width, 3 * width), (width, width), (width, 4 * width), (4 * width, width)]
        for inputs, outputs in shapes:
            dense = Conv1D(outputs, inputs)
            nn.init.normal_(dense.weight)
            nn.init.zeros_(dense.bias)
            x = torch.randn(32, count // 32, inputs, requires_grad=True)
            calls: dict[str, Timer] = {"dense": both_passes(dense, x)}
            flops: dict[str, float] = {}
            for rank in aligned(width):
                for own, note in ((rank, ""), (rank + 1, ", unaligned")):
                    low = from_dense(dense, own)
                    low.set_factors(torch.randn(outputs, own), torch.randn(inputs, own))
                    name = f"rank {own}{note}"
                    calls[name] = both_passes(low, x)
                    flops[name] = own * (inputs + outputs) / (inputs * outputs)
                    if not note:
                        calls[f"floor of {name}"] = here(
                            floors.chain(count, (inputs, own, outputs))
                        )
            shape = f"{inputs} to {outputs}"
            timed = rows(race(calls, seconds / 4), part="layers", width=width, shape=shape)
            found += [{**row, "kept_flops": flops.get(row["name"])} for row in timed]
    return found


def aligned(width: int) -> list[int]:
    """The ranks of the language track's arms at this width."""
    return [choose_rank(width, width, fraction, 16) for fraction in (0.25, 0.62)]


def both_passes(layer: nn.Module, x: torch.Tensor) -> Timer:
    """Forward and backward of one layer."""
    gradient, parameters = torch.randn_like(layer(x)), [x, *layer.parameters()]
    return here(lambda: torch.autograd.grad(layer(x), parameters, gradient))


def images(seconds: float) -> list[Row]:
    """The image tracks of the laptop scale, dense and in factors."""
    found = []
    for track in ("small-images", "large-images"):
        runs = {"dense": trainer(track)}
        for fraction in laptop()[track].studies.initialisation.ranks:
            runs[f"rank {fraction}"] = trainer(track, rank_fraction=fraction)
        runs["spatial"] = trainer(track, matricisation="spatial")
        calls = {name: step(run) for name, run in runs.items()}
        for row in rows(race(calls, seconds), part="images", track=track):
            flops = kept_flops(runs[row["name"]], runs["dense"])
            found.append({**row, "kept_flops": None if row["name"] == "dense" else flops})
    return found


def around(seconds: float) -> list[Row]:
    """What a run does beside steps, as shares of its time in steps: each over one whole run."""
    found = []
    for track in laptop():
        run = trainer(track, decay=DecaySpec(kind="none"))
        training, count = run.training, run.training.steps
        calls = {"step": step(run), "batch": here(partial(run.task.batch, 0, 0, 1))}
        for kind, coupled in (("l2", False), ("frobenius", False), ("frobenius", True)):
            decay = DecaySpec(kind=kind, coupled=coupled)
            name = f"{kind}{' (coupled)' if coupled else ''}"
            calls[f"decay {name}"] = here(decay_alone(trainer(track, decay=decay)))
        before = probe.snapshot(run.model, run.layer_names)
        measure = partial(probe.measure, run.model, run.layer_names, 1e-3, before)
        calls["probe"] = here(measure)
        calls["checkpoint"] = here(partial(run.save, scratch() / "checkpoint"))
        calls["validation"] = here(run.validate)
        times = {"probe": training.probe_points, "validation": training.validation_points}
        times["checkpoint"] = count // training.checkpoint_every
        timings = rows(race(calls, seconds), part="around", track=track)
        whole = count * timings[0]["milliseconds"]
        for row in timings:
            share = times.get(row["name"], count) * row["milliseconds"] / whole
            found.append({**row, "share": share})
    return found


def decay_alone(run: Trainer) -> Callable[[], object]:
    """The decay of a step of a run, without the step."""
    from lowrank.factor.decay import add_decay_, shrink_

    run_steps(run, 1, Watch())
    optimizer, decay = run.optimizer, run.optimizer.factor_decay
    if decay.coupled:
        return lambda: add_decay_(optimizer.factors, decay.kind, 1e-9)
    return lambda: shrink_(optimizer.factors, decay.kind, 1e-9)


PARTS: dict[str, Callable[[float], list[Row]]] = {
    "language": language,
    "layers": layers,
    "images": images,
    "around": around,
    "pipeline": pipeline,
    "growth": growth,
    "whole": whole,
}
"""Every part by name, with the seconds that it may spend on each comparison."""
ASKED_FOR = ("whole",)
"""Parts that take long, and are measured only if they are named."""

warnings.filterwarnings("ignore", "At their rank")
