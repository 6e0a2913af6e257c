"""Methods of the user's own: what one raises or returns wrongly is reported with its name, file and line."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from lowrank.errors import LowrankError, last_line


def origin(method: Any) -> str | None:
    """The file that a method was written in; None for one of this package."""
    while isinstance(method, functools.partial):
        method = method.func
    if isinstance(method, type):
        file = getattr(sys.modules.get(method.__module__), "__file__", None)
        return None if method.__module__.partition(".")[0] == "lowrank" else file
    code = getattr(method, "__code__", None) or getattr(type(method).__call__, "__code__", None)
    module = getattr(method, "__module__", None) or type(method).__module__
    if code is None or module.partition(".")[0] == "lowrank":
        return None
    return str(code.co_filename)


def call(kind: str, name: str, method: Callable[..., Any], *arguments: Any) -> Any:
    """What a method returns; what one of the user's own raises becomes one sentence."""
    with in_a_sentence(kind, name, method):
        return method(*arguments)


def call_for_factors(
    kind: str,
    name: str,
    method: Callable[..., Any],
    *arguments: Any,
    like: tuple[torch.Size, torch.Size],
    finite: bool = True,
) -> tuple[Tensor, Tensor]:
    """The two tensors, of the shapes `like`, that a method returns for U and V; anything else, and
    with `finite` a NaN or infinity among them, is a LowrankError."""
    returned = call(kind, name, method, *arguments)
    problem = _problem(returned, like, finite)
    if problem:
        raise LowrankError(f"{_title(kind, name, method)} returned {problem}.")
    return returned[0], returned[1]


def _problem(returned: Any, like: tuple[torch.Size, torch.Size], finite: bool) -> str | None:
    if not isinstance(returned, tuple | list) or len(returned) != 2:
        count = f" of {len(returned)}" if isinstance(returned, tuple | list) else ""
        return f"a {type(returned).__name__}{count} where two tensors, for U and V, are expected"
    for factor, tensor, shape in zip("UV", returned, like, strict=True):
        if not isinstance(tensor, Tensor):
            return f"a {type(tensor).__name__} for {factor} where a tensor is expected"
        if tensor.shape != shape:
            return f"shape {tuple(tensor.shape)} for {factor} where {tuple(shape)} is expected"
        if not tensor.is_floating_point():
            return f"{tensor.dtype} for {factor} where floating-point numbers are expected"
        if finite and not torch.isfinite(tensor).all():
            return f"NaN or infinity for {factor}"
    return None


def _title(kind: str, name: str, method: Any) -> str:
    file = origin(method)
    return f"The {kind} '{name}'" + (f" ({file})" if file else "")


@contextmanager
def in_a_sentence(kind: str, name: str, method: Any) -> Iterator[None]:
    """What a method of the user's own raises inside becomes a LowrankError with its file and line."""
    try:
        yield
    except Exception as error:
        file = origin(method)
        if file is None:
            raise
        said = last_line(error, file).rstrip(".")
        raise LowrankError(f"{_title(kind, name, method)} failed: {said}.") from error
