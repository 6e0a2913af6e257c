"""Trying the methods of a file on small matrices, before any pipeline: `lowrank check ideas/x.py`.

A method fails if it raises, returns what are not two finite tensors of the factors' shapes, changes its
arguments, depends on anything but them, or (an initialisation, a truncation) is of another order of
size than the dense weight. What is merely unusual is told, not judged; so is a method that does not
work on the stacked matrices of grouped convolutions.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from lowrank.errors import LowrankError
from lowrank.experiment.build import build_model
from lowrank.experiment.cell import RunSpec
from lowrank.experiment.extensions import load_file
from lowrank.experiment.sections import FactorSpec, MethodSpec, ModelSpec, TrainingSpec
from lowrank.factor.decay import DECAYS, gradients
from lowrank.factor.init import INITIALISATIONS, initialise
from lowrank.factor.layers import Factorized, matricise
from lowrank.factor.own import in_a_sentence
from lowrank.factor.truncate import TRUNCATIONS, truncate_model
from lowrank.methods import METHODS
from lowrank.train.loop import Watch, run_steps
from lowrank.train.trainer import Trainer

SHAPES = {
    "tall": (24, 8, 4),
    "wide": (8, 24, 4),
    "square": (12, 12, 6),
    "rank 1": (10, 14, 1),
    "full rank": (9, 6, 6),
    "groups": (3, 8, 6, 2),
}
"""(groups,) outputs, inputs and rank of the matrices that are tried."""
SIZES = (1e-3, 1e3)
"""Between what factors of the dense weight's Frobenius norm a product may lie."""


@dataclass(frozen=True)
class Finding:
    """What one trial showed: a number or property, or why it failed."""

    method: str
    name: str
    matrix: str
    found: str
    failed: bool = False


def check_file(path: Path) -> list[Finding]:
    """Import a file and try everything it registers, on matrices of several shapes.

    A file that cannot be imported or registers nothing is a LowrankError.
    """
    registered = load_file(path)
    if not registered:
        raise LowrankError(
            f'{path} registers nothing: decorate a function with @initialisation("name"), '
            '@decay("name") or @truncation("name"), or enter METHODS.add("name", ...).'
        )
    trials: dict[str, Callable[[str, tuple[int, ...]], str]] = {
        INITIALISATIONS.kind: _initialisation,
        DECAYS.kind: _decay,
        TRUNCATIONS.kind: _truncation,
    }
    findings: list[Finding] = []
    for kind, name in registered:
        if kind in trials:
            findings += _tried(kind, name, trials[kind])
        elif kind == METHODS.kind:
            findings.append(_method(name))
        else:  # a study
            findings.append(Finding(kind, name, "", "registered; what it does shows when it runs"))
    return findings


def show(findings: list[Finding]) -> str:
    """The findings as an aligned table."""
    rows = [
        (f.method, f.name, f.matrix, "fails" if f.failed else "passes", f.found) for f in findings
    ]
    width = [max(len(row[column]) for row in rows) for column in range(4)]
    return "\n".join(
        "  ".join([*(text.ljust(size) for text, size in zip(row, width, strict=False)), row[4]])
        for row in rows
    )


def _tried(kind: str, name: str, trial: Callable[[str, tuple[int, ...]], str]) -> Iterator[Finding]:
    for label, shape in SHAPES.items():
        matrix = f"{label}, {' x '.join(map(str, shape[:-1]))}, r {shape[-1]}"
        try:
            yield Finding(kind, name, matrix, trial(name, shape))
        except LowrankError as error:
            grouped = len(shape) > 3
            limit = "not for grouped convolutions, which no model here has: " if grouped else ""
            yield Finding(kind, name, matrix, f"{limit}{error}", failed=not grouped)


class Letters:
    """A task of sixteen letters that follow each other, the same at every step."""

    device, outputs = torch.device("cpu"), 16

    def batch(self, step: int, part: int, parts: int) -> Tensor:
        """Eight lines."""
        return torch.arange(8 * 17).reshape(8, 17) % 16

    def loss(self, model: nn.Module, batch: Tensor) -> Tensor:
        """Cross-entropy of the next letter."""
        logits = model(batch[:, :-1])
        return nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())


class _Losses(Watch):
    """Every step's loss."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def sound(self, rate: float, loss: Tensor, norm: Tensor) -> bool:
        """Note it."""
        self.losses.append(float(loss))
        return True


def _method(name: str) -> Finding:
    """Whether a small language model is built as the method says, on the meta device too, and learns
    in the project's own loop, with all that the method does at a step."""
    shape = "2 blocks, width 32"
    spec = RunSpec(
        track="check",
        model=ModelSpec(family="llama", width=32, depth=2, heads=2, context=16),
        training=TrainingSpec(steps=8, batch=8, learning_rate=0.01),
        factors=FactorSpec(rank_fraction=0.25, rank_multiple=1, method=MethodSpec(name=name)),
        seed=0,
    )
    try:
        with in_a_sentence(METHODS.kind, name, METHODS[name].life):
            with torch.device("meta"):
                shapes = {n: p.shape for n, p in build_model(spec, 16).named_parameters()}
            run = Trainer(spec, cast(Any, Letters()), Path())
            if shapes != {n: p.shape for n, p in run.model.named_parameters()}:
                raise LowrankError("On the meta device it builds other parameters.")
            run.life.start(run)
            run_steps(run, spec.training.steps, heard := _Losses())
            losses = heard.losses
            if not losses[-1] < losses[0]:
                raise LowrankError(f"The loss went from {losses[0]:.3g} to {losses[-1]:.3g}.")
        found = f"loss from {losses[0]:.3g} to {losses[-1]:.3g} in {len(losses)} steps"
        return Finding(METHODS.kind, name, shape, found)
    except LowrankError as error:
        return Finding(METHODS.kind, name, shape, str(error), failed=True)


