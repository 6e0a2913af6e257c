"""The optimiser: parameter groups that cover the model exactly once, and what a switch does to them.

Three groups: dense matrices decay with the training section's `weight_decay`; gains, biases and
embeddings do not decay; factors decay as the factor section says, outside torch's optimiser.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Collection

import torch
from torch import Tensor, nn

from lowrank.experiment.sections import DecaySpec, TrainingSpec
from lowrank.factor.convert import factors as factor_modules
from lowrank.factor.decay import DECAYS, add_decay_, gradients, shrink_
from lowrank.factor.own import origin
from lowrank.train import parallel


class Optimizer:
    """AdamW or SGD over three groups, with the factors' decay beside it."""

    def __init__(
        self,
        model: nn.Module,
        spec: TrainingSpec,
        decay: DecaySpec | None,
        embeddings: Collection[str] = (),
    ) -> None:
        self.model, self.spec = model, spec
        self.factor_decay = decay or DecaySpec(kind="none")
        self.factor_strength = decay_strength(self.factor_decay, spec)
        self.factors: list[tuple[Tensor, Tensor]] = [
            (module.U, module.V) for module in factor_modules(model).values()
        ]
        self._try_decay()
        groups = parameter_groups(model, embeddings)
        decays = {"matrices": spec.weight_decay, "vectors": 0.0, "factors": 0.0}
        arguments = [
            {"params": list(named.values()), "weight_decay": decays[group], "name": group}
            for group, named in groups.items()
            if named
        ]
        self.parameters = [p for named in groups.values() for p in named.values()]
        fused = self.parameters[0].is_cuda
        if spec.optimizer == "adamw":
            self.torch: torch.optim.Optimizer = torch.optim.AdamW(
                arguments, lr=0.0, betas=spec.betas, fused=fused or None
            )
        else:
            self.torch = torch.optim.SGD(
                arguments, lr=0.0, momentum=spec.momentum, nesterov=spec.nesterov
            )

    @torch.no_grad()
    def _try_decay(self) -> None:
        """Raise where a decay of the user's own fails on the first factors, before any training."""
        if self.factors and origin(DECAYS.get(self.factor_decay.kind)) is not None:
            U, V = self.factors[0]
            usable = all(bool(torch.isfinite(parallel.local(x)).all()) for x in (U, V))
            gradients(self.factor_decay.kind, U, V, finite=usable and not parallel.sharded())

    def clip_gradients(self) -> Tensor:
        """Scale gradients down to the clipping norm; returns the norm before. Raises if one is absent."""
        for parameter in self.parameters:
            assert parameter.grad is not None, "a parameter got no gradient: it is not in the loss"
        limit = float("inf") if self.spec.clip is None else self.spec.clip
        return parallel.full(torch.nn.utils.clip_grad_norm_(self.parameters, limit))

    def step(self, rate: float, norm: Tensor) -> None:
        """Decay and update every parameter at this learning rate, and drop the gradients.

        On a CPU an update from a non-finite gradient is not made, so that the state can be kept.
        """
        if norm.device.type == "cpu" and not torch.isfinite(norm):
            return
        decay, strength = self.factor_decay, self.factor_strength
        if decay.coupled:
            add_decay_(self.factors, decay.kind, strength)
        else:
            shrink_(self.factors, decay.kind, rate * strength)
        for group in self.torch.param_groups:
            group["lr"] = rate
        self.torch.step()
        self.torch.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Tensor]:
        """The state as flat tensors, `<parameter name>/<key>`, for safetensors."""
        names: dict[Tensor, str] = {p: n for n, p in self.model.named_parameters()}
        return {
            f"{names[parameter]}/{key}": value
            for parameter, state in self.torch.state.items()
            for key, value in state.items()
            if isinstance(value, Tensor)
        }

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Take over a state written by `state`; parameters it does not name start anew."""
        parameters = dict(self.model.named_parameters())
        for name, value in tensors.items():
            parameter, _, key = name.rpartition("/")
            if parameter in parameters:
                target = parameters[parameter]
                # Adam's step counter lives on the host unless the fused kernel is used.
                on_host = key == "step" and not target.is_cuda
                value = value.clone() if on_host else value.to(target.device, copy=True)
                if key != "step":
                    value = parallel.like(value, target)
                self.torch.state[target][key] = value

    def state_bytes(self) -> int:
        """Bytes of parameters, gradients and optimiser state, over all devices that share them."""
        weights = sum(p.numel() * p.element_size() for p in self.parameters)
        return 2 * weights + sum(t.numel() * t.element_size() for t in self.state().values())


def decay_strength(decay: DecaySpec, spec: TrainingSpec) -> float:
    """Lambda of the factors' decay: its own, or the training section's."""
    if decay.strength is not None:
        return decay.strength
    if decay.coupled and spec.coupled_decay is not None:
        return spec.coupled_decay
    return spec.weight_decay


def parameter_groups(
    model: nn.Module, embeddings: Collection[str] = ()
) -> dict[str, dict[str, nn.Parameter]]:
    """Every parameter in exactly one of `factors`, `matrices`, `vectors`, by name.

    Embeddings, whose rows are vectors, count as vectors; so do biases and gains. `embeddings` are
    patterns of parameters that are embeddings although no nn.Embedding holds them; one that matches
    nothing is an error.
    """
    names = [name for name, _ in model.named_parameters()]
    for pattern in embeddings:
        assert fnmatch.filter(names, pattern), f"no parameter is an embedding '{pattern}'"
    factors = {id(p) for m in factor_modules(model).values() for p in (m.U, m.V)}
    rows = {
        id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)
    }  # a tied head is its embedding
    groups: dict[str, dict[str, nn.Parameter]] = {"matrices": {}, "vectors": {}, "factors": {}}
    for name, parameter in model.named_parameters():
        if id(parameter) in factors:
            groups["factors"][name] = parameter
        elif (
            parameter.ndim < 2
            or id(parameter) in rows
            or any(fnmatch.fnmatchcase(name, pattern) for pattern in embeddings)
        ):
            groups["vectors"][name] = parameter
        else:
            groups["matrices"][name] = parameter
    covered = [id(p) for named in groups.values() for p in named.values()]
    assert len(covered) == len(set(covered)), "a parameter is in two groups"
    assert set(covered) == {id(p) for p in model.parameters()}, "a parameter is in no group"
    return groups
