"""The row a finished run writes: where it ended, what it cost, and where it came from."""

from __future__ import annotations

import json
import math
import platform
import resource
from datetime import UTC, datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import torch

from lowrank.experiment.build import build_model
from lowrank.experiment.cell import RunSpec
from lowrank.factor.convert import parameter_count
from lowrank.factor.flops import forward_flops, saved_flops
from lowrank.methods.base import Convert, Life
from lowrank.processor import model_name, processor
from lowrank.train import parallel
from lowrank.versions import VERSIONS, source_digest

if TYPE_CHECKING:
    from lowrank.train.task import Task
    from lowrank.train.trainer import Trainer

SOURCE = source_digest()
"""The code as it was when the process began."""


def result_row(trainer: Trainer, finished: bool) -> dict[str, Any]:
    """The run's row: what it cost, where it ended, and where it came from."""
    spec, task, record = trainer.spec, trainer.task, trainer.record
    final = record["history"][-1] if record["history"] and finished else {}
    last = [row for row in record["layers"] if row["step"] == trainer.step]
    positions = spec.model.context or 1
    examples = spec.training.steps * spec.training.batch
    cuda = task.device.type == "cuda"
    peak = torch.cuda.max_memory_allocated() if cuda else _peak_resident()
    row = {
        "digest": trainer.folder.name,
        "seed": spec.seed,
        "learning_rate": spec.training.learning_rate,
        "diverged": not finished,
        "diverged_at": record.get("diverged_at"),
        "train_loss": final.get("train_loss"),
        "validation_loss": final.get("validation_loss"),
        "validation_accuracy": final.get("validation_accuracy"),
        "effective_rank": _mean(last, "effective_rank"),
        "entropy_rank": _mean(last, "entropy_rank"),
        "stable_rank": _mean(last, "stable_rank"),
        **costs_of_any_seed(spec, task, trainer.life),
        "train_seconds": record["seconds"],
        "positions_per_second": examples * positions / record["seconds"] if finished else None,
        "state_bytes": trainer.state_bytes(),
        "peak_memory_bytes": peak,
        "data_digest": task.digest,
        "devices": parallel.world(),
        **provenance(task.device),
    }
    # JSON has no word for what is not finite, and neither has a mean over seeds.
    return {name: None if _not_finite(value) else value for name, value in row.items()}


def _not_finite(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)


def costs_of_any_seed(spec: RunSpec, task: Task, life: Life) -> dict[str, Any]:
    """`costs`, counted once for all seeds: for a small model they take as long as ten steps."""
    of_any_seed = spec.model_copy(update={"seed": 0}).model_dump_json()
    key = of_any_seed, json.dumps(life.record(), sort_keys=True), task.digest
    if key not in _KNOWN:
        _KNOWN[key] = costs(spec, task, life)
    return _KNOWN[key]


_KNOWN: dict[tuple[str, str, str], dict[str, Any]] = {}


def costs(spec: RunSpec, task: Task, life: Life) -> dict[str, Any]:
    """What a run costs by its spec and its method's life, from shapes alone."""
    dense_parameters, dense_flops, _ = _size(spec, task, lambda model: None)
    phases = [(first, _size(spec, task, convert)) for first, convert in life.phases()]
    parameters, flops, _ = phases[-1][1]
    starts = [first / spec.training.steps for first, _ in phases]
    shares = [end - start for start, end in zip(starts, [*starts[1:], 1.0], strict=True)]
    forward, saved = (
        sum(share * size[of] for share, (_, size) in zip(shares, phases, strict=True))
        for of in (1, 2)
    )
    passes = life.passes * spec.training.steps * spec.training.batch
    return {
        "parameters": parameters,
        "dense_parameters": dense_parameters,
        "kept_parameters": parameters / dense_parameters,
        "flops_per_position": flops / (spec.model.context or 1),
        "kept_flops": flops / dense_flops,
        # A backward pass costs twice the forward pass: both operands' gradients are matmuls.
        "training_flops": 3 * passes * forward - passes * saved,
    }


def _size(spec: RunSpec, task: Task, convert: Convert) -> tuple[int, int, int]:
    """From shapes alone: parameters, and of one example the forward FLOPs and those that the backward
    pass saves at weights that are not trained."""
    with torch.device("meta"):
        model = build_model(spec, task.outputs, converted=False)
        convert(model)
        example = task.example()
        return parameter_count(model), forward_flops(model, example), saved_flops(model, example)


def _mean(rows: list[dict[str, Any]], column: str) -> float | None:
    return sum(row[column] for row in rows) / len(rows) if rows else None


def _peak_resident() -> int:
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def provenance(device: torch.device) -> dict[str, Any]:
    """Versions and machine a result was made with."""
    cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name() if cuda else model_name(),
        "processor": processor(device),
        "torch": torch.__version__,
        "transformers": version("transformers"),
        "lowrank": version("lowrank"),
        "source": SOURCE,
        "training_version": VERSIONS["training"],
        "threads": torch.get_num_threads(),
        "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }
