"""Contestants that take turns, and how far a device goes at best.

Peak FLOPs and bandwidth are measured by a large product and a large copy, in the precision of training. A
bound is the larger of FLOPs over peak and bytes over bandwidth, of bare products, forward and backward.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch

Timed = Callable[[], Any]


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


@dataclass(frozen=True)
class Device:
    """Where it is measured, in which precision, and how far this goes."""

    device: torch.device
    dtype: torch.dtype
    flops: float
    """FLOPs a second of a large product."""
    bandwidth: float
    """Bytes a second that a large copy reads and writes."""

    def least(self, flops: float, numbers: float) -> float:
        """Seconds of a product of so many FLOPs that reads and writes so many numbers, with the two of its
        backward pass, which are as large."""
        return 3 * max(flops / self.flops, self.dtype.itemsize * numbers / self.bandwidth)

    def bound(self, rows: int, sizes: Sequence[int]) -> float:
        """Seconds of the products of a chain of matrices, forward and backward, at least."""
        return sum(
            self.least(2 * rows * a * b, rows * a + a * b + rows * b) for a, b in pairwise(sizes)
        )


def measure_device(
    device: torch.device, size: int, turns: int, seconds: float, dtype: torch.dtype | None = None
) -> Device:
    """The device's peak FLOPs and bandwidth, by a product and a copy of size x size; without a `dtype` in
    bfloat16 on a GPU and in float32 elsewhere."""
    dtype = dtype or (torch.bfloat16 if device.type == "cuda" else torch.float32)
    a, b, out = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(3))
    calls: dict[str, Callable[[], Any]] = {
        "product": lambda: torch.matmul(a, b, out=out),
        "copy": lambda: out.copy_(a),
    }
    taken = {k: min(v) for k, v in take_turns(calls, turns, seconds, device).items()}
    moved = 2 * a.numel() * a.element_size()
    return Device(device, dtype, 2 * size**3 / taken["product"], moved / taken["copy"])
