"""Tiny runs of every track."""

from __future__ import annotations

from pathlib import Path

import yaml

from lowrank.experiment.cell import RunSpec
from lowrank.experiment.sections import (
    DecaySpec,
    EvaluationSpec,
    FactorSpec,
    ModelSpec,
    PretrainingSpec,
    TrainingSpec,
)

EVALUATION = EvaluationSpec(validation_examples=16, test_examples=16, batch=8)
FACTORS = FactorSpec(rank_fraction=0.5, rank_multiple=4)


def language_run(**changes) -> RunSpec:
    """A GPT-2 of one block, 12 steps."""
    training = {"steps": 12, "batch": 4, "learning_rate": 0.01, "log_points": 6, "probe_points": 3}
    training |= changes.pop("training", {})
    values = {
        "track": "language",
        "model": ModelSpec(family="gpt2", width=16, depth=1, heads=2, context=16),
        "training": TrainingSpec(**{"validation_points": 2, **training}),
        "evaluation": EVALUATION,
        "seed": 0,
    }
    return RunSpec(**{**values, **changes})


def image_run(family: str = "wide_resnet", **changes) -> RunSpec:
    """A small residual network on digits, 6 steps of SGD."""
    training = {"steps": 6, "batch": 16, "learning_rate": 0.05, "optimizer": "sgd", "pad": 1}
    training |= {"weight_decay": 5e-4, "log_points": 3, "probe_points": 2, "validation_points": 1}
    training |= changes.pop("training", {})
    shape = (
        {"depth": 10, "width": 1} if family == "wide_resnet" else {"depths": (1, 1), "width": 16}
    )
    values = {
        "track": "small-images" if family == "wide_resnet" else "large-images",
        "model": ModelSpec(family=family, channels=1, **shape),
        "training": TrainingSpec(**training),
        "evaluation": EVALUATION,
        "seed": 0,
    }
    return RunSpec(**{**values, **changes})


PRETRAINING = PretrainingSpec(fraction=0.5, dense_learning_rate=0.01)

RUNS = {
    "dense": language_run(),
    "spectral": language_run(factors=FACTORS),
    "he-frobenius": language_run(
        factors=FACTORS.model_copy(update={"init": "he", "decay": DecaySpec(kind="frobenius")})
    ),
    "frobenius-coupled": language_run(
        factors=FACTORS.model_copy(update={"decay": DecaySpec(kind="frobenius", coupled=True)})
    ),
    "pretrained": language_run(factors=FACTORS, pretraining=PRETRAINING),
    "reset": language_run(
        factors=FACTORS, pretraining=PRETRAINING.model_copy(update={"moments": "reset"})
    ),
    "accumulated": language_run(factors=FACTORS, training={"accumulation": 2}),
    "wrn": image_run(factors=FACTORS),
    "wrn-adamw": image_run(training={"optimizer": "adamw", "learning_rate": 0.01}),
    "wrn-spatial": image_run(factors=FACTORS.model_copy(update={"matricisation": "spatial"})),
    "wrn-pretrained": image_run(
        factors=FACTORS,
        pretraining=PRETRAINING.model_copy(update={"dense_learning_rate": 0.05}),
        training={"nesterov": True, "schedule": "step", "label_smoothing": 0.1},
    ),
    "resnet": image_run("resnet", factors=FACTORS),
}


def write_config(run: RunSpec, path: Path) -> str:
    """Write a configuration that asks for this run; the name of its cell."""
    dump = run.model_dump(mode="json")
    factors, pre = run.factors or FACTORS, run.pretraining
    study = {"inits": [factors.init]}
    study |= {"fractions": [pre.fraction]} if pre else {"ranks": [factors.rank_fraction]}
    track = {key: dump[key] for key in ("model", "training", "evaluation")}
    track |= {"factors": factors.model_dump(mode="json"), "sweep": {"rates": [0.1]}}
    track |= {"data": {"kind": "text" if run.track == "language" else "images"}}
    track |= {"studies": {"pretraining" if pre else "initialisation": study}}
    values = {"scale": "one", "seeds": [run.seed], "tracks": {run.track: track}}
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    if run.factors is None:
        return f"{run.track}/dense"
    name = f"{run.track}/{factors.init}-r{factors.rank_fraction:g}"
    return f"{name}-pre{pre.fraction:g}" if pre else name
