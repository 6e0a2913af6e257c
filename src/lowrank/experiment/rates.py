"""Reading what a sweep wrote."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from lowrank.files import damaged, read_sealed


def read_sweep(path: Path) -> dict[str, Any]:
    """A sweep's result; one that is damaged, or another arm's, is a LowrankError that names it."""
    what = "the result of a sweep, results/<scale>/rates/<sweep>.json"
    result = read_sealed(path, what)
    try:
        choice, group = result["choice"], str(result["group"])
        losses = {
            float(row[choice]): math.inf
            if row["validation_loss"] is None
            else row["validation_loss"]
            for row in result["rates"]
        }
        best = result[choice]
        consistent = losses[best] == min(losses.values()) < math.inf and "at_edge" in result
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(path, f"{type(error).__name__}: {error}", what=what) from None
    if not consistent:
        raise damaged(path, f"{best} is not the best of what it tried", what=what)
    if not path.absolute().as_posix().endswith(f"/{group}.json"):
        raise damaged(path, f"it is the sweep of {group}", what=what)
    return result
