"""Learning rate as a function of the step alone, so that a resumed run needs no scheduler state."""

from __future__ import annotations

import math

from lowrank.experiment.sections import TrainingSpec
from lowrank.experiment.shares import nearest, reached


def learning_rate(step: int, spec: TrainingSpec) -> float:
    """The rate of the step that starts after `step` finished ones: linear warm-up to the peak, then
    cosine to `final` times the peak at the last step, or drops at the milestones."""
    assert spec.learning_rate is not None, "the learning rate is resolved before training"
    peak, total = spec.learning_rate, spec.steps
    warmup, last = nearest(spec.warmup, total), spec.steps - 1
    if step < warmup:
        return peak * (step + 1) / warmup
    if spec.schedule == "step":
        return peak * spec.drop ** sum(step >= reached(mark, total) for mark in spec.milestones)
    progress = (step - warmup) / (last - warmup) if step < last else 1.0
    return peak * (spec.final + (1 - spec.final) * (1 + math.cos(math.pi * progress)) / 2)
