"""Parameter groups, which cover a model exactly once.

By default three: dense matrices decay with the training section's `weight_decay`; gains, biases and
embeddings do not decay; factors decay as the factor section says, outside torch's optimiser.
"""

from __future__ import annotations

import fnmatch
from collections import defaultdict
from collections.abc import Collection, Iterable, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lowrank.factor.convert import factors as factor_modules

if TYPE_CHECKING:
    from lowrank.experiment.sections import TrainingSpec
    from lowrank.optimizers import Algorithm, Role


@dataclass(frozen=True)
class Group:
    """Parameters that one optimiser moves alike."""

    name: str
    parameters: dict[str, nn.Parameter]
    weight_decay: float = 0.0
    """Decay within the optimiser."""
    rate_factor: float = 1.0
    """What the learning rate is multiplied by."""
    optimizer: Algorithm | None = None
    """What moves it, registered or a method's own; None: the training section's optimiser."""
    hidden: frozenset[str] = frozenset()
    """Names of those that are weights between embedding and head."""
    options: dict[str, Any] = field(default_factory=dict)
    """What a method tells an optimiser of its own: further keys of torch's parameter group."""

    def for_torch(self, names: Iterable[str] | None = None) -> dict[str, Any]:
        """The group, or those of its parameters, as torch's optimisers take it."""
        chosen = self.parameters if names is None else {n: self.parameters[n] for n in names}
        return {
            "params": list(chosen.values()),
            "weight_decay": self.weight_decay,
            "rate_factor": self.rate_factor,
            "name": self.name,
            **self.options,
        }


def standard_groups(
    model: nn.Module,
    spec: TrainingSpec,
    targets: Collection[str] = (),
    embeddings: Collection[str] = (),
) -> list[Group]:
    """The groups of a dense or factorised model; `targets` are the layers between embedding and head."""
    decays = {"matrices": spec.weight_decay}
    layers = {*targets, *factor_modules(model)}
    return [
        Group(
            name,
            named,
            decays.get(name, 0.0),
            hidden=frozenset(
                parameter for parameter in named if name != "vectors" and _within(parameter, layers)
            ),
        )
        for name, named in parameter_groups(model, embeddings).items()
        if named
    ]


class OwnOptimizer:
    """Base of optimisers of our own: a group at a time, at the rate that is set before.

    It has of torch's optimisers what training uses. Theirs import torch's compiler at the first step, which
    takes as long as torch itself and compiles nothing.
    """

    def __init__(self, groups: Sequence[Group], spec: TrainingSpec) -> None:
        self.spec = spec
        self.param_groups = [{"lr": 0.0, **group.for_torch()} for group in groups]
        self.state: defaultdict[Tensor, dict[str, Any]] = defaultdict(dict)

    @torch.no_grad()
    def step(self) -> None:
        """Move every group."""
        for group in self.param_groups:
            self.move(group)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget all gradients."""
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.grad = None

    def move(self, group: dict[str, Any]) -> None:
        """Move the parameters of a group, with their gradients, by `group["lr"]`."""
        raise NotImplementedError


EPS = 1e-8
"""What AdamW adds to the root of the second moment."""


class AdamW(OwnOptimizer):
    """torch.optim.AdamW(fused=True) to the bit."""

    def move(self, group: dict[str, Any]) -> None:
        """One call of the kernel."""
        parameters, states = group["params"], [self.state[p] for p in group["params"]]
        for parameter, state in zip(parameters, states, strict=True):
            if not state:
                state["step"] = torch.zeros((), device=parameter.device)
                state["exp_avg"] = torch.zeros_like(parameter)
                state["exp_avg_sq"] = torch.zeros_like(parameter)
        steps = [state["step"] for state in states]
        torch._foreach_add_(steps, 1)
        torch._fused_adamw_(
            parameters,
            [parameter.grad for parameter in parameters],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            steps,
            lr=group["lr"],
            beta1=self.spec.betas[0],
            beta2=self.spec.betas[1],
            weight_decay=group["weight_decay"],
            eps=EPS,
            amsgrad=False,
            maximize=False,
        )


class SGD(OwnOptimizer):
    """torch.optim.SGD to the bit: momentum, Nesterov's or not, and coupled decay."""

    def move(self, group: dict[str, Any]) -> None:
        """A parameter at a time."""
        momentum, decay = self.spec.momentum, group["weight_decay"]
        for parameter in group["params"]:
            step = parameter.grad
            if decay:
                step = step.add(parameter, alpha=decay)
            if momentum:
                state = self.state[parameter]
                if "momentum_buffer" in state:
                    mean = state["momentum_buffer"].mul_(momentum).add_(step)
                else:
                    mean = state["momentum_buffer"] = step.clone()
                step = step.add(mean, alpha=momentum) if self.spec.nesterov else mean
            parameter.add_(step, alpha=-group["lr"])


DIRECTIONS = ("adamw", "sgd")
"""The training section's optimisers whose steps `direction` knows, for methods that change them."""
MOMENTS: dict[str, Role] = {
    "exp_avg": "first",
    "exp_avg_sq": "second",
    "step": "step",
    "momentum_buffer": "first",
}


def moment_count(spec: TrainingSpec) -> int:
    """How many moments `direction` keeps of a gradient."""
    return {"adamw": 2, "sgd": 1}[spec.optimizer]


def direction(state: MutableMapping[str, Any], gradient: Tensor, spec: TrainingSpec) -> Tensor:
    """What the training section's optimiser subtracts at a rate of 1 and without decay, given this
    gradient: Adam's normalised mean, or the momentum. `state` keeps the moments, named as torch does, and
    counts the steps."""
    state["step"] = state.get("step", torch.zeros(())) + 1  # on the host: nothing waits to read it
    if spec.optimizer == "sgd":
        held = state.get("momentum_buffer")
        mean = gradient.clone() if held is None else held.mul_(spec.momentum).add_(gradient)
        state["momentum_buffer"] = mean
        return gradient + spec.momentum * mean if spec.nesterov else mean.clone()
    beta, beta_sq = spec.betas
    for name in ("exp_avg", "exp_avg_sq"):
        state.setdefault(name, torch.zeros_like(gradient))
    mean, square = state["exp_avg"], state["exp_avg_sq"]
    mean.lerp_(gradient, 1 - beta)
    square.mul_(beta_sq).addcmul_(gradient, gradient, value=1 - beta_sq)
    step = float(state["step"])
    return mean / (1 - beta**step) / ((square / (1 - beta_sq**step)).sqrt() + EPS)


def _within(parameter: str, layers: Collection[str]) -> bool:
    """Whether a parameter stands in one of the layers, however deep."""
    parts = parameter.split(".")
    return any(".".join(parts[:depth]) in layers for depth in range(1, len(parts)))


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
    for name, parameter in trained(model).items():
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
    return groups


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that have gradients, by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def check_cover(model: nn.Module, groups: Iterable[Group]) -> None:
    """Every trained parameter is in exactly one group."""
    covered = [id(p) for group in groups for p in group.parameters.values()]
    assert len(covered) == len(set(covered)), "a parameter is in two groups"
    assert set(covered) == {id(p) for p in trained(model).values()}, "a parameter is in no group"
