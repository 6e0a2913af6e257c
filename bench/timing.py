"""Timing things against each other: they take turns, so that what else the machine does falls on all."""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

SHORTEST = 0.02
"""Seconds of one turn at least: shorter calls are repeated within it."""
Timer = Callable[[int], float]
"""Seconds a call, over so many calls."""


@dataclass(frozen=True)
class Timing:
    """Milliseconds a call, median and quartiles over the rounds, and the speed relative to the reference:
    the median over rounds of its time over ours, with quartiles."""

    name: str
    milliseconds: float
    low: float
    high: float
    speed: float
    speed_low: float
    speed_high: float


def here(call: Callable[[], object]) -> Timer:
    """Time calls in this process, by its CPU time: one that another process interrupts is not longer for it."""

    def seconds(repeats: int) -> float:
        started = time.process_time()
        for _ in range(repeats):
            call()
        return (time.process_time() - started) / repeats

    return seconds


class Elsewhere:
    """A timer of what `build(*arguments)` returns, in a process of its own, as whoever runs it alone has it:
    without what this one does to its allocator and its arithmetic."""

    def __init__(self, build: Callable[..., Callable[[], object]], *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=_serve, args=(other, build, arguments), daemon=True)
        self.process.start()

    def __call__(self, repeats: int) -> float:
        self.pipe.send(repeats)
        return self.pipe.recv()


def _serve(
    pipe: Any, build: Callable[..., Callable[[], object]], arguments: tuple[Any, ...]
) -> None:
    import torch

    torch.set_num_threads(1)
    timer = here(build(*arguments))
    while True:
        pipe.send(timer(pipe.recv()))


def race(timers: Mapping[str, Timer], seconds: float, fewest: int = 5) -> list[Timing]:
    """Time in rounds for about `seconds`, `fewest` rounds at least; the first timer is the reference."""
    for timer in timers.values():
        timer(1)
    repeats = {n: max(1, round(SHORTEST / max(timer(1), 1e-6))) for n, timer in timers.items()}
    rounds: list[dict[str, float]] = []
    started = time.perf_counter()
    while len(rounds) < fewest or time.perf_counter() - started < seconds:
        rounds.append({name: timer(repeats[name]) for name, timer in timers.items()})
    reference = next(iter(timers))
    found = []
    for name in timers:
        low, middle, high = _quartiles([1e3 * turn[name] for turn in rounds])
        slow, speed, fast = _quartiles([turn[reference] / turn[name] for turn in rounds])
        found.append(Timing(name, middle, low, high, speed, slow, fast))
    for timer in timers.values():
        if isinstance(timer, Elsewhere):
            timer.process.terminate()
    return found


def rows(timings: list[Timing], **facts: Any) -> list[dict[str, Any]]:
    """Timings as rows of a table, each with these facts before it."""
    return [{**facts, **asdict(timing)} for timing in timings]


def _quartiles(values: list[float]) -> tuple[float, float, float]:
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high
