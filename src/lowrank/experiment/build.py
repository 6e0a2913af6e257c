"""From a spec to a model: drawn from its seed, its layers as its method trains them."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from lowrank import models
from lowrank.experiment.cell import RunSpec
from lowrank.experiment.pretrained import load
from lowrank.methods import begin
from lowrank.methods.base import Life


def build_model(
    spec: RunSpec,
    outputs: int,
    converted: bool = True,
    life: Life | None = None,
    *,
    pretrained: bool = True,
) -> nn.Module:
    """The model of a run, drawn from its seed or, unless `pretrained` says that its weights come from
    elsewhere, read from the folder that its section names; with `converted` as its method trains it, at
    the point of its `life` (left out: the first step).

    The dense draw is the same in every cell of a seed; factors are drawn from a generator of their
    own.
    """
    torch.manual_seed(spec.seed)
    meta = torch.get_default_device().type == "meta"
    with _Undrawn() if meta else contextlib.nullcontext():
        model = models.family(spec.model.family).build(spec.model, outputs)
    if pretrained and spec.model.pretrained is not None and not meta:
        load(model, spec.model, outputs)
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
