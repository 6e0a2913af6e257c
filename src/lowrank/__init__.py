"""Low-rank training of deep networks: the method, the models, the study.

`lowrank.factorize(model, rank=0.25)` and its kin, `lowrank.api`, are imported at their first use:
the command line needs no torch to start.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lowrank.api import (
        attach_decay,
        effective_rank,
        factorize,
        frobenius_decay,
        parameter_groups,
        report,
        singular_values,
        to_dense,
        truncate,
    )
    from lowrank.api.exchange import from_pretrained, save_pretrained

__all__ = [
    "attach_decay",
    "effective_rank",
    "factorize",
    "frobenius_decay",
    "from_pretrained",
    "parameter_groups",
    "report",
    "save_pretrained",
    "singular_values",
    "to_dense",
    "truncate",
]

EXCHANGED = ("from_pretrained", "save_pretrained")
"""What needs transformers."""


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'lowrank' has no attribute '{name}'")
    where = "lowrank.api.exchange" if name in EXCHANGED else "lowrank.api"
    return getattr(import_module(where), name)
