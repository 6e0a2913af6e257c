"""Model families: how each model is built and which of its layers may be factorised.

A family is one module that enters a `Family` record. Layers that always stay dense (embeddings, head,
first convolution, classifier) are simply not targets. The records are read with every configuration:
torch and transformers are imported when a model is built, not before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from posixpath import commonpath
from typing import TYPE_CHECKING, Any, Literal

from lowrank.errors import LowrankError
from lowrank.registry import Registry

if TYPE_CHECKING:
    from torch import nn

    from lowrank.experiment.sections import ModelSpec


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


@dataclass(frozen=True)
class Family:
    """What the rest of the code knows of a kind of model."""

    label: str
    """Its name for readers."""
    task: Literal["language", "images"]
    """What it maps to logits: tokens (B, T), at every place, or images (N, channels, H, W). With targets
    (B, T) as second argument, a language model returns their mean cross entropy."""
    groups: tuple[str, ...]
    """The groups of its targets."""
    needs: tuple[str, ...]
    """Keys of the model section that must be given."""
    takes: tuple[str, ...]
    """Keys that may be given beside `family`, `width` and those it needs."""
    build: Callable[[ModelSpec, int], nn.Module]
    """The dense model with so many outputs (tokens or classes)."""
    targets: Callable[[nn.Module], list[Target]]
    """The layers that may be factorised, named alike before and after they are."""
    problem: Callable[[ModelSpec], str | None] = lambda spec: None
    """What is wrong with a model section, as `key: value must ...`; None if nothing."""
    convolutions: bool = False
    """Whether targets are convolutions, so that kernels can be read as matrices in several ways."""
    transformers: Callable[[ModelSpec, int], Any] | None = None
    """The model of transformers that has the same parameters; None: there is none."""
    embeddings: tuple[str, ...] = ()
    """Patterns of parameters that are embeddings although no nn.Embedding holds them."""


FAMILIES: Registry[Family] = Registry("model family", package="lowrank.models")


def family(name: str) -> Family:
    """The record of a model family; LowrankError for an unknown one."""
    return FAMILIES[name]


def heads_problem(spec: ModelSpec) -> str | None:
    """Attention heads must divide the width."""
    if spec.heads and spec.width % spec.heads:
        return f"heads: {spec.heads} do not divide the width {spec.width}: give a divisor of it"
    return None


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
