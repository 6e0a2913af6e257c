"""What a track trains on: batches, loss and held-out evaluation.

A batch is a function of seed and step alone, so a run resumes at a step without any data state, and
seed k sees the same data in the same order in every cell.
"""

from __future__ import annotations

import contextlib
import math
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lowrank.data.augment import Augment
from lowrank.data.images import load_images
from lowrank.data.text import load_text
from lowrank.errors import LowrankError
from lowrank.experiment.cell import RunSpec
from lowrank.experiment.metrics import task_of
from lowrank.train import order


class Task(Protocol):
    """The interface of a track's task."""

    device: torch.device
    digest: str
    outputs: int

    def example(self) -> Tensor:
        """One model input (batch of 1), for counting FLOPs."""
        ...

    def batch(self, step: int, part: int, parts: int) -> Any:
        """Part `part` of `parts` of a step's batch, whichever device computes it."""
        ...

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """The mean training loss of a batch."""
        ...

    def evaluate(self, model: nn.Module, split: str, limit: int, batch: int) -> dict[str, float]:
        """Held-out metrics over at most `limit` examples spread evenly over the split."""
        ...

    def predictions(self, model: nn.Module, split: str, limit: int, batch: int) -> Tensor:
        """The likeliest class or next token at every position that `evaluate` reads, one after the other."""
        ...

    def possible(self, metrics: dict[str, float], split: str, limit: int) -> bool:
        """Whether `evaluate` can have returned these metrics, of whatever model."""
        ...


