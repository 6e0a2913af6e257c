"""The processor that computes."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path

import torch


def processor(device: torch.device) -> str:
    """What computes: the GPU's name, or the processor's with its instruction set, `AMD EPYC, AVX512`."""
    if device.type == "cuda":
        return torch.cuda.get_device_name()
    return f"{model_name()}, {torch.backends.cpu.get_cpu_capability()}"


@cache
def model_name() -> str:
    """The processor's model name, as far as the system tells."""
    return _told("model name") or platform.processor() or platform.machine()


@cache
def of_intel() -> bool:
    """Whether Intel made the processor, as far as the system tells."""
    return "intel" in (_told("vendor_id") or platform.processor()).lower()


def _told(key: str) -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith(key):
                return line.split(":", 1)[1].strip()
    return ""
