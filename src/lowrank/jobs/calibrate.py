"""A training step that anyone can time, so that what a scale costs can be said as a multiple of it."""

from __future__ import annotations

import math
import time

import torch

from lowrank.experiment.sections import ModelSpec
from lowrank.jobs.bench import Device, training_step

STEP = ModelSpec(family="gpt2", width=128, depth=2, heads=2, context=64)
TOKENS, BATCH = 1024, 16
WORDS = (
    f"one step of AdamW in float32 on a dense GPT-2 of width {STEP.width}, {STEP.depth} blocks, "
    f"{STEP.context} tokens of {TOKENS:,} and a batch of {BATCH}, on one core"
)


def calibration_step(steps: int = 12) -> float:
    """Seconds of that step on this processor: the least of several, for what else runs only adds to it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        on = Device(torch.device("cpu"), torch.float32, math.nan, math.nan)
        run, _, _ = training_step(on, STEP, TOKENS, BATCH, None, "eager")
        taken = []
        for _ in range(steps):
            started = time.perf_counter()
            run()
            taken.append(time.perf_counter() - started)
    finally:
        torch.set_num_threads(threads)
    return min(taken)
