"""How each model is built and which of its layers may be factorised.

A family is a module with two functions: `build(spec, outputs)` gives the dense model, `targets(model)`
the layers that may be factorised. Layers that always stay dense (embeddings, head, first convolution,
classifier) are simply not targets.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib import import_module
from posixpath import commonpath
from types import ModuleType

from lowrank.errors import LowrankError, unknown

FAMILIES = ("gpt2", "wide_resnet", "resnet")


@dataclass(frozen=True)
class Target:
    """A layer that may be factorised."""

    name: str
    """Its dotted name in the model."""
    group: str
    """The part of the block it belongs to: `attention`, `mlp` or `conv`."""
    block: int
    """The block it stands in, from 0."""
    scale: float = 1.0
    """What the model multiplies this layer's usual initial standard deviation by."""


def family(name: str) -> ModuleType:
    """The module of a model family; only what is used is imported."""
    if name not in FAMILIES:
        raise unknown("model family", name, FAMILIES)
    return import_module(f"lowrank.models.{name}")


def blocks(targets: Iterable[Target]) -> list[str]:
    """The name of each block: the longest dotted prefix that its targets share."""
    parents: dict[int, list[str]] = {}
    for target in targets:
        parent = target.name.rpartition(".")[0]
        parents.setdefault(target.block, []).append(parent.replace(".", "/"))
    return [commonpath(paths).replace("/", ".") for paths in parents.values()]


def matching(targets: list[Target], patterns: Iterable[str], key: str) -> list[Target]:
    """The targets some pattern names, in the model's order.

    A pattern is a layer name with wildcards, a group, `first_block` or `last_block`. One that matches
    nothing is an error that lists what there is; `key` is the configuration key it came from.
    """
    last = max((target.block for target in targets), default=0)
    words = {"first_block": 0, "last_block": last}
    chosen: set[str] = set()
    for pattern in patterns:
        found = {
            target.name
            for target in targets
            if fnmatchcase(target.name, pattern)
            or target.group == pattern
            or words.get(pattern) == target.block
        }
        if not found:
            known = sorted({target.group for target in targets}) + [t.name for t in targets]
            raise LowrankError(
                f"factors.{key}: '{pattern}' matches no layer; there are {', '.join(known)}."
            )
        chosen |= found
    return [target for target in targets if target.name in chosen]
