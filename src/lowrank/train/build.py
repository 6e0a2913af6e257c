"""The device that runs are trained on, and how memory is kept for them."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
from functools import cache

import torch

from lowrank.errors import LowrankError


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
