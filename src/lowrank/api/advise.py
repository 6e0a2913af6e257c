"""Does it pay? Dense and factorised layers of a model, timed against each other on this machine.

A layer gets inputs of the shape that the model gives it, forward and backward. The dense layer and its
factorised ones take turns, so that whatever else the machine does falls on all of them alike; a ratio
is the median over turns. FLOPs say where factors ought to be faster, below the break-even rank; the roofline,
which also counts what is read and written, where they could be; the clock says where they are. Whole models:
`lowrank.api.advise_model`.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lowrank.api.advise_words import NONE, counted, markdown
from lowrank.api.choose import MULTIPLE, choose_layers
from lowrank.api.timing import Device, Timed, take_turns
from lowrank.api.transform import moved, run
from lowrank.errors import LowrankError
from lowrank.factor.convert import choose_rank, evaluating
from lowrank.factor.dense import affine
from lowrank.factor.init import initialise
from lowrank.factor.layers import from_dense, matricise

FRACTIONS = (0.0625, 0.125, 0.25, 0.375, 0.5, 0.75)


@dataclass(frozen=True)
class Advice:
    """What factors do for one kind of layer: same class, weight and inputs."""

    names: tuple[str, ...]
    kind: str
    shape: tuple[int, int]
    """(m, n): outputs and inputs of its matrix, or of each group's."""
    inputs: tuple[int, ...]
    """The shape of what it is given."""
    seconds: float
    """Of the dense layer, forward and backward."""
    speed: dict[int, float]
    """By rank: how many times faster than dense; median over the turns."""
    least: float | None = None
    """Seconds that the device's roofline allows the dense layer; None: it was not measured."""
    even_roofline: int | None = None
    """The largest rank that the roofline lets be faster than dense; None: none, or it was not measured."""

    @property
    def even_flops(self) -> float:
        """The rank m n / (m + n) below which factors need fewer FLOPs and parameters."""
        m, n = self.shape
        return m * n / (m + n)

    @property
    def pays_up_to(self) -> int | None:
        """The largest rank measured up to which all are faster than dense; None: not even the lowest."""
        best = None
        for rank in sorted(self.speed):
            if self.speed[rank] <= 1:
                break
            best = rank
        return best


def advise(
    model: nn.Module,
    batch: Any,
    *,
    layers: Iterable[str] | None = None,
    exclude: Iterable[str] = (),
    fractions: Sequence[float] = FRACTIONS,
    turns: int = 9,
    seconds: float = 0.02,
    on: Device | None = None,
) -> list[Advice]:
    """Time every kind of layer that `factorize` would take, dense against factorised.

    `batch` is what the model takes (a mapping of keywords, a tuple, or one tensor): the layers' inputs
    have the shapes that it leads to, and it is moved to the model's device, where the layers are timed
    in the model's precision. An nn.Linear is timed as `lowrank.factor.dense` computes one, which on some
    processors is faster than torch's way. `seconds` is how long each layer runs in a turn; `on`, by
    `lowrank.api.timing.measure_device`, is what the roofline is drawn from. The model is not changed.
    """
    if turns < 1:
        raise LowrankError(f"turns: {turns} is not a number of 1 or more.")
    names = choose_layers(model, layers, exclude)
    shapes = _input_shapes(model, names, moved(batch, model))
    kinds: dict[tuple[str, tuple[int, ...], tuple[int, ...]], list[str]] = {}
    for name in names:
        layer = model.get_submodule(name)
        if name in shapes:
            key = (repr(layer), tuple(layer.weight.shape), shapes[name])  # type: ignore[arg-type]
            kinds.setdefault(key, []).append(name)
    if not kinds:
        raise LowrankError("The batch reaches none of the layers: there is nothing to time.")
    return [
        _advice(model, found, inputs, fractions, turns, seconds, on)
        for (_, _, inputs), found in kinds.items()
    ]


