"""Methods of training: one module each, which enters a `Method` record.

A run's method is the one that its factor section names; without one it is `dense`, `factored`, or
`pretrained` where a part of the steps is dense. The names are those of the modules, so that a
configuration is checked without importing torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, ValidationError

from lowrank.errors import LowrankError
from lowrank.models import FAMILIES
from lowrank.registry import Registry

if TYPE_CHECKING:
    from lowrank.experiment.cell import RunSpec
    from lowrank.experiment.sections import ModelSpec, PretrainingSpec, TrainingSpec
    from lowrank.methods.base import Life


class Options(BaseModel):
    """Base of a method's own settings, `factors.method.options`: unknown ones are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


@dataclass(frozen=True)
class Method:
    """What the rest of the code knows of a method."""

    label: str
    """Its name for readers."""
    source: str
    """Where it was published."""
    life: type[Life]
    """What it does to a run."""
    options: type[Options] = Options
    """Its settings."""
    sharded: bool = False
    """Whether a model may be cut over devices (fsdp) under it."""
    warm: bool = False
    """Whether it may begin at a dense run, with the section `pretraining`."""
    kernels: bool = True
    """Whether it trains convolutions."""
    optimizers: tuple[str, ...] | None = None
    """The training section's optimisers that it works with; None: any."""

    @property
    def summary(self) -> str:
        """One line on what it does: the first of its life's docstring."""
        return (vars(self.life).get("__doc__") or "").strip().partition("\n")[0]


METHODS: Registry[Method] = Registry("method", package="lowrank.methods")
IMPLIED = ("dense", "factored", "pretrained")
"""Methods that follow from the other sections, and are not named."""


def parse_options(name: str, values: dict[str, Any]) -> Options:
    """A method's settings from plain values; what does not fit is a LowrankError."""
    try:
        return METHODS[name].options.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        known = ", ".join(METHODS[name].options.model_fields) or "none"
        raise LowrankError(
            f"factors.method.options.{key}: {first['msg'].removeprefix('Value error, ').rstrip('.')} "
            f"(the options of {name}: {known})."
        ) from None


def check_fit(
    name: str,
    training: TrainingSpec,
    model: ModelSpec,
    pretraining: PretrainingSpec | None = None,
    sharded: bool = False,
) -> None:
    """Raise where a method does not go with other sections, or with a model that is cut."""
    method = METHODS[name]
    if pretraining and not method.warm:
        raise LowrankError(
            f"pretraining: the method {name} has no dense start of its own: leave one of both out."
        )
    if method.optimizers and training.optimizer not in method.optimizers:
        raise LowrankError(
            f"training.optimizer: the method {name} changes the steps of {' or '.join(method.optimizers)}, "
            f"not of {training.optimizer}."
        )
    if FAMILIES[model.family].convolutions and not method.kernels:
        raise LowrankError(
            f"factors.method: {name} is defined for linear layers, and {model.family} is made of "
            "convolutions."
        )
    if sharded and not method.sharded:
        raise LowrankError(
            f"The method {name} needs whole layers, and parallel: fsdp cuts them: use ddp."
        )


def begin(spec: RunSpec) -> Life:
    """The life of a run at its first step."""
    name = spec.method
    check_fit(name, spec.training, spec.model, spec.pretraining if spec.factors else None)
    given = spec.factors.method if spec.factors else None
    return METHODS[name].life(spec, parse_options(name, given.options if given else {}))
