"""What is true of an arm, as columns: tables, claims and figures tell arms apart by these.

An arm's name is for readers; nothing is read back out of it.
"""

from __future__ import annotations

from typing import Any

from lowrank.experiment.sections import (
    SWEPT,
    FactorSpec,
    ModelSpec,
    PretrainingSpec,
    TrainingSpec,
)

FACTS = {
    "cell": "track and arm: everything but the seed",
    "track": "the track, by its name in the configuration",
    "arm": "the cell's name within its track",
    "studies": "the studies that use the cell, comma-separated",
    "family": "model family",
    "width": "model width (GPT-2: embedding size; Wide ResNet: width factor; ResNet: base size)",
    "method": "what trains it: dense, factored (U V^T), pretrained, or another method's name",
    "optimizer": "the optimiser",
    "init": "initialisation of the factors; dense for the dense model",
    "rank_fraction": "rank over the smaller side of each layer's matrix, before rounding",
    "matricisation": "matricisation of convolution kernels",
    "layers": "patterns of the layers factorised",
    "dense_layers": "patterns of the layers left dense",
    "decay": "what penalises the factors",
    "decay_coupled": "decay added to the gradient (true) or subtracted from the weights (false)",
    "decay_strength": "strength of that decay, given or found; none where it is the track's weight decay",
    "pretraining": "share of the steps that were dense",
    "moments": "optimiser moments at the switch: carry or reset",
    "rate_factor": "what the arm's best learning rate was multiplied by",
    "steps": "optimiser steps",
    "length": "steps over the track's steps",
    "budget": "what gave the steps: steps (the configuration), or flops (those of the dense model's run)",
    "sweep": "the sweep that gave the learning rate; none where the configuration did",
    "swept": "what it chose on validation beside its learning rate, comma-separated: decay_strength, "
    "switch_rate",
    "varied": "the facts in which the arm differs from the track's plain one, comma-separated",
}
"""Column: what it says."""


def method_of(factors: FactorSpec | None, pretraining: PretrainingSpec | None) -> str:
    """The name of the method that trains an arm of these sections."""
    if factors is None:
        return "dense"
    if factors.method:
        return factors.method.name
    return "pretrained" if pretraining else "factored"


def facts_of(
    model: ModelSpec,
    training: TrainingSpec,
    factors: FactorSpec | None,
    pretraining: PretrainingSpec | None = None,
) -> dict[str, Any]:
    """The facts that an arm's sections hold; None for those that a dense model has not."""
    decay = factors.decay if factors else None
    return {
        "family": model.family,
        "width": model.width,
        "method": method_of(factors, pretraining),
        "optimizer": training.optimizer,
        "init": factors.init if factors else "dense",
        "rank_fraction": factors.rank_fraction if factors else None,
        "matricisation": factors.matricisation if factors else None,
        "layers": ",".join(factors.layers) if factors else None,
        "dense_layers": ",".join(factors.dense_layers) if factors else None,
        "decay": decay.kind if decay else None,
        "decay_coupled": decay.coupled if decay else None,
        "decay_strength": decay.strength if decay and decay.strength != SWEPT else None,
        "pretraining": pretraining.fraction if pretraining else 0.0,
        "moments": pretraining.moments if pretraining else None,
        "steps": training.steps,
        "swept": "",
    }
