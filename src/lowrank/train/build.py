"""From a spec to a model on a device: drawn from its seed, its layers as its method trains them."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lowrank import models
from lowrank.errors import LowrankError
from lowrank.experiment.cell import RunSpec
from lowrank.methods import begin
from lowrank.methods.base import Life


def build_model(
    spec: RunSpec, outputs: int, converted: bool = True, life: Life | None = None
) -> nn.Module:
    """The model of a run, drawn from its seed; with `converted` as its method trains it, at the point
    of its `life` (left out: the first step).

    The dense draw is the same in every cell of a seed; factors are drawn from a generator of their
    own.
    """
    torch.manual_seed(spec.seed)
    with _Undrawn() if torch.get_default_device().type == "meta" else contextlib.nullcontext():
        model = models.family(spec.model.family).build(spec.model, outputs)
    if converted:
        (life or begin(spec)).convert(model)
    return model


class _Undrawn(TorchFunctionMode):
    """Draws nothing: on the meta device, where there is nothing to draw, torch imports its compiler to."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        initialises = getattr(func, "__module__", None) == "torch.nn.init"
        if initialises or func in (Tensor.normal_, Tensor.uniform_):
            return kwargs.get("tensor", args[0] if args else None)
        return func(*args, **kwargs)


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


@cache
def _keep_memory() -> None:
    """Let glibc keep freed memory, and take its next gigabyte in huge pages; elsewhere nothing.

    Giving memory back costs page faults, 13 % of a small step; finding small pages costs 6 % of any.
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        trim_threshold, mmap_threshold, gigabyte, huge = -1, -3, 1 << 30, 1 << 21
        libc.mallopt(mmap_threshold, gigabyte)
        libc.mallopt(trim_threshold, gigabyte)
        libc.malloc.restype = ctypes.c_void_p
        size = (
            gigabyte - 2 * huge
        )  # below the threshold, so that it comes from the heap and stays there
        if start := libc.malloc(ctypes.c_size_t(size)):
            first, last = -(-start // huge) * huge, (start + size) // huge * huge
            length, advice = ctypes.c_size_t(last - first), mmap.MADV_HUGEPAGE
            libc.madvise(ctypes.c_void_p(first), length, advice)
            libc.free(ctypes.c_void_p(start))
