"""Metrics in words, and numbers as texts: how every table and sentence shows them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from lowrank.experiment import metrics

NONE = "–"
BEYOND = 1e6
"""Shown numbers as large as this are rounded to significant digits, as effects they are none."""
FINEST = 9
"""The most decimals shown."""


@dataclass(frozen=True)
class Measure:
    """A metric in words, and how its differences are shown."""

    name: str
    unit: str
    factor: float
    """From the table's unit to the one shown."""
    digits: int
    pairs: str = "seed"
    """What its pairs are of."""

    def number(self, value: float) -> str:
        """A value of the table, in the unit shown."""
        return number(self.factor * value, self.digits)

    def margin(self, value: float) -> str:
        """A value that was set and not measured, in the unit shown, with every digit that it was set to."""
        if not math.isfinite(value):
            return NONE
        exact, rounded = significant(self.factor * value, 9), self.number(value)
        return rounded if "e" not in exact and len(rounded) >= len(exact) else exact

    def effect(self, size: float) -> str:
        """The size of an effect with its unit: `0.060 nats/token`; empty where it is beyond all measure."""
        if not self.factor * size < BEYOND:
            return ""
        return f"{self.number(size)} {self.unit}".strip()

    def interval(self, low: float, high: float) -> str:
        """`[−0.020, −0.004]`, or a dash without both ends."""
        if not (math.isfinite(low) and math.isfinite(high)):
            return NONE
        return f"[{self.number(low)}, {self.number(high)}]"

    def telling(self, low: float, high: float) -> Measure:
        """The measure with the decimals that tell the ends of an interval (in the table's unit) apart: two
        significant digits of its width, where its own would show none."""
        width = self.factor * (high - low)
        if not 0 < width < math.inf or self.number(low) != self.number(high):
            return self
        digits = 1 - math.floor(math.log10(width))
        return replace(self, digits=digits) if digits <= FINEST else self

    @property
    def heading(self) -> str:
        """`test loss (nats/token)`."""
        return f"{self.name} ({self.unit})" if self.unit else self.name


def measure(name: str, unit: str = "absolute") -> Measure:
    """How the differences of a metric are shown, in the unit of their test: `absolute` (the
    metric's own), `relative` (per cent) or `factor` (times)."""
    known = metrics.metric(name)
    shown = known.unit if known.difference is None else known.difference
    own = Measure(known.label, shown, known.factor, known.digits, known.pairs)
    if unit == "relative":
        return replace(own, unit="%", factor=100.0, digits=1)
    return replace(own, unit="×", factor=1.0, digits=2) if unit == "factor" else own


def number(value: float, digits: int) -> str:
    """Rounded to `digits` decimals, with a true minus sign and no negative zero."""
    if not math.isfinite(value):
        return NONE
    if abs(value) >= BEYOND:
        return significant(value)
    return f"{round(value, digits) + 0.0:.{digits}f}".replace("-", "−")


def significant(value: float, digits: int = 3) -> str:
    """Rounded to significant digits: `0.00123`, `2.73e8`."""
    if not math.isfinite(value):
        return NONE
    text = f"{value:.{digits}g}".replace("-", "−", int(value < 0))
    return text.replace("e+0", "e").replace("e+", "e").replace("e-0", "e-").replace("e-", "e−")


def counted(count: int, word: str) -> str:
    """`1 seed`, `3 seeds`."""
    return f"{count} {word}" if count == 1 else f"{count} {word}s"
