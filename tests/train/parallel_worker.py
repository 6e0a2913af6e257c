"""One of the processes that torchrun starts for test_parallel: `text digits folder`.

Trains every case in both modes below `folder`, and writes what only a process can know of itself.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from runs import FACTORS, PRETRAINING, RUNS, image_run, language_run

sys.path.insert(0, str(Path(__file__).parents[1] / "methods"))
from lives import OPTIONS

from lowrank.experiment.cell import RunSpec
from lowrank.experiment.sections import DecaySpec, MethodSpec
from lowrank.factor.convert import factors
from lowrank.methods import METHODS
from lowrank.train import parallel
from lowrank.train.build import choose_device
from lowrank.train.run import ensure_run
from lowrank.train.task import make_task
from lowrank.train.trainer import Trainer

FROBENIUS = FACTORS.model_copy(update={"decay": DecaySpec(kind="frobenius", strength=1.0)})
COUPLED = FACTORS.model_copy(
    update={"decay": DecaySpec(kind="frobenius", coupled=True, strength=1.0)}
)
L2 = FACTORS.model_copy(update={"decay": DecaySpec(kind="l2", strength=1.0)})
L2_COUPLED = FACTORS.model_copy(update={"decay": DecaySpec(kind="l2", coupled=True, strength=1.0)})

CASES = {
    "dense": RUNS["dense"],
    "l2-clipped": language_run(factors=L2, training={"clip": 0.05}),
    "l2-coupled": language_run(factors=L2_COUPLED),
    "frobenius": language_run(factors=FROBENIUS),
    "frobenius-coupled": language_run(factors=COUPLED),
    "pretrained": language_run(factors=FROBENIUS, pretraining=PRETRAINING),
    "accumulated": language_run(
        factors=FACTORS, training={"accumulation": 2, "checkpoint_every": 2}
    ),
    "wrn": image_run(factors=FACTORS, training={"flip": True}),
    "resnet": image_run("resnet", factors=COUPLED),
    "muon": language_run(factors=L2, training={"optimizer": "muon"}),
    **{
        name: language_run(
            factors=(FROBENIUS if name == "khodak" else FACTORS).model_copy(
                update={"method": MethodSpec(name=name, options=options)}
            )
        )
        for name, options in OPTIONS.items()
    },
}
"""Runs compared with one process. Strengths are large, so that a decay gone wrong is seen, and the
clipping norm of `l2-clipped` is far below that of its gradients."""

WHOLE = {"muon", *(name for name in OPTIONS if not METHODS[name].sharded)}
"""Cases that need whole matrices or layers: those that are refused with "fsdp"."""

PLAIN = image_run(factors=FACTORS, training={"pad": 0})
"""Without augmentation, so that both ways of computing a batch see the same pixels."""

DIVERGED = language_run(factors=FROBENIUS, training={"learning_rate": 1e30})

RESUMED = language_run(factors=FROBENIUS, pretraining=PRETRAINING, seed=3)
STOP = 9


def data_of(spec: RunSpec, text: Path, digits: Path) -> Path:
    """The prepared data of a run."""
    return text if spec.track == "language" else digits


def run_all(text: Path, digits: Path, folder: Path, mode: str) -> None:
    """Every case in one mode, below `folder/mode`."""
    for case, spec in CASES.items():
        if mode == "fsdp" and case in WHOLE:
            continue
        ensure_run(spec, data_of(spec, text, digits), folder / mode, "cpu", mode=mode)
    ensure_run(RESUMED, text, folder / mode / "stopped", "cpu", until=STOP, mode=mode)
    ensure_run(RESUMED, text, folder / mode / "one-to-two", "cpu", mode=mode)
    ensure_run(DIVERGED, text, folder / mode, "cpu", mode=mode)
    ensure_run(PLAIN, digits, folder / mode / "plain", "cpu", until=1, mode=mode)
    task = make_task(CASES["frobenius"], text, choose_device("cpu"))
    trainer = Trainer(CASES["frobenius"], task, folder, mode)
    layer = next(iter(factors(trainer.model).values()))
    facts = {"held": len(parallel.local(layer.U)), "rows": len(layer.U)}
    facts["finite"] = trainer.finite_weights()
    if parallel.rank() == 1:
        parallel.local(layer.U).data[0, 0] = torch.nan
    facts["finite_after"] = trainer.finite_weights()
    (folder / f"{mode}-{parallel.rank()}.json").write_text(json.dumps(facts), encoding="utf-8")


if __name__ == "__main__":
    torch.set_num_threads(1)
    text, digits, folder = map(Path, sys.argv[1:])
    with parallel.session("cpu"):
        for mode in ("ddp", "fsdp"):
            run_all(text, digits, folder, mode)
