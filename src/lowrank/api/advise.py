"""Does it pay? Dense and factorised layers of a model, timed against each other on this machine.

A layer gets inputs of the shape that the model gives it, forward and backward. The dense layer and its
factorised ones take turns, so that whatever else the machine does falls on all of them alike; a ratio
is the median over turns. FLOPs say where factors ought to be faster, below the break-even rank; the
clock says where they are.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lowrank.api.choose import MULTIPLE, choose_layers
from lowrank.api.transform import moved, run
from lowrank.errors import LowrankError
from lowrank.factor.convert import choose_rank, evaluating
from lowrank.factor.dense import affine
from lowrank.factor.init import initialise
from lowrank.factor.layers import from_dense, matricise

FRACTIONS = (0.0625, 0.125, 0.25, 0.375, 0.5, 0.75)
Timed = Callable[[], Any]


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
) -> list[Advice]:
    """Time every kind of layer that `factorize` would take, dense against factorised.

    `batch` is what the model takes (a mapping of keywords, a tuple, or one tensor): the layers' inputs
    have the shapes that it leads to, and it is moved to the model's device, where the layers are timed
    in the model's precision. An nn.Linear is timed as `lowrank.factor.dense` computes one, which on some
    processors is faster than torch's way. `seconds` is how long each layer runs in a turn. The model is not changed.
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
        _advice(model, found, inputs, fractions, turns, seconds)
        for (_, _, inputs), found in kinds.items()
    ]


def _advice(
    model: nn.Module,
    names: list[str],
    inputs: tuple[int, ...],
    fractions: Sequence[float],
    turns: int,
    seconds: float,
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
    return Advice(
        tuple(names), type(dense).__name__, (m, n), inputs, statistics.median(dense_seconds), speed
    )


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


def take_turns(
    timed: dict[Any, Timed], turns: int, seconds: float, device: torch.device
) -> dict[Any, list[float]]:
    """Seconds a call of each function, one figure a turn; a turn calls each for about `seconds`."""

    def measure(function: Timed, calls: int) -> float:
        _wait(device)
        started = time.perf_counter()
        for _ in range(calls):
            function()
        _wait(device)
        return (time.perf_counter() - started) / calls

    calls = {}
    for key, function in timed.items():
        function()  # the first call allocates and chooses kernels
        calls[key] = max(1, round(seconds / max(measure(function, 1), 1e-9)))
    taken: dict[Any, list[float]] = {key: [] for key in timed}
    for _ in range(turns):
        for key, function in timed.items():
            taken[key].append(measure(function, calls[key]))
    return taken


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


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
    """The advice as a Markdown table: a row a kind of layer, times dense speed at each rank."""
    lines = [
        "| layers | kind | matrix | dense, ms | times its speed at rank | faster up to rank | even FLOPs at |",
        "|---|---|---|---|---|---|---|",
    ]
    for found in advice:
        m, n = found.shape
        speeds = ", ".join(f"{rank}: {ratio:.2f}" for rank, ratio in sorted(found.speed.items()))
        lines.append(
            f"| {_names(found.names)} | {found.kind} | {m} x {n} | {found.seconds * 1e3:.2f} | {speeds} | "
            f"{found.pays_up_to or 'none'} | {found.even_flops:.0f} |"
        )
    return "\n".join(lines)


def _names(names: tuple[str, ...]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} alike"