def example_indices(seed: int, step: int, batch: int, examples: int) -> np.ndarray:
    """The examples of a step: each epoch is a fresh permutation that depends on seed and epoch."""
    if batch > examples:
        raise LowrankError(
            f"training.batch: {batch} is more than the {examples} training examples."
        )
    first = step * batch
    positions = np.arange(first, first + batch)
    return np.concatenate(
        [
            order.shown(
                seed, int(epoch), examples, positions[positions // examples == epoch] % examples
            )
            for epoch in np.unique(positions // examples)
        ]
    )


def _spread(available: int, limit: int, batch: int) -> list[np.ndarray]:
    """At most `limit` of the held-out examples, spread evenly over all, in parts of about `batch`."""
    chosen = np.linspace(0, available - 1, min(limit, available)).astype(int)
    return np.array_split(chosen, math.ceil(len(chosen) / batch))


def _part(indices: np.ndarray, part: int, parts: int) -> np.ndarray:
    if len(indices) % parts:
        raise LowrankError(
            f"training.batch: {len(indices)} examples do not split in {parts} equal parts, one for "
            "each of accumulation on each of devices."
        )
    return np.split(indices, parts)[part]


class _Common:
    def __init__(self, spec: RunSpec, device: torch.device) -> None:
        self.spec, self.device = spec, device
        precision = spec.training.precision
        self.autocast = precision == "bfloat16" or (precision == "auto" and device.type == "cuda")

    def precision(self) -> contextlib.AbstractContextManager[Any]:
        """bfloat16 autocast where the spec asks for it."""
        if not self.autocast:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, torch.bfloat16)


class LanguageTask(_Common):
    """Next-token prediction over windows of `context` tokens."""

    def __init__(self, spec: RunSpec, folder: Path, device: torch.device) -> None:
        super().__init__(spec, device)
        self.data = load_text(folder)
        self.digest = self.data.digest
        self.outputs = self.data.vocabulary
        self.context = int(spec.model.context or 0)
        for split, tokens in self.data.tokens.items():
            if len(tokens) <= self.context:
                raise LowrankError(
                    f"model.context: {self.context} tokens do not fit in the {split} split, which "
                    f"has {len(tokens)}; choose a shorter context or more data."
                )

    def example(self) -> Tensor:
        return torch.zeros((1, self.context), dtype=torch.long)

    def examples(self, split: str) -> int:
        """Windows in a split."""
        return (len(self.data.tokens[split]) - 1) // self.context

    def _windows(self, split: str, indices: np.ndarray) -> Tensor:
        tokens = self.data.batch(split, indices * self.context, self.context)
        if self.device.type == "cuda":
            return tokens.pin_memory().to(self.device, non_blocking=True)
        return tokens

    def batch(self, step: int, part: int = 0, parts: int = 1) -> Tensor:
        size, seed = self.spec.training.batch, self.spec.seed
        indices = example_indices(seed, step, size, self.examples("train"))
        return self._windows("train", _part(indices, part, parts))

    def loss(self, model: nn.Module, batch: Tensor) -> Tensor:
        with self.precision():
            return model(batch[:, :-1], batch[:, 1:])

    @torch.no_grad()
    def evaluate(self, model: nn.Module, split: str, limit: int, batch: int) -> dict[str, float]:
        """`loss` in nats a token, perplexity a token and a word, bits a byte."""
        model.eval()
        parts = _spread(self.examples(split), limit, batch)
        losses = [self.loss(model, self._windows(split, part)) * len(part) for part in parts]
        model.train()
        loss = float(torch.stack(losses).sum() / sum(map(len, parts)))
        return {"loss": loss, **self.data.measures(split, loss)}

    @torch.no_grad()
    def predictions(self, model: nn.Module, split: str, limit: int, batch: int) -> Tensor:
        """The likeliest token at each position of the windows that `evaluate` reads."""
        model.eval()
        found = []
        for part in _spread(self.examples(split), limit, batch):
            with self.precision():
                logits = model(self._windows(split, part)[:, :-1])
            found.append(logits.argmax(-1).flatten())
        model.train()
        return torch.cat(found)

    def possible(self, metrics: dict[str, float], split: str, limit: int) -> bool:
        """Whether perplexities and bits are those of the loss."""
        loss = metrics.get("loss", math.nan)
        expected = {"loss": loss, **self.data.measures(split, loss)}
        return metrics.keys() == expected.keys() and all(
            math.isclose(metrics[name], value, rel_tol=1e-6) or not math.isfinite(value)
            for name, value in expected.items()
        )


class ImageTask(_Common):
    """Classification of images, augmented in batches on the device."""

    def __init__(self, spec: RunSpec, folder: Path, device: torch.device) -> None:
        super().__init__(spec, device)
        self.data = load_images(folder)
        self.digest = self.data.digest
        self.outputs = len(self.data.classes)
        training = spec.training
        channels = len(self.data.manifest["mean"])
        if channels != spec.model.channels:
            raise LowrankError(
                f"model.channels: {spec.model.channels}, but the images have {channels}."
            )
        self.augment = Augment(
            self.data.manifest["mean"],
            self.data.manifest["std"],
            padding=training.pad,
            flip=training.flip,
            random_resized_crop=training.random_resized_crop,
            crop=training.crop,
            channels_last=training.channels_last,
        )
        self._splits: dict[str, tuple[Any, Any]] = {}
        seen, wanted = tuple(self.example().shape[2:]), spec.model.image_size
        if wanted is not None and seen != (wanted, wanted):
            raise LowrankError(
                f"model.image_size: {wanted}, but the model sees images of {seen[0]} x {seen[1]}: "
                "give their size, or crop them to it with training.crop."
            )

    def example(self) -> Tensor:
        height, width, channels = self.data.images["train"].shape[1:]
        side = self.spec.training.crop
        return torch.zeros((1, channels, side or height, side or width))

    def _split(self, split: str) -> tuple[Any, Any]:
        if split not in self._splits:
            self._splits[split] = (
                self.data.tensor(split, self.device),
                torch.from_numpy(np.array(self.data.labels[split])).to(self.device),
            )
        return self._splits[split]

    def _take(self, split: str, indices: np.ndarray) -> tuple[Tensor, Tensor]:
        images, labels = self._split(split)
        chosen = torch.from_numpy(indices).to(labels.device)
        if isinstance(images, Tensor):
            return images[chosen], labels[chosen]
        pixels = torch.from_numpy(np.ascontiguousarray(images[indices])).to(self.device)
        return pixels, labels[chosen]

    def batch(self, step: int, part: int = 0, parts: int = 1) -> tuple[Tensor, Tensor]:
        size, seed = self.spec.training.batch, self.spec.seed
        indices = example_indices(seed, step, size, len(self.data.labels["train"]))
        images, labels = self._take("train", _part(indices, part, parts))
        generator = torch.Generator()  # on the host, so that every device crops alike
        generator.manual_seed(((seed * 1_000_003 + step) * 1_009 + part) % 2**63)
        return self.augment(images, generator), labels

    def loss(self, model: nn.Module, batch: tuple[Tensor, Tensor]) -> Tensor:
        with self.precision():
            logits = model(batch[0])
        smoothing = self.spec.training.label_smoothing
        return F.cross_entropy(logits.float(), batch[1], label_smoothing=smoothing)

    @torch.no_grad()
    def evaluate(self, model: nn.Module, split: str, limit: int, batch: int) -> dict[str, float]:
        """`loss` in nats an image (no label smoothing) and top-1 `accuracy` in 0..1."""
        parts = _spread(len(self.data.labels[split]), limit, batch)
        model.eval()
        loss = torch.zeros((), device=self.device)
        correct = torch.zeros((), device=self.device)
        for part in parts:
            images, labels = self._take(split, part)
            with self.precision():
                logits = model(self.augment.evaluate(images))
            loss += F.cross_entropy(logits.float(), labels, reduction="sum")
            correct += (logits.argmax(-1) == labels).sum()
        model.train()
        count = sum(map(len, parts))
        return {"loss": float(loss) / count, "accuracy": float(correct) / count}

    @torch.no_grad()
    def predictions(self, model: nn.Module, split: str, limit: int, batch: int) -> Tensor:
        """The likeliest class of each image that `evaluate` reads."""
        model.eval()
        found = []
        for part in _spread(len(self.data.labels[split]), limit, batch):
            images, _ = self._take(split, part)
            with self.precision():
                found.append(model(self.augment.evaluate(images)).argmax(-1))
        model.train()
        return torch.cat(found)

    def possible(self, metrics: dict[str, float], split: str, limit: int) -> bool:
        """Whether the accuracy is that of a whole number of images."""
        if metrics.keys() != {"loss", "accuracy"} or not 0 <= metrics["accuracy"] <= 1:
            return False
        correct = metrics["accuracy"] * min(limit, len(self.data.labels[split]))
        return math.isclose(correct, round(correct), abs_tol=1e-3)


def make_task(spec: RunSpec, folder: Path, device: torch.device) -> Task:
    """The task of a run over the prepared data in `folder`."""
    kind = LanguageTask if task_of(spec.model.family).language else ImageTask
    return kind(spec, folder, device)