def _advice(
    model: nn.Module,
    names: list[str],
    inputs: tuple[int, ...],
    fractions: Sequence[float],
    turns: int,
    seconds: float,
    on: Device | None,
) -> Advice:
    dense = model.get_submodule(names[0])
    weight = matricise(dense).detach()
    m, n = weight.shape[-2:]
    if isinstance(dense, nn.Embedding):
        x = torch.randint(dense.num_embeddings, inputs, device=weight.device)
    else:
        x = torch.randn(inputs, device=weight.device, dtype=weight.dtype, requires_grad=True)
    timed: dict[int | None, Timed] = {None: _step(dense, x)}
    for rank in sorted({choose_rank(m, n, fraction, MULTIPLE) for fraction in fractions}):
        layer = from_dense(dense, rank)
        layer.set_factors(*initialise("he", weight, rank, torch.Generator().manual_seed(0), 1.0))
        timed[rank] = _step(layer.requires_grad_(True), x)
    taken = take_turns(timed, turns, seconds, weight.device)
    dense_seconds = taken.pop(None)
    speed = {
        rank: statistics.median(d / s for d, s in zip(dense_seconds, found, strict=True))
        for rank, found in taken.items()
        if rank is not None
    }
    middle = statistics.median(dense_seconds)
    advice = Advice(tuple(names), type(dense).__name__, (m, n), inputs, middle, speed)
    if on is None or isinstance(dense, nn.Embedding):  # which multiplies nothing
        return advice
    with torch.no_grad():
        outputs = dense(x).numel()
    groups = weight.shape[0] if weight.ndim == 3 else 1
    least = partial(_least, on, m, n, groups, x.numel(), outputs)
    even = [rank for rank in range(1, min(m, n) + 1) if least(rank) < least(None)]
    return replace(advice, least=least(None), even_roofline=even[-1] if even else None)


def _least(
    on: Device, m: int, n: int, groups: int, inputs: int, outputs: int, rank: int | None
) -> float:
    """Seconds of a layer's bare products at least, given how many numbers go in and come out."""
    rows = outputs / m  # positions times groups
    if rank is None:
        return on.least(2 * rows * m * n, inputs + groups * m * n + outputs)
    between = rows * rank
    first = on.least(2 * rows * n * rank, inputs + groups * n * rank + between)
    return first + on.least(2 * rows * m * rank, between + groups * m * rank + outputs)


def _step(layer: nn.Module, x: Tensor) -> Timed:
    parameters = [p for p in (x, *layer.parameters()) if p.requires_grad]
    compute: Callable[[Tensor], Tensor] = layer
    if type(layer) is nn.Linear:
        # By the library that computes factors, so that the rank is what differs.
        compute = partial(affine, weight=layer.weight, bias=layer.bias)
    with torch.no_grad():
        gradient = torch.ones_like(compute(x))

    def step() -> None:
        torch.autograd.grad(compute(x), parameters, gradient)

    return step


def _input_shapes(model: nn.Module, names: list[str], batch: Any) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}

    def watch(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: tuple[Any, ...]) -> None:
            shapes.setdefault(name, tuple(inputs[0].shape))

        return hook

    handles = [model.get_submodule(name).register_forward_pre_hook(watch(name)) for name in names]
    try:
        with torch.no_grad(), evaluating(model):
            run(model, batch)
    finally:
        for handle in handles:
            handle.remove()
    return shapes


def table(advice: Iterable[Advice]) -> str:
    """The advice as a Markdown table: a row a kind of layer. A speed of 2 is half the dense layer's time."""
    head = ["layers", "kind", "matrix", "dense, ms", "of its roofline"]
    head += ["speed at rank, times dense", "faster up to rank", "by the roofline", "by FLOPs"]
    rows = []
    for found in advice:
        m, n = found.shape
        speeds = ", ".join(f"{rank}: {ratio:.2f}" for rank, ratio in sorted(found.speed.items()))
        reached = NONE if found.least is None else f"{found.least / found.seconds:.0%}"
        limit = NONE if found.least is None else str(found.even_roofline or "none")
        row = [counted(found.names), found.kind, f"{m} x {n}", f"{found.seconds * 1e3:.3f}"]
        row += [reached, speeds, str(found.pays_up_to or "none"), limit, f"{found.even_flops:.0f}"]
        rows.append(row)
    return markdown(head, rows)
