"""Walking a model: replacing its dense layers by factorised ones, in place, and back again.

Layers are swapped, never the model's own code. Biases stay the very same parameters, so that an
optimiser keeps their state across a switch, and everything that is checked is checked before the
first layer is touched.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import cast

import torch
from torch import Tensor, nn

from lowrank.errors import LowrankError, unknown
from lowrank.factor.init import INITIALISATIONS, initialise
from lowrank.factor.layers import Factorized, can_factorize, from_dense, matricise, obstacle


@dataclass(frozen=True)
class Replacement:
    """A dense layer and the factorised one, its factors still to be set, to take its place."""

    name: str
    dense: nn.Module
    factorized: Factorized
    tied: bool = False
    """Whether its factors are those of another layer of the plan, with which it shares its weight."""


def choose_rank(m: int, n: int, fraction: float, multiple: int = 16) -> int:
    """The multiple nearest to fraction * min(m, n), at least one of it, at most min(m, n).

    A fraction of exactly 1 is the full rank min(m, n). Matmuls of an aligned rank are up to 1.4
    times faster than of one beside it. A fraction outside (0, 1] or a multiple below 1 raises
    LowrankError.
    """
    if not 0 < fraction <= 1:
        raise LowrankError(f"Rank fraction {fraction} is not above 0 and at most 1.")
    if multiple < 1:
        raise LowrankError(f"Ranks cannot be multiples of {multiple}: use 1 or more.")
    full = min(m, n)
    if fraction == 1:
        return full
    steps = max(1, int(fraction * full / multiple + 0.5))
    return min(full, steps * multiple)


def factorize_model(
    model: nn.Module,
    scales: Mapping[str, float],
    *,
    rank_fraction: float = 1.0,
    rank_multiple: int = 16,
    ranks: Mapping[str, int] | None = None,
    init: str = "spectral",
    seed: int = 0,
    matricisation: str = "channel",
) -> list[str]:
    """Replace every layer named in `scales` by a factorised one, in place; returns the names.

    `scales` gives each layer's special initial factor (GPT-2's residual projections: 1 / sqrt(2
    L)). `ranks`, by layer, take the place of `choose_rank`'s. Each layer draws from a generator seeded by (seed, name): neither the order nor the other
    layers matter. On the meta device shapes change and nothing is drawn. Layers that share their weight share
    their factors. No layer at all, an unknown or unsuitable one, or one whose weight is shared with
    what is not named raises LowrankError and leaves the model as it was; ranks at which factors are no smaller than the dense weight warn, once.
    """
    INITIALISATIONS[init]
    plan = plan_replacements(model, scales, rank_fraction, rank_multiple, matricisation, ranks)
    for step in plan:
        weight = matricise(step.dense, matricisation)
        if not weight.is_meta and not step.tied:
            # The second factor of a spatial convolution is kh x 1: its fan-in is kh times the rank.
            scale = scales[step.name] / step.factorized.output_taps**0.5
            generator = torch.Generator().manual_seed(layer_seed(seed, step.name))
            step.factorized.set_factors(
                *initialise(init, weight, step.factorized.rank, generator, scale)
            )
    return replace_layers(model, plan)


def plan_replacements(
    model: nn.Module,
    names: Iterable[str],
    rank_fraction: float,
    rank_multiple: int,
    matricisation: str,
    ranks: Mapping[str, int] | None = None,
) -> list[Replacement]:
    """Check the named layers and build, but not yet place, the factorised layer for each.

    Errors and the warning are those of `factorize_model`.
    """
    names = list(names)
    if not names:
        raise LowrankError("No layer to factorise was given: name at least one.")
    _known(model, names)
    owners: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        owners.setdefault(id(parameter), []).append(name)
    plan = []
    for name in names:
        dense = model.get_submodule(name)
        if isinstance(dense, Factorized):
            raise LowrankError(f"Layer '{name}' is factorised already.")
        if reason := obstacle(dense):
            suitable = ", ".join(_candidates(model)) or "none"
            raise LowrankError(f"Layer '{name}' {reason}; layers that can: {suitable}.")
        others = [other for other in owners[id(dense.weight)] if other != f"{name}.weight"]
        if not {other.removesuffix(".weight") for other in others} <= {*names}:
            raise LowrankError(
                f"Layer '{name}' shares its weight with {', '.join(others)}: leave it dense, or name all "
                "that share it, which then share factors."
            )
        m, n = matricise(dense, matricisation).shape[-2:]
        rank = ranks[name] if ranks else choose_rank(m, n, rank_fraction, rank_multiple)
        plan.append(Replacement(name, dense, from_dense(dense, rank, matricisation)))
    plan = _share(plan)
    _warn_above_break_even(plan)
    return plan


def _share(plan: list[Replacement]) -> list[Replacement]:
    """The plan with one pair of factors for all layers of one weight: those of the first that is no
    embedding, for what it reads says more of how to truncate."""
    leaders: dict[int, Replacement] = {}
    for step in sorted(plan, key=lambda step: isinstance(step.dense, nn.Embedding)):
        leaders.setdefault(id(step.dense.weight), step)
    shared = []
    for step in plan:
        leader = leaders[id(step.dense.weight)]
        if leader is not step:
            ranks = leader.factorized.rank, step.factorized.rank
            if ranks[0] != ranks[1]:
                raise LowrankError(
                    f"Layers '{leader.name}' and '{step.name}' share their weight and cannot have the "
                    f"ranks {ranks[0]} and {ranks[1]}: give both the same."
                )
            step.factorized.share(leader.factorized)
            step = replace(step, tied=True)
        shared.append(step)
    return shared


def replace_layers(model: nn.Module, plan: Iterable[Replacement]) -> list[str]:
    """Put the factorised layers in the dense ones' places; biases stay the same parameters. Hooks of the dense
    layers and their weights stay behind, with a warning."""
    names, plan = [], list(plan)
    if hooked := [step.name for step in plan if _hooked(step.dense)]:
        warnings.warn(
            f"{len(hooked)} of the layers had hooks, the first {hooked[0]}, which are not called any more: "
            "register them on the layers that took their place.",
            stacklevel=3,
        )
    for step in plan:
        step.factorized.bias = getattr(step.dense, "bias", None)
        place(model, step.name, step.factorized)
        names.append(step.name)
    return names


def _hooked(dense: nn.Module) -> bool:
    """Whether somebody has hooks on a layer or on its weight."""
    own = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    of_weight = ("_backward_hooks", "_post_accumulate_grad_hooks")
    found = [getattr(dense, name, None) for name in own]
    return any(found + [getattr(dense.weight, name, None) for name in of_weight])


def to_dense(model: nn.Module) -> list[str]:
    """Replace every factorised layer by its dense equal, in place; returns the names."""
    names = []
    weights: dict[frozenset[int], nn.Parameter] = {}
    for name, layer in factors(model).items():
        dense = layer.to_dense()
        dense.weight = weights.setdefault(layer.factor_ids, cast(nn.Parameter, dense.weight))
        if layer.bias is not None:
            dense.bias = layer.bias
        place(model, name, dense)
        names.append(name)
    return names


def factors(model: nn.Module) -> dict[str, Factorized]:
    """The factorised layers of a model by name, in the model's order."""
    return {name: m for name, m in model.named_modules() if isinstance(m, Factorized)}


