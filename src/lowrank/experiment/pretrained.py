"""A run's model begins as one that transformers' `save_pretrained` wrote."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lowrank.errors import LowrankError, cause
from lowrank.files import known_sha256

if TYPE_CHECKING:
    from torch import nn

    from lowrank.experiment.sections import ModelSpec

TOLERANCE = 1e-4
"""How far outputs of the same weights may lie apart, of the largest one."""


def content(folder: Path) -> str:
    """The SHA-256 of a saved model: of the names and contents of its config and its safetensors.

    A folder that lacks one of them is a ValueError.
    """
    files = [folder / "config.json", *sorted(folder.glob("*.safetensors"))]
    if len(files) == 1 or not files[0].is_file():
        raise ValueError(
            f"{folder} must be a folder with config.json and *.safetensors, as save_pretrained writes it"
        )
    sums = "".join(f"{path.name} {known_sha256(path)}\n" for path in files)
    return hashlib.sha256(sums.encode()).hexdigest()


def load(model: nn.Module, spec: ModelSpec, outputs: int) -> None:
    """Give a dense model the weights of `spec.pretrained`.

    A folder that has changed since the configuration was read, other shapes or numbers of outputs, or a
    model that computes something else from these weights (a setting that no shape shows) raises LowrankError.
    """
    from lowrank.models import family

    assert spec.pretrained is not None
    record, folder = family(spec.family), Path(spec.pretrained.folder)
    assert record.transformers is not None
    try:
        found = content(folder)
    except (OSError, ValueError) as error:
        raise LowrankError(f"model.pretrained: {error}.") from error
    if found != spec.pretrained.sha256:
        raise LowrankError(f"model.pretrained: {folder} has changed since the run was planned.")
    from transformers.utils import logging

    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        kind = type(record.transformers(spec, outputs))
        saved, information = kind.from_pretrained(folder, output_loading_info=True)
    except Exception as error:
        raise LowrankError(
            f"model.pretrained: transformers reads no {record.label} in {folder}: {cause(error)}."
        ) from error
    finally:
        if bars:
            logging.enable_progress_bar()
    if lacking := sorted(information["missing_keys"]):
        raise LowrankError(
            f"model.pretrained: {folder} has no {lacking[0]} of a {record.label}: save the whole dense model, "
            f"a {kind.__name__}."
        )
    saved = saved.float().eval()
    _check_shapes(model, saved, spec, outputs)
    model.load_state_dict(saved.state_dict())
    _check_outputs(model, saved, spec, outputs)


def _check_shapes(model: nn.Module, saved: Any, spec: ModelSpec, outputs: int) -> None:
    assert spec.pretrained is not None
    folder = spec.pretrained.folder
    there = getattr(saved.config, "vocab_size", None) or saved.config.num_labels
    if there != outputs:
        what = "tokens" if spec.context else "classes"
        hint = f": give data.tokenizer its tokenizer, {folder}" if spec.context else ""
        raise LowrankError(
            f"model.pretrained: {folder} has {there} {what} and the data have {outputs}{hint}."
        )
    own, its = model.state_dict(), saved.state_dict()
    for name in sorted(own.keys() | its.keys()):
        shapes = [tuple(part[name].shape) if name in part else None for part in (own, its)]
        if shapes[0] != shapes[1]:
            raise LowrankError(
                f"model.pretrained: {name} has shape {shapes[1]} in {folder} and {shapes[0]} in the model "
                "section: give the section the folder's sizes."
            )


def _check_outputs(model: nn.Module, saved: Any, spec: ModelSpec, outputs: int) -> None:
    import torch

    from lowrank.factor.convert import evaluating

    assert spec.pretrained is not None
    generator = torch.Generator().manual_seed(0)
    if spec.context:
        x = torch.randint(outputs, (1, min(spec.context, 64)), generator=generator)
    else:
        side = spec.image_size or 64
        x = torch.randn(1, spec.channels, side, side, generator=generator)
    with torch.no_grad(), evaluating(model):
        own, its = model(x), saved(x).logits
    if not (own - its).abs().max() <= TOLERANCE * its.abs().max():
        raise LowrankError(
            f"model.pretrained: with the weights of {spec.pretrained.folder} the {spec.family} of the model "
            "section computes something else than transformers: its config.json has settings, such as the "
            "heads, an activation or the base of rotary positions, that the section has otherwise or lacks."
        )
