"""What a sweep tried and found."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lowrank.files import damaged, read_sealed


def mean_losses(rows: Iterable[Mapping[str, Any]], choice: str) -> dict[float, float]:
    """For each value that was tried the mean validation loss over seeds; infinite where a run diverged."""
    found: dict[float, list[float]] = defaultdict(list)
    for row in rows:
        loss = row["validation_loss"]
        found[float(row[choice])].append(math.inf if loss is None else loss)
    return {value: math.fsum(losses) / len(losses) for value, losses in found.items()}


def read_sweep(path: Path) -> dict[str, Any]:
    """A sweep's result; one that is damaged, or another arm's, is a LowrankError that names it."""
    what = "the result of a sweep, results/<scale>/rates/<sweep>.json"
    result = read_sealed(path, what)
    try:
        choice, group = result["choice"], str(result["group"])
        if "seed" in result:  # as long as there was but one
            result["rates"] = [{"seed": result["seed"], **row} for row in result["rates"]]
        losses = mean_losses(result["rates"], choice)
        best = result[choice]
        consistent = losses[best] == min(losses.values()) < math.inf and "at_edge" in result
        seeds = all("seed" in row for row in result["rates"])
    except (KeyError, TypeError, ValueError) as error:
        raise damaged(path, f"{type(error).__name__}: {error}", what=what) from None
    if not consistent:
        raise damaged(path, f"{best} is not the best of what it tried", what=what)
    if not seeds:
        raise damaged(path, "it does not name the seed of each run", what=what)
    if not path.absolute().as_posix().endswith(f"/{group}.json"):
        raise damaged(path, f"it is the sweep of {group}", what=what)
    return result
