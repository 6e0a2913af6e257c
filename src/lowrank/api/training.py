"""What a training loop of one's own needs for factors: groups for its optimiser, and their decay."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lowrank.errors import LowrankError
from lowrank.factor.convert import factors
from lowrank.factor.decay import DECAYS, shrink_
from lowrank.optimizers.base import parameter_groups as _by_kind


def frobenius_decay(model: nn.Module) -> Tensor:
    """sum |U V^T|_F^2 / 2 over the factorised layers, to be added to a loss: `loss + 0.1 *
    lowrank.frobenius_decay(model)`.

    A scalar with gradients U V^T V and V U^T U (Khodak et al. 2021), from r x r Gram matrices: no
    product is formed. Adam rescales what is added to a loss; `attach_decay` does not go through it.
    """
    layers = list(_factors(model).values())
    return sum(
        (((layer.U.mT @ layer.U) * (layer.V.mT @ layer.V)).sum() / 2 for layer in layers),
        start=torch.zeros((), device=layers[0].U.device, dtype=layers[0].U.dtype),
    )


def attach_decay(
    optimizer: torch.optim.Optimizer, model: nn.Module, strength: float, kind: str = "frobenius"
) -> Any:
    """Decoupled decay of the factors at every step of any optimiser of torch, as AdamW decays weights.

    Before each step U and V move against the gradients of the decay, times the learning rate of
    their group and `strength`. `kind` is `frobenius`, `l2` or another registered decay. Their own
    `weight_decay` should be 0, as `parameter_groups` sets it. Returns a handle whose `remove()` ends it.
    """
    DECAYS[kind]
    if not strength >= 0 or strength == float("inf"):
        raise LowrankError(f"strength: {strength!r} is not a number of 0 or more.")
    rates = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    layers = _factors(model)
    for name, layer in layers.items():
        for factor in (layer.U, layer.V):
            if id(factor) not in rates:
                raise LowrankError(
                    f"Layer '{name}' has factors that the optimiser does not hold: build it after "
                    "factorize, with parameters of the same model."
                )

    def decay(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        for layer in layers.values():
            shrink_([(layer.U, layer.V)], kind, float(rates[id(layer.U)]["lr"]) * strength)

    return optimizer.register_step_pre_hook(decay)


def parameter_groups(
    model: nn.Module, weight_decay: float = 0.1, factor_decay: float = 0.0
) -> list[dict[str, Any]]:
    """Groups for an optimiser of torch that hold every trained parameter once.

    `matrices`: dense weights, with `weight_decay`; `factors`: U and V, with `factor_decay` (0 where
    `attach_decay` or `frobenius_decay` decays them); `vectors`: biases, gains and embeddings, none.
    Each has its `name`.
    """
    decays = {"matrices": weight_decay, "factors": factor_decay, "vectors": 0.0}
    return [
        {"name": name, "params": list(named.values()), "weight_decay": decays[name]}
        for name, named in _by_kind(model).items()
        if named
    ]


def _factors(model: nn.Module) -> dict[str, Any]:
    """The factorised layers by name, one of those that share their factors."""
    layers = factors(model)
    if not layers:
        raise LowrankError("The model has no factorised layer: call lowrank.factorize first.")
    return dict({layer.factor_ids: (name, layer) for name, layer in layers.items()}.values())
