"""Stand-ins for trained runs and their tasks, small enough to compute everything by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from lowrank.experiment.cell import Cell, RunSpec
from lowrank.experiment.sections import EvaluationSpec, ModelSpec, TrainingSpec

MODEL = ModelSpec(family="gpt2", width=8, depth=1, heads=2, context=8)


def cell(arm: str = "dense", **changes: Any) -> Cell:
    """A language cell of ten steps in batches of four, one seed."""
    values = {
        "name": f"language/{arm}",
        "track": "language",
        "studies": ("posthoc",),
        "model": MODEL,
        "training": TrainingSpec(steps=10, batch=4, learning_rate=0.02, accumulation=2),
        "evaluation": EvaluationSpec(validation_examples=11, test_examples=13, batch=5),
        "seeds": (0,),
    }
    return Cell(**{**values, **changes})


class Run:
    """What is read of a finished run: its spec, its result and its model."""

    def __init__(
        self, spec: RunSpec, build: Callable[[], nn.Module], diverged: bool = False
    ) -> None:
        self.spec, self.build, self.folder = spec, build, Path("nowhere")
        self.result = {"diverged": diverged}

    def model(self, outputs: int) -> nn.Module:
        """A fresh copy of the trained model."""
        return self.build()


class Task:
    """Batches that are told apart, and losses that are told beforehand; it notes what it is asked."""

    device = torch.device("cpu")
    digest, outputs = "data", 20

    def __init__(self, loss: Callable[[nn.Module], float] = lambda model: 0.0) -> None:
        self.value, self.asked, self.evaluated, self.trained = loss, [], [], []

    def example(self) -> torch.Tensor:
        return torch.zeros((1, 8), dtype=torch.long)

    def batch(self, step: int, part: int, parts: int) -> Any:
        self.asked.append((step, part, parts))
        draw = torch.Generator().manual_seed(1000 * step + part)
        return torch.randint(20, (4 // parts, 9), generator=draw)

    def loss(self, model: nn.Module, batch: Any) -> torch.Tensor:
        self.trained.append(model.training)
        logits = model(batch[:, :-1])
        return nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())

    def evaluate(self, model: nn.Module, split: str, limit: int, batch: int) -> dict[str, float]:
        self.evaluated.append((split, limit, batch))
        return {"loss": self.value(model)}

    def predictions(self, model: nn.Module, split: str, limit: int, batch: int) -> torch.Tensor:
        return model(self.batch(0, 0, 1)[:, :-1]).argmax(-1).flatten()


def install(monkeypatch, module, runs: dict[str, list[Run]], task: Task) -> SimpleNamespace:
    """Let `module` find these runs by the name of the cell, and this task, and keep nothing with them."""
    monkeypatch.setattr(module, "runs_of", lambda cell, *_: runs[cell.name])
    monkeypatch.setattr(module, "make_task", lambda *_: task)
    monkeypatch.setattr(module, "kept_beside", lambda runs, name, key, find: find())
    return SimpleNamespace(task=task)
