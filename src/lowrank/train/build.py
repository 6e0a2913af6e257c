"""From a spec to a model on a device: drawn from its seed, its layers factorised by rule."""

from __future__ import annotations

import contextlib
import ctypes

import torch
from torch import nn

from lowrank import models
from lowrank.errors import LowrankError
from lowrank.experiment.cell import RunSpec
from lowrank.experiment.sections import FactorSpec, ModelSpec
from lowrank.factor.convert import factorize_model


def build_model(spec: RunSpec, outputs: int, factorised: bool = True) -> nn.Module:
    """The model of a run, drawn from its seed; factorised from the first step if the spec says so.

    The dense draw is the same in every cell of a seed; factors are drawn from a generator of their
    own.
    """
    torch.manual_seed(spec.seed)
    model = models.family(spec.model.family).build(spec.model, outputs)
    if factorised and spec.factors is not None:
        factorise(model, spec.model, spec.factors, spec.seed)
    return model


def factorise(model: nn.Module, spec: ModelSpec, factor: FactorSpec, seed: int) -> list[str]:
    """Replace the layers that the factor section names; returns their names."""
    return factorize_model(
        model,
        {target.name: target.scale for target in select_targets(model, spec, factor)},
        rank_fraction=factor.rank_fraction,
        rank_multiple=factor.rank_multiple,
        init=factor.init,
        seed=seed,
        matricisation=factor.matricisation,
    )


def select_targets(model: nn.Module, spec: ModelSpec, factor: FactorSpec) -> list[models.Target]:
    """The layers to factorise: those a pattern of `layers` names, less those of `dense_layers`.

    Patterns match layer names, groups, or the words first_block and last_block.
    """
    targets = models.family(spec.family).targets(model)
    chosen = models.matching(targets, factor.layers, "layers")
    left_out = models.matching(targets, factor.dense_layers, "dense_layers")
    remaining = [target for target in chosen if target not in left_out]
    if not remaining:
        raise LowrankError(
            f"factors: dense_layers {list(factor.dense_layers)} leave no layer to factorise."
        )
    return remaining


def choose_device(name: str) -> torch.device:
    """`auto` is CUDA where there is one."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise LowrankError("device: cuda was requested, but torch finds no GPU; use cpu or auto.")
    torch.set_flush_denormal(True)
    _keep_memory()
    if name == "cuda":
        torch.set_float32_matmul_precision("high")
    return torch.device(name)


def _keep_memory() -> None:
    """Let glibc keep freed memory: returning it costs page faults, 13 % of a small step. Elsewhere: nothing."""
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL("libc.so.6").mallopt
        trim_threshold, mmap_threshold, gigabyte = -1, -3, 1 << 30
        mallopt(mmap_threshold, gigabyte)
        mallopt(trim_threshold, gigabyte)
