"""Which layers of a model become factors, and at what rank.

By default those are the layers of the repeated blocks: what stands, at any depth, within a child of
an `nn.ModuleList` or `nn.Sequential` that has layers of its own. Embeddings, stems and heads stand
outside. A model without blocks gives all its layers but the first and the last, of those that are
factorised already too. An output embedding
that transformers names, and weights that two layers share, stay dense as well. Patterns choose
otherwise: of weights that are shared, all who share them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase

from torch import nn

from lowrank.errors import LowrankError
from lowrank.factor.convert import choose_rank, low_rank_layers
from lowrank.factor.layers import Factorized, can_factorize, matricise

Rank = int | float
MULTIPLE = 8
"""Ranks chosen as a share are a multiple of this: matmuls of aligned sizes are faster."""


def choose_layers(
    model: nn.Module, layers: Iterable[str] | None = None, exclude: Iterable[str] = ()
) -> list[str]:
    """The names of the layers to factorise, in the model's order.

    `layers` and `exclude` are names with the wildcards * and ?. A pattern of either that no layer has
    is a LowrankError that lists those there are; so is a choice that leaves nothing.
    """
    modules = model.named_modules(remove_duplicate=False)
    suitable = [name for name, module in modules if can_factorize(module)]
    if isinstance(model, Factorized) or not suitable:
        raise LowrankError(
            "The model has no layer to factorise: none is a Linear, a Conv1D of transformers, a "
            "convolution or an embedding, with a weight of its own."
        )
    chosen = _default(model, suitable) if layers is None else _matching(suitable, layers, "layers")
    left_out = set(_matching(suitable, exclude, "exclude"))
    remaining = [name for name in chosen if name not in left_out]
    if not remaining:
        raise LowrankError(f"exclude: {sorted(left_out)} leave no layer to factorise.")
    return remaining


def choose_ranks(
    model: nn.Module,
    names: Iterable[str],
    rank: Rank | Mapping[str, Rank] | None,
    kept_parameters: float | None,
    matricisation: str,
) -> dict[str, int]:
    """The rank of each layer, by name; layers that no pattern of a mapping names are left out.

    A whole number is the rank itself; a fraction in (0, 1] is of the smaller side, to the nearest
    multiple of 8 (at least 8, or the smaller side); `kept_parameters` in (0, 1] is the share of its
    parameters that each layer keeps at most, and the rank the largest multiple of 8 within it, or the
    largest rank below 8. Both or neither, or anything else, is a LowrankError.
    """
    if (rank is None) == (kept_parameters is None):
        raise LowrankError("Give either rank or kept_parameters, for example rank=0.25.")
    shapes = {
        name: tuple(matricise(model.get_submodule(name), matricisation).shape[-2:])
        for name in names
    }
    if kept_parameters is not None:
        return {
            name: _within(m, n, _number("kept_parameters", kept_parameters))
            for name, (m, n) in shapes.items()
        }
    rules = rank if isinstance(rank, Mapping) else {"*": rank}
    ranks, unused = {}, set(rules)
    for name, (m, n) in shapes.items():
        for pattern, wanted in rules.items():
            if fnmatchcase(name, pattern):
                unused.discard(pattern)
                ranks[name] = _rank(name, m, n, wanted)
                break
    if unused:
        raise LowrankError(
            f"rank: {sorted(unused)} match no layer that is left for them; there are {_some(shapes)}."
        )
    return ranks


def _rank(name: str, m: int, n: int, wanted: Rank | None) -> int:
    if isinstance(wanted, int) and not isinstance(wanted, bool):
        if not 1 <= wanted <= min(m, n):
            raise LowrankError(
                f"rank: {wanted} does not fit '{name}', a {m} x {n} matrix: use 1 to {min(m, n)}, or "
                "a fraction such as 0.25."
            )
        return wanted
    return choose_rank(m, n, _number("rank", wanted), MULTIPLE)


def _within(m: int, n: int, share: float) -> int:
    """The largest rank, a multiple of 8 where there is one, whose factors hold at most this share."""
    largest = int(share * m * n / (m + n) + 1e-9)
    return max(1, largest - largest % MULTIPLE if largest >= MULTIPLE else largest)


def _number(key: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
        raise LowrankError(f"{key}: {value!r} is not a fraction above 0 and at most 1.")
    return float(value)


def _default(model: nn.Module, suitable: list[str]) -> list[str]:
    owners = Counter(id(p) for _, p in model.named_parameters(remove_duplicate=False))
    head = getattr(model, "get_output_embeddings", lambda: None)()
    free = [
        name
        for name in suitable
        if model.get_submodule(name) is not head
        and owners[id(model.get_submodule(name).weight)] == 1
        and not isinstance(model.get_submodule(name), nn.Embedding)
    ]
    inside = _inside_blocks(model)
    done = low_rank_layers(model)
    row = [name for name, _ in model.named_modules() if name in done or name in free]
    if any(name in inside for name in row):
        chosen = [name for name in free if name in inside]
    else:
        ends = {row[0], row[-1]} if len(row) > 2 else set()
        chosen = [name for name in free if name not in ends]
    if not chosen:
        raise LowrankError(
            "Every layer that could be factorised is shared, the head, outside of the blocks, or the "
            f"first or last: name those meant by layers=, of {_some(suitable)}."
        )
    return chosen


def _inside_blocks(model: nn.Module) -> set[str]:
    """The names of all modules within a child of a container that is no layer itself."""
    inside: set[str] = set()
    for name, module in model.named_modules():
        if not isinstance(module, nn.ModuleList | nn.Sequential):
            continue
        for child_name, child in module.named_children():
            if next(child.children(), None) is not None:
                prefix = f"{name}.{child_name}" if name else child_name
                inside |= {f"{prefix}.{inner}" for inner, _ in child.named_modules() if inner}
    return inside


def _matching(names: list[str], patterns: Iterable[str], key: str) -> list[str]:
    patterns = [patterns] if isinstance(patterns, str) else list(patterns)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise LowrankError(f"{key}: '{pattern}' matches no layer; there are {_some(names)}.")
    return [name for name in names if any(fnmatchcase(name, pattern) for pattern in patterns)]


def _some(names: Iterable[str]) -> str:
    listed = list(names)
    shown = ", ".join(listed[:12])
    return shown if len(listed) <= 12 else f"{shown} and {len(listed) - 12} more"
