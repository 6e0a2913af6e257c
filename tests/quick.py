"""What has to be quick, whatever else the machine does meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any


def in_a_second(call: Callable[[], Any]) -> Any:
    """The value of a call that takes under a second of this thread's CPU time in one of three tries, so that
    neither a collection of garbage nor a guest that the host holds up makes it slow; and never over five.

    Raises:
        AssertionError: all three took longer.
    """
    taken = []
    for _ in range(3):
        started = time.thread_time()
        value = call()
        taken.append(time.thread_time() - started)
        assert taken[-1] < 5
        if taken[-1] < 1:
            return value
    raise AssertionError(f"a second is the limit of CPU time; three tries took {taken} s")
