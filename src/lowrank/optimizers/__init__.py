"""Optimisers: one module each, which enters an `Algorithm` record.

The records are read with every configuration: torch is imported when an optimiser is built, not
before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from lowrank.registry import Registry

if TYPE_CHECKING:
    from lowrank.experiment.sections import TrainingSpec
    from lowrank.optimizers.base import Group

Role = Literal["first", "second", "step", "own"]
"""What a state tensor is, and so how it moves where a weight becomes two factors: a mean of
gradients, a mean of their squares, a count of steps, or something of the optimiser's own, which does
not outlive the weight."""


class Moves(Protocol):
    """What training uses of an optimiser: any of torch's, or one of our own."""

    param_groups: list[dict[str, Any]]
    """Each with `params`, `lr` (set before every step), `rate_factor` and `weight_decay`."""
    state: Any
    """By parameter, tensors by name."""

    def step(self) -> Any:
        """Move every group."""
        ...

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget all gradients."""
        ...


@dataclass(frozen=True)
class Algorithm:
    """What the rest of the code knows of an optimiser."""

    label: str
    """Its name for readers."""
    build: Callable[[Sequence[Group], TrainingSpec], list[Moves]]
    """Optimisers that move these groups; rates are set before every step."""
    states: Mapping[str, Role]
    """The names of its state tensors and what each is."""
    values: Callable[[Group], int]
    """How many numbers of state it holds for a group, beside weights and gradients."""
    kernels: bool = True
    """Whether it moves the kernels of convolutions."""
    sharded: bool = True
    """Whether its parameters may be cut over devices (fsdp)."""


OPTIMIZERS: Registry[Algorithm] = Registry("optimiser", package="lowrank.optimizers")
