"""Saving and resuming a run: safetensors and JSON, nothing is ever unpickled.

A checkpoint is a folder with the model, the optimiser, the random state and the history so far, sealed
by a manifest: `checkpoint-<step>` to resume from, replaced by the next, or `fork-<step>`, which stays
because pre-trained runs begin there. Batches and learning rate are functions of the step, so with it
a resumed run equals an unbroken one bit for bit on the same machine. Tensors are written whole, by
the first process, so that a run resumes with any number of devices.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lowrank.errors import LowrankError
from lowrank.files import (
    atomic,
    atomic_dir,
    check_manifest,
    damaged,
    read_json,
    write_json,
    write_manifest,
)
from lowrank.methods.base import Life
from lowrank.train import parallel

METHOD = "method/"
"""Before the names of a method's tensors; no parameter is called so."""
PATTERN = re.compile(r"(?:checkpoint|fork)-(\d{9})")


def model_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The model's parameters and buffers as contiguous host tensors; a tied weight stands once."""
    return {name: parallel.on_host(tensor) for name, tensor in _state(model).items()}


def _state(model: nn.Module) -> dict[str, Tensor]:
    once = {name for name, _ in (*model.named_parameters(), *model.named_buffers())}
    return {name: tensor for name, tensor in model.state_dict().items() if name in once}


def load_model_tensors(model: nn.Module, tensors: dict[str, Tensor], source: object) -> None:
    """Load tensors written by `model_tensors`; a missing, extra or misshapen one is an error."""
    expected = _state(model)
    if expected.keys() != tensors.keys():
        odd = sorted(expected.keys() ^ tensors.keys())[0]
        raise LowrankError(f"{source} does not fit the model: '{odd}' is on one side only.")
    try:
        own = {name: parallel.like(tensor, expected[name]) for name, tensor in tensors.items()}
        model.load_state_dict(own, strict=False)
    except RuntimeError as error:
        detail = " ".join(str(error).split())
        raise LowrankError(f"{source} does not fit the model: {detail}") from None


def save_weights(path: Path, model: nn.Module) -> None:
    """Write a model's tensors as one safetensors file."""
    tensors = model_tensors(model)
    if parallel.is_main():
        with atomic(path) as temporary:
            _write(temporary, tensors)


def _write(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write a safetensors file. The library lets nobody but its owner read it; the umask decides."""
    path.touch()
    mode = path.stat().st_mode
    save_file(tensors, path)
    path.chmod(mode)


def load_weights(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file; damage is a LowrankError that names it."""
    try:
        return load_file(path)
    except FileNotFoundError:
        raise LowrankError(f"{path} is missing.") from None
    except Exception as error:
        raise damaged(path, error) from None


def save(
    path: Path,
    step: int,
    model: nn.Module,
    optimizer: dict[str, Tensor],
    record: dict[str, Any],
    life: Life,
) -> None:
    """Write a checkpoint folder; `record` (JSON) carries the history so far."""
    optimizer = optimizer | {f"{METHOD}{name}": tensor for name, tensor in life.state().items()}
    tensors = model_tensors(model)
    state = {name: parallel.on_host(tensor) for name, tensor in optimizer.items()}
    if not parallel.is_main():
        return
    with atomic_dir(path) as temporary:
        _write(temporary / "model.safetensors", tensors)
        state["random/host"] = torch.get_rng_state()
        if torch.cuda.is_available():
            state["random/device"] = torch.cuda.get_rng_state()
        _write(temporary / "optimizer.safetensors", state)
        # A loss may well be infinite at a step after which the run continues.
        write_json(temporary / "record.json", record, allow_nan=True)
        names = ["model.safetensors", "optimizer.safetensors", "record.json"]
        write_manifest(temporary, names, step=step, run=path.parent.name, **method_facts(life))


def load(path: Path, model: nn.Module) -> tuple[int, dict[str, Tensor], dict[str, Any]]:
    """Load a checkpoint into the model; returns step, optimiser state and record."""
    manifest = check_manifest(path)
    step, run = int(manifest["step"]), manifest.get("run", path.parent.name)
    if run != path.parent.name or path.name[-9:] != f"{step:09d}":
        raise damaged(path, f"it is step {step} of run {run}")
    load_model_tensors(model, load_weights(path / "model.safetensors"), path)
    state = load_weights(path / "optimizer.safetensors")
    torch.set_rng_state(state.pop("random/host"))
    device = state.pop("random/device", None)
    if device is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(device)
    return step, state, read_json(path / "record.json")


def method_facts(life: Life) -> dict[str, Any]:
    """What a manifest says of a run's method: nothing, or its record."""
    record = life.record()
    return {"method": record} if record else {}


def recorded(life: Life, manifest: dict[str, Any]) -> Life:
    """The life as the manifest of a checkpoint or a finished run says it was."""
    if "method" in manifest:
        life.load_record(manifest["method"])
    return life


def method_state(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Of a loaded state, the tensors of the method."""
    return {n.removeprefix(METHOD): t for n, t in state.items() if n.startswith(METHOD)}


def saved(folder: Path) -> list[tuple[int, Path]]:
    """Step and folder of every checkpoint and fork of a run, the earliest first."""
    if not folder.is_dir():
        return []
    matches = ((entry, PATTERN.fullmatch(entry.name)) for entry in folder.iterdir())
    return sorted((int(match[1]), entry) for entry, match in matches if match)


def fork_path(folder: Path, step: int) -> Path:
    """Where the checkpoint from which pre-trained runs begin lies."""
    return folder / f"fork-{step:09d}"


def checkpoint_path(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step lies that the next one replaces."""
    return folder / f"checkpoint-{step:09d}"


def prune(folder: Path, keep: int | None = None) -> None:
    """Remove all checkpoints but the one of step `keep`; forks stay."""
    for step, path in saved(folder):
        if path == checkpoint_path(folder, step) and step != keep:
            shutil.rmtree(path)