def _drawn(seed: int, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def _initialisation(name: str, shape: tuple[int, ...]) -> str:
    """The product's size over the dense weight's."""
    *matrix, rank = shape
    weight = 0.05 * _drawn(0, *matrix)

    def draw() -> tuple[Tensor, Tensor]:
        given = weight.clone()
        factors = initialise(name, given, rank, torch.Generator().manual_seed(1))
        if not given.equal(weight):
            raise LowrankError("It changes the weight that it is given: work on a copy.")
        return factors

    U, V = _repeatable(draw, "`generator`")
    ratio = float((U @ V.mT).norm() / weight.norm())
    _of_some_size(ratio)
    return f"size {ratio:.3g} of the dense weight's"


def _truncation(name: str, shape: tuple[int, ...]) -> str:
    """The error of a truncated layer over the least that any truncation to this rank can have."""
    *groups, m, n, rank = shape
    dense: nn.Module = (
        nn.Conv2d(groups[0] * n, groups[0] * m, 1, groups=groups[0]) if groups else nn.Linear(n, m)
    )
    with torch.no_grad():
        for seed, parameter in enumerate(dense.parameters()):
            parameter.copy_(_drawn(seed, *parameter.shape))
    size = (4, groups[0] * n, 2, 2) if groups else (16, n)
    batches = [_drawn(seed, *size) for seed in range(2, 5)]
    weight = matricise(dense, "channel").detach().clone()

    def truncate() -> tuple[Tensor, Tensor]:
        model = nn.Sequential(dense)
        with warnings.catch_warnings(action="ignore"):  # of ranks too large to save anything
            truncate_model(
                model,
                {"0": 1.0},
                method=name,
                rank_fraction=rank / min(m, n),
                rank_multiple=1,
                batches=batches,
                loss=lambda model, batch: model(batch).square().mean(),
            )
        if not matricise(dense, "channel").equal(weight):
            raise LowrankError("It changes the weight that it is given: work on a copy.")
        factorized = cast(Factorized, model[0])
        return factorized.U.detach(), factorized.V.detach()

    U, V = _repeatable(truncate, "weight, rank and statistic")
    size_ratio = float((U @ V.mT).norm() / weight.norm())
    _of_some_size(size_ratio)
    error = float((weight - U @ V.mT).norm() / weight.norm())
    tail = torch.linalg.svdvals(weight)[..., rank:]
    least = float(tail.norm() / weight.norm())
    if error > 1:
        raise LowrankError(f"Its error is {error:.3g} of the weight: leaving it out has 1.")
    return f"error {error:.3g} of the weight, the least is {least:.3g}"


def _decay(name: str, shape: tuple[int, ...]) -> str:
    """Whether the decay is the gradient of a penalty, and whether it makes the factors smaller."""
    *lead, m, n, rank = shape
    U, V = _drawn(0, *lead, m, rank), _drawn(1, *lead, n, rank)

    def take() -> tuple[Tensor, Tensor]:
        given = U.clone(), V.clone()
        found = gradients(name, *given, finite=True)
        if not (given[0].equal(U) and given[1].equal(V)):
            raise LowrankError("It changes the factors that it is given: return new tensors.")
        return found[0].clone(), found[1].clone()

    at_U, at_V = _repeatable(take, "U and V")
    inward = float((at_U * U).sum() + (at_V * V).sum())
    kind = "the gradient of a penalty" if _conservative(name, U, V) else "no gradient of a penalty"
    return f"{kind}, {'shrinks' if inward > 0 else 'does not shrink'} the factors"


def _conservative(name: str, U: Tensor, V: Tensor) -> bool:
    """Whether the Jacobian of the decay is symmetric in random directions, by central differences in
    float64: that of a gradient is."""
    at = U.double(), V.double()

    def along(direction: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        step = 1e-5
        (U, V), (u, v) = at, direction
        ahead = gradients(name, U + step * u, V + step * v)
        behind = gradients(name, U - step * u, V - step * v)
        U_, V_ = (
            (a.double() - b.double()) / (2 * step) for a, b in zip(ahead, behind, strict=True)
        )
        return U_, V_

    def inner(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> float:
        return float(sum((x * y).sum() for x, y in zip(a, b, strict=True)))

    directions = [
        (_drawn(seed, *U.shape, dtype=at[0].dtype), _drawn(seed + 9, *V.shape, dtype=at[0].dtype))
        for seed in range(2, 6)
    ]
    for v, w in pairwise(directions):
        one, other = inner(v, along(w)), inner(w, along(v))
        scale = max(abs(one), abs(other), math.sqrt(inner(v, v) * inner(w, w)) * 1e-3)
        if abs(one - other) > 1e-3 * scale:
            return False
    return True


def _repeatable(draw: Callable[[], tuple[Tensor, Tensor]], source: str) -> tuple[Tensor, Tensor]:
    """What a method returns, twice, whatever torch's global generator holds."""
    results = []
    with torch.random.fork_rng(devices=[]):
        for seed in (0, 1):
            torch.manual_seed(seed)
            results.append(draw())
    (U, V), again = results
    if not (U.equal(again[0]) and V.equal(again[1])):
        raise LowrankError(f"It returns something else each time: let it depend on {source} alone.")
    return U, V


def _of_some_size(ratio: float) -> None:
    if not SIZES[0] <= ratio <= SIZES[1]:
        raise LowrankError(
            f"The product is {ratio:.3g} times as large as the dense weight: between {SIZES[0]:g} "
            f"and {SIZES[1]:g} is expected."
        )
