"""What is measured, and what a track is measured by: one record a metric, one a task.

A track's name is free; what it *is* follows from its model family. Tables, claims, figures and the
report ask the task, never the name.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from lowrank.models import FAMILIES


@dataclass(frozen=True)
class Metric:
    """A column of numbers: what it is called, which way is better, and how it is shown."""

    name: str
    """The column."""
    label: str
    """In words."""
    unit: str = ""
    """The unit shown."""
    better: int = 0
    """+1 where more is better, -1 where less is, 0 where neither."""
    factor: float = 1.0
    """From the tables' unit to the one shown."""
    digits: int = 3
    """Decimals shown, in the unit shown."""
    difference: str | None = None
    """The unit of a difference, where it has a name of its own."""
    pairs: str = "seed"
    """What its paired values are of."""
    least: float = -math.inf
    most: float = math.inf
    """What it cannot pass: an interval ends there at the latest."""


METRICS = {
    metric.name: metric
    for metric in (
        Metric("test_loss", "test loss", "nats/token", better=-1, least=0),
        Metric("test_perplexity", "perplexity", digits=2, better=-1, least=0),
        Metric("test_word_perplexity", "word perplexity", digits=1, better=-1, least=0),
        Metric("test_bits_per_byte", "bits/byte", better=-1, least=0),
        Metric(
            "test_accuracy", "test top-1", "%", 1, 100.0, 2, difference="points", least=0, most=1
        ),
        Metric("stale_test_loss", "with old batch norm", better=-1, least=0),
        Metric("stale_test_accuracy", "with old batch norm", "%", 1, 100.0, 2, least=0, most=1),
        Metric("validation_loss", "validation loss", better=-1, least=0),
        Metric("validation_accuracy", "validation top-1", "%", 1, 100.0, 2, least=0, most=1),
        Metric("loss", "loss", better=-1, least=0),
        Metric("effective_rank", "effective rank", digits=2, least=0),
        Metric("entropy_rank", "entropy rank", digits=2, least=0),
        Metric("stable_rank", "stable rank", digits=2, least=0),
        Metric("product_norm", "norm of the product", least=0),
        Metric("barrier", "barrier", better=-1),
        Metric("distance", "distance to dense", "of the dense norm", digits=2, least=0),
        Metric("kept_parameters", "kept parameters", better=-1, digits=2),
        Metric("flops_per_position", "FLOPs of a token or image", better=-1),
        Metric("train_seconds", "training time", "s", better=-1, digits=2, least=0),
        Metric("step_seconds", "speed of a step", better=-1, pairs="round", least=0),
        Metric("state_bytes", "bytes of state", digits=0, pairs="round"),
        Metric("peak_memory_bytes", "peak memory", better=-1, digits=0),
    )
}
DIRECTED = {name for name, metric in METRICS.items() if metric.better}
"""The metrics that have a better side."""


def metric(name: str) -> Metric:
    """The record of a metric; of one that has none, its column in words."""
    return METRICS.get(name, Metric(name, name.replace("_", " ")))


@dataclass(frozen=True)
class PaperMetric:
    """A metric in which the paper gives its numbers."""

    column: str
    """Ours of the same meaning."""
    factor: float
    """To the paper's unit."""
    judged: str
    """The metric of the claims' tests that it stands beside."""
    logarithmic: bool
    """Compared by logarithms: a perplexity's is a loss."""
    difference: str
    """The unit of its differences."""


PAPER_METRICS = {
    "perplexity": PaperMetric("test_perplexity", 1.0, "test_loss", True, "nats"),
    "top-1 (%)": PaperMetric("test_accuracy", 100.0, "test_accuracy", False, "points"),
}


@dataclass(frozen=True)
class Task:
    """What a track's models are trained for, and what its arms are compared by."""

    name: str
    data: str
    """The kind of data it needs."""
    quality: str
    """The metric by which arms are compared."""
    beside: tuple[str, ...]
    """Metrics reported beside it."""
    compared: tuple[str, ...]
    """Metrics of which every contrast is tested."""
    loss_unit: str
    language: bool = False
    """Whether losses may be read as perplexities, and n-gram models are a bar to clear."""


TASKS = {
    task.name: task
    for task in (
        Task(
            "language",
            data="text",
            quality="test_loss",
            beside=("test_perplexity", "test_word_perplexity", "test_bits_per_byte"),
            compared=("test_loss", "effective_rank"),
            loss_unit="nats/token",
            language=True,
        ),
        Task(
            "images",
            data="images",
            quality="test_accuracy",
            beside=("test_loss",),
            compared=("test_accuracy", "test_loss", "effective_rank"),
            loss_unit="nats/image",
        ),
    )
}


def task_of(family: str) -> Task:
    """The task of a model family; LowrankError names the nearest family."""
    return TASKS[FAMILIES[family].task]
