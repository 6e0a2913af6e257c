"""Learning rate as a function of the step alone, so that a resumed run needs no scheduler state."""

from __future__ import annotations

import math

from lowrank.study.sections import TrainingSpec


def learning_rate(step: int, spec: TrainingSpec) -> float:
    """The rate of the step that starts after `step` finished ones: linear warm-up to the peak, then
    cosine to `final` times the peak, or drops at the milestones."""
    assert spec.learning_rate is not None, "the learning rate is resolved before training"
    peak, total = spec.learning_rate, spec.steps
    warmup = round(spec.warmup * total)
    if step < warmup:
        return peak * (step + 1) / warmup
    if spec.schedule == "step":
        return peak * spec.drop ** sum(step >= share * total for share in spec.milestones)
    progress = (step - warmup) / max(1, total - warmup)
    return peak * (spec.final + (1 - spec.final) * (1 + math.cos(math.pi * progress)) / 2)
