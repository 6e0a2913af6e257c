"""Progress of long loops: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from types import TracebackType
from typing import TextIO

from tqdm import tqdm


def say(sentence: str) -> None:
    """Tell the user what is no error but should be known."""
    tqdm.write(f"Note: {sentence}", file=sys.stderr)


def some(items: Iterable[object], most: int = 3) -> str:
    """The first names of a list, and how many more there are."""
    names = [getattr(item, "name", None) or str(item) for item in items]
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


class Progress:
    """Count work done: `with Progress("Reading", 9, "files") as progress: progress.advance(1)`.

    On a terminal this is a tqdm bar that disappears at the end. Anywhere else it writes one whole
    line per `interval` seconds, so that a log stays readable, and nothing for work that is shorter.
    """

    def __init__(
        self,
        label: str,
        total: int,
        unit: str,
        *,
        interval: float = 10.0,
        stream: TextIO | None = None,
    ) -> None:
        self.label, self.total, self.unit, self.interval = label, total, unit, interval
        self.stream = stream if stream is not None else sys.stderr
        self.done = 0
        self.spoke = time.monotonic()
        self.bar: tqdm | None = None
        if self.stream.isatty():
            self.bar = tqdm(
                desc=label,
                total=total,
                unit=f" {unit}",
                unit_scale=True,
                leave=False,
                file=self.stream,
            )

    def __enter__(self) -> Progress:
        return self

    def advance(self, amount: int = 1) -> None:
        """Add to the work done, and show it if it is time to."""
        self.done += amount
        if self.bar is not None:
            self.bar.update(amount)
            return
        now = time.monotonic()
        if now - self.spoke >= self.interval:
            self.spoke = now
            share = f" ({100 * self.done / self.total:.0f} %)" if self.total else ""
            line = f"{self.label}: {self.done:,} of {self.total:,} {self.unit}{share}"
            print(line, file=self.stream, flush=True)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.bar is not None:
            self.bar.close()