def parameter_count(model: nn.Module) -> int:
    """The number of parameters, a tied weight counted once."""
    return sum(parameter.numel() for parameter in model.parameters())


def low_rank_layers(model: nn.Module) -> dict[str, nn.Module]:
    """The layers that stand in a dense one's place, by name: those with `dense_weight`, the outermost
    where one holds another."""
    found: dict[str, nn.Module] = {}
    for name, module in model.named_modules():
        inside = any(name.startswith(f"{outer}.") or not outer for outer in found)
        if hasattr(module, "dense_weight") and not inside:
            found[name] = module
    return found


def effective_weights(model: nn.Module) -> dict[str, Tensor] | None:
    """A state dict for the dense model: what each layer does, as a dense weight in its place. None
    where a layer has no dense weight."""
    layers = low_rank_layers(model)
    owners = {key: name for name in layers for key in _state_names(layers[name], name)}
    weights: dict[str, Tensor] = {}
    for key, value in model.state_dict().items():
        name = owners.get(key)
        if name is None:
            weights[key] = value.detach()
            continue
        prefix, layer = f"{name}." if name else "", layers[name]
        if f"{prefix}weight" in weights:
            continue
        weight = layer.dense_weight()  # type: ignore[operator]
        if weight is None:
            return None
        weights[f"{prefix}weight"] = weight.detach().contiguous()
        if layer.bias is not None:
            weights[f"{prefix}bias"] = layer.bias.detach()  # type: ignore[operator, union-attr]
    return weights


def _state_names(layer: nn.Module, name: str) -> list[str]:
    return [f"{name}.{key}" if name else key for key in layer.state_dict()]


def layer_seed(seed: int, name: str) -> int:
    """A 63-bit seed for one layer, a hash of the run's seed and the layer's name."""
    return int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8], "big") >> 1


@contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """The model in evaluation mode; afterwards each module is back in the mode that it was in."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield model
    finally:
        for module, mode in modes:
            module.training = mode


def _candidates(model: nn.Module) -> list[str]:
    return [name for name, module in model.named_modules() if name and can_factorize(module)]


def _known(model: nn.Module, names: Iterable[str]) -> None:
    known = {name for name, _ in model.named_modules(remove_duplicate=False) if name}
    for name in names:
        if name not in known:
            raise unknown("layer", name, _candidates(model))


def place(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put a module in the place of the one of this name."""
    if not name:
        raise LowrankError("A model that is a single layer cannot be changed in place: convert it.")
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)


def _warn_above_break_even(plan: list[Replacement]) -> None:
    over, kept, dense = [], 0, 0
    for step in plan:
        if step.tied:
            continue
        (m, n), rank = step.factorized.matrix_shape, step.factorized.rank
        kept += step.factorized.U.numel() + step.factorized.V.numel()
        dense += step.dense.weight.numel()  # type: ignore[operator, union-attr]
        if rank * (m + n) >= m * n:
            over.append(f"{step.name} (rank {rank} of {m} x {n}, break-even {m * n / (m + n):.1f})")
    if over:
        warnings.warn(
            f"At their rank {len(over)} of {len(plan)} factorised layers are no smaller than "
            f"dense, the first {over[0]}; all factors together hold {kept:,} parameters in "
            f"place of {dense:,}.",
            stacklevel=4,
        )
