"""Timing things against each other: they take turns, so that what else the machine does falls on all."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

SHORTEST = 0.02
"""Seconds of one turn at least: shorter calls are repeated within it."""


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


def race(
    calls: Mapping[str, Callable[[], object]], seconds: float, fewest: int = 5
) -> list[Timing]:
    """Time calls in rounds for about `seconds`, `fewest` rounds at least; the first is the reference.

    CPU time of this process: a turn that another process interrupts is not longer for it.
    """
    for call in calls.values():
        call()
    repeats = {}
    for name, call in calls.items():
        repeats[name] = max(1, round(SHORTEST / max(_time(call, 1), 1e-6)))
    rounds: list[dict[str, float]] = []
    started = time.perf_counter()
    while len(rounds) < fewest or time.perf_counter() - started < seconds:
        rounds.append({name: _time(call, repeats[name]) for name, call in calls.items()})
    reference = next(iter(calls))
    found = []
    for name in calls:
        low, middle, high = _quartiles([1e3 * turn[name] for turn in rounds])
        slow, speed, fast = _quartiles([turn[reference] / turn[name] for turn in rounds])
        found.append(Timing(name, middle, low, high, speed, slow, fast))
    return found


def rows(timings: list[Timing], **facts: Any) -> list[dict[str, Any]]:
    """Timings as rows of a table, each with these facts before it."""
    return [{**facts, **asdict(timing)} for timing in timings]


def _time(call: Callable[[], object], repeats: int) -> float:
    started = time.process_time()
    for _ in range(repeats):
        call()
    return (time.process_time() - started) / repeats


def _quartiles(values: list[float]) -> tuple[float, float, float]:
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high
