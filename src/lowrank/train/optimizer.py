"""The optimiser of a run: its groups, each moved by a registered algorithm, the factors' decay beside
them, and its state by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from lowrank.errors import LowrankError
from lowrank.experiment.sections import SWEPT, DecaySpec, TrainingSpec
from lowrank.factor.convert import factors as factor_modules
from lowrank.factor.decay import DECAYS, add_decay_, gradients, shrink_
from lowrank.factor.own import origin
from lowrank.optimizers import OPTIMIZERS, Algorithm, Moves, Role
from lowrank.optimizers.base import Group, check_cover, standard_groups
from lowrank.train import parallel


class Optimizer:
    """Algorithms over groups that cover the model, with the factors' decay beside them."""

    def __init__(
        self,
        model: nn.Module,
        spec: TrainingSpec,
        decay: DecaySpec | None,
        groups: Sequence[Group] | None = None,
        sharded: bool = False,
    ) -> None:
        self.model, self.spec = model, spec
        self.factor_decay = decay or DecaySpec(kind="none")
        self.factor_strength = decay_strength(self.factor_decay, spec)
        self.factors = self._decayed()
        self._try_decay(sharded)
        groups = standard_groups(model, spec) if groups is None else groups
        check_cover(model, groups)
        self.parameters = [p for group in groups for p in group.parameters.values()]
        of_algorithm: dict[int, tuple[Algorithm, list[Group]]] = {}
        for group in groups:
            algorithm = group.optimizer or OPTIMIZERS[spec.optimizer]
            of_algorithm.setdefault(id(algorithm), (algorithm, []))[1].append(group)
        self.torch: list[Moves] = []
        self.roles: dict[str, Mapping[str, Role]] = {}
        for algorithm, own in of_algorithm.values():
            if sharded and not algorithm.sharded:
                raise LowrankError(
                    f"optimizer: {algorithm.label} needs whole matrices, and parallel: fsdp cuts them: "
                    "use ddp."
                )
            self.torch += algorithm.build(own, spec)
            for group in own:
                self.roles |= dict.fromkeys(group.parameters, algorithm.states)

    def _decayed(self) -> list[tuple[Tensor, Tensor]]:
        """The pairs of factors that decay: those that are trained. A decay is of both or neither."""
        if self.factor_decay.kind == "none":
            return []
        found: list[tuple[Tensor, Tensor]] = []
        for name, layer in factor_modules(self.model).items():
            trained = layer.U.requires_grad, layer.V.requires_grad
            if any(trained) and not all(trained):
                raise LowrankError(
                    f"factors.decay: one factor of {name} is not trained, and "
                    f"{self.factor_decay.kind} moves both: use the kind none."
                )
            if all(trained):
                found.append((layer.U, layer.V))
        return found

    @torch.no_grad()
    def _try_decay(self, sharded: bool) -> None:
        """Raise where a decay of the user's own fails on the first factors, before any training."""
        if self.factors and origin(DECAYS.get(self.factor_decay.kind)) is not None:
            U, V = self.factors[0]
            usable = all(bool(torch.isfinite(parallel.local(x)).all()) for x in (U, V))
            gradients(self.factor_decay.kind, U, V, finite=usable and not sharded)

    def clip_gradients(self) -> Tensor:
        """Scale gradients down to the clipping norm; returns the norm before. Raises if one is absent."""
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        assert len(gradients) == len(self.parameters), (
            "a parameter got no gradient: it is not in the loss"
        )
        norm = get_total_norm(gradients)
        if self.spec.clip is not None:
            clip_grads_with_norm_(self.parameters, self.spec.clip, norm)
        return parallel.full(norm)

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
        for algorithm in self.torch:
            for group in algorithm.param_groups:
                group["lr"] = rate * group["rate_factor"]
            algorithm.step()
        self.drop_gradients()

    def drop_gradients(self) -> None:
        """Forget all gradients."""
        for algorithm in self.torch:
            algorithm.zero_grad(set_to_none=True)

    def state(self) -> dict[str, Tensor]:
        """The state as flat tensors, `<parameter name>/<key>`, for safetensors."""
        names: dict[Tensor, str] = {p: n for n, p in self.model.named_parameters()}
        return {
            f"{names[parameter]}/{key}": value
            for algorithm in self.torch
            for parameter, state in algorithm.state.items()
            for key, value in state.items()
            if isinstance(value, Tensor)
        }

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Take over a state written by `state`; parameters it does not name start anew, and what it
        names that is no state of theirs is left."""
        owners = {
            parameter: algorithm
            for algorithm in self.torch
            for group in algorithm.param_groups
            for parameter in group["params"]
        }
        parameters = dict(self.model.named_parameters())
        for name, value in tensors.items():
            parameter, _, key = name.rpartition("/")
            role = self.roles.get(parameter, {}).get(key)
            if role is None:
                continue
            target = parameters[parameter]
            # Adam's step counter lives on the host unless the fused kernel is used.
            on_host = role == "step" and not target.is_cuda
            value = value.clone() if on_host else value.to(target.device, copy=True)
            if role != "step" and value.shape == target.shape:
                value = parallel.like(value, target)
                # In the parameter's order in memory: fused kernels go through both alike.
                value = torch.empty_like(target, dtype=value.dtype).copy_(value)
            owners[target].state[target][key] = value

    def reset(self, parameters: Iterable[nn.Parameter]) -> None:
        """Forget the state of these parameters."""
        for parameter in parameters:
            for algorithm in self.torch:
                algorithm.state.pop(parameter, None)

    def state_bytes(self) -> int:
        """Bytes of parameters, gradients and optimiser state, over all devices that share them."""
        weights = sum(p.numel() * p.element_size() for p in self.model.parameters())
        gradients = sum(p.numel() * p.element_size() for p in self.parameters)
        return (
            weights + gradients + sum(t.numel() * t.element_size() for t in self.state().values())
        )


def decay_strength(decay: DecaySpec, spec: TrainingSpec) -> float:
    """Lambda of the factors' decay: its own, or the training section's."""
    assert decay.strength != SWEPT, "a run has a strength that was found"
    return decay.usual(spec) if decay.strength is None else decay.strength
