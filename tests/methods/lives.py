"""Short runs of small models under a method, for the tests beside."""

from __future__ import annotations

from pathlib import Path

import torch

from lowrank.experiment.cell import Extension, RunSpec
from lowrank.experiment.extensions import load_extensions
from lowrank.experiment.sections import (
    DecaySpec,
    EvaluationSpec,
    FactorSpec,
    MethodSpec,
    ModelSpec,
    TrainingSpec,
)
from lowrank.files import sha256
from lowrank.methods import METHODS
from lowrank.train.task import make_task
from lowrank.train.trainer import Trainer

HERE = Path(__file__).parent
STEPS = 12
OPTIONS = {
    "apollo": {"every": 5},
    "cola": {},
    "cuttlefish": {"measures": 12, "window": 2, "threshold": 10.0, "dense_blocks": 0},
    "dlrt": {},
    "fira": {"every": 5},
    "galore": {"every": 5},
    "inrank": {"every": 2, "warmup": 0, "until": 0.7, "first": 1, "explained": 0.99},
    "khodak": {},
    "lora": {},
    "loro": {"every": 5, "warmup": 2},
    "pufferfish": {"dense_blocks": 0},
    "refactorize": {"every": 4, "recovery": 2},
    "relora": {"every": 4, "warmup": 2},
    "self_guided": {},
    "spectron": {},
    "sltrain": {"support": 0.1},
}
"""Settings with which everything that a method does happens within twelve steps."""
CPU = torch.device("cpu")
LLAMA = ModelSpec(family="llama", width=16, depth=1, heads=4, kv_heads=2, context=16, mlp_width=24)
GPT2 = ModelSpec(family="gpt2", width=16, depth=1, heads=2, context=16)
WRN = ModelSpec(family="wide_resnet", depth=10, width=1, channels=3)


def run_of(
    name: str | None, file: Path | None = None, options=None, optimizer="adamw", **changes
) -> RunSpec:
    """Twelve steps of a small Llama under a method: a built-in one, or that of a file, by default the
    one of that name here."""
    method = MethodSpec(name=name, options=options or {}) if name else None
    own = name is not None and name not in METHODS.names()
    file = file or (HERE / f"{name}.py" if own else None)
    extensions = {name: Extension(file=str(file), sha256=sha256(file))} if file else {}
    values = {
        "track": "language",
        "model": LLAMA,
        "training": TrainingSpec(
            steps=STEPS,
            batch=4,
            learning_rate=0.01,
            log_points=STEPS,
            probe_points=2,
            validation_points=1,
            optimizer=optimizer,
        ),
        "factors": FactorSpec(
            rank_fraction=0.5,
            rank_multiple=4,
            method=method,
            decay=DecaySpec(kind="frobenius" if name == "khodak" else "l2"),
        ),
        "evaluation": EvaluationSpec(validation_examples=8, test_examples=8, batch=8),
        "seed": 0,
        "extensions": extensions,
    }
    return RunSpec(**{**values, **changes})


def begun(spec: RunSpec, folder: Path, cache: Path) -> Trainer:
    """A trainer at its first step."""
    load_extensions(spec.extensions)
    cache.mkdir(exist_ok=True)
    return Trainer(spec, make_task(spec, folder, CPU), cache)


def same(left, right) -> None:
    """Two finished runs are equal to the bit."""
    for column in ("train_loss", "gradient_norm", "learning_rate", "validation_loss"):
        assert left.table("history")[column].equals(right.table("history")[column])
    for table in ("spectra", "layers"):
        assert left.table(table).equals(right.table(table))
