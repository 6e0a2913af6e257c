"""GaLore (Zhao et al. 2024, arXiv 2403.03507): dense weights, gradients in a low-rank space.

For each chosen weight W (m, n) with gradient G, the smaller side is projected; for m >= n

    P = top-r right singular vectors of G, renewed every `every` steps
    R = G P,  N = the optimiser's direction for R,  W <- W - rate scale N P^T

and transposed otherwise, so that moments have max(m, n) r entries instead of m n. The weights stay
dense: parameters and FLOPs are those of dense training. The work on P is not counted as FLOPs.

Defaults: every 200 steps, scale 0.25, as published (github.com/jiaweizzhao/GaLore); the rank is the
factor section's. Under adamw the weight decay is decoupled, under sgd it is in G, as without GaLore.
Moments are kept when P is renewed, as in the authors' code, although they then belong to other
directions; but for that, sgd's steps at full rank with scale 1 are those of dense training. A kernel is read as a matrix of
outputs by all else.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from lowrank.factor.convert import choose_rank, layer_seed
from lowrank.factor.layers import matricise
from lowrank.factor.svd import svd, working_precision
from lowrank.methods import METHODS, Method, Options
from lowrank.methods.base import Life, finite, select_targets
from lowrank.optimizers import Algorithm, Role
from lowrank.optimizers.base import (
    DIRECTIONS,
    MOMENTS,
    Group,
    OwnOptimizer,
    direction,
    moment_count,
)


class Projections(Options):
    """Settings."""

    every: int = Field(200, gt=0, description="Steps between two renewals of the projection.")
    scale: float = Field(0.25, gt=0, description="What the projected steps are multiplied by.")


class ProjectedOptimizer(OwnOptimizer):
    """Steps of weights whose gradients are projected; a subclass says onto what, and what they become."""

    def move(self, group: dict[str, Any]) -> None:
        """Move the one weight of a group."""
        (weight,) = group["params"]
        rate, decay, state = group["lr"], group["weight_decay"], self.state[weight]
        gradient = weight.grad
        assert gradient is not None
        if self.spec.optimizer == "sgd":
            gradient = gradient.add(weight, alpha=decay)
        else:
            weight.mul_(1 - rate * decay)
        matrix = gradient.flatten(1)
        wide = matrix.shape[0] < matrix.shape[1]
        # Contiguous, as what a checkpoint gives back is: sums round by the order in memory.
        G = (matrix.mT if wide else matrix).contiguous()
        step = int(state.get("step", 0))
        if step % group["every"] == 0:
            P = self.projector(G, group, step, state.get("projector"))
            state["projector"] = P.contiguous()
        update = self.update(G, state, group)
        weight.sub_((update.mT if wide else update).reshape(weight.shape), alpha=rate)

    def projector(self, G: Tensor, group: dict[str, Any], step: int, held: Tensor | None) -> Tensor:
        """P (n, r) for a gradient G (m, n) with m >= n."""
        raise NotImplementedError

    def update(self, G: Tensor, state: dict[str, Any], group: dict[str, Any]) -> Tensor:
        """What is subtracted (m, n) at a rate of 1."""
        raise NotImplementedError


class GaLoreOptimizer(ProjectedOptimizer):
    """Onto the gradient's top singular vectors, and back."""

    def projector(self, G: Tensor, group: dict[str, Any], step: int, held: Tensor | None) -> Tensor:
        """The top-r right singular vectors; those held where a gradient is about to end the run."""
        if finite(G):
            return svd(G.to(working_precision(G.dtype)))[2][:, : group["rank"]].to(G.dtype)
        return torch.eye(G.shape[1], group["rank"]).to(G) if held is None else held

    def update(self, G: Tensor, state: dict[str, Any], group: dict[str, Any]) -> Tensor:
        """scale N P^T."""
        P = state["projector"]
        return group["scale"] * direction(state, G @ P, self.spec) @ P.mT


STATES: dict[str, Role] = {**MOMENTS, "projector": "own"}


def projecting(
    label: str, optimizer: type[ProjectedOptimizer], extra: int = 0, **states: Role
) -> Algorithm:
    """The record of an optimiser of projected gradients, whose further `states` have `extra` numbers."""

    def values(group: Group) -> int:
        """The projector, the moments in its space, and what is extra."""
        (weight,), rank = group.parameters.values(), group.options["rank"]
        m, n = sorted((weight.shape[0], weight[0].numel()), reverse=True)
        return rank * (n + group.options["moments"] * m) + extra

    return Algorithm(
        label, lambda groups, spec: [optimizer(groups, spec)], {**STATES, **states}, values
    )


class Projected(Life):
    """Dense layers, the chosen ones moved by an optimiser of projected gradients."""

    algorithm = projecting("GaLore", GaLoreOptimizer)

    def groups(self, model: nn.Module) -> list[Group]:
        """One group for each chosen weight, with its rank, and the others as in dense training."""
        factor, training = self.spec.factors, self.spec.training
        assert factor is not None
        ranks = {}
        for target in select_targets(model, self.spec.model, factor):
            m, n = matricise(model.get_submodule(target.name)).shape[-2:]
            rank = choose_rank(m, n, factor.rank_fraction, factor.rank_multiple)
            ranks[f"{target.name}.weight"] = rank
        found = []
        for group in super().groups(model):
            rest = {n: p for n, p in group.parameters.items() if n not in ranks}
            if rest:
                found.append(replace(group, parameters=rest, hidden=group.hidden & rest.keys()))
            for name in [n for n in group.parameters if n in ranks]:
                options = {
                    **self.options.model_dump(),
                    "rank": ranks[name],
                    "moments": moment_count(training),
                    "seed": layer_seed(self.spec.seed, name),
                }
                own = {name: group.parameters[name]}
                found.append(
                    replace(
                        group,
                        name=name,
                        parameters=own,
                        hidden=frozenset(),
                        optimizer=self.algorithm,
                        options=options,
                    )
                )
        return found


class GaLore(Projected):
    """Dense weights, moved by moments of gradients projected on their top-r singular vectors."""


METHODS.add(
    "galore",
    Method("GaLore", "arXiv 2403.03507", GaLore, Projections, optimizers=DIRECTIONS),
)
