"""Lower bounds: the matrix products of a step or a layer and nothing else, by the library that the layers
take, and where that is torch's own into memory that is there.

Every product of the forward pass and both of the backward pass, in the order of a step, each with
operands of its own, as a step has them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor
from yardsticks import Size

from lowrank.factor.product import suits_onednn, times

Product = Callable[[], object]


def layer(rows: int, sizes: Sequence[int]) -> tuple[list[Product], list[Product]]:
    """Forward and backward products of a chain of matrices: sizes (inputs, outputs) or (inputs, rank,
    outputs), for inputs (rows, sizes[0])."""
    forward: list[Product] = []
    backward: list[Product] = []
    x = torch.randn(rows, sizes[0])
    for inputs, outputs in pairwise(sizes):
        weight, y = torch.randn(inputs, outputs), torch.empty(rows, outputs)
        gradient, at_x = torch.randn_like(y), torch.empty_like(x)
        narrow, wide = (x, gradient) if inputs <= outputs else (gradient, x)
        at_weight = torch.empty(narrow.shape[1], wide.shape[1])
        forward.append(_product(x, weight, y))
        backward[:0] = [_product(gradient, weight.T, at_x), _product(narrow.T, wide, at_weight)]
        x = y
    return forward, backward


def attention(size: Size) -> tuple[list[Product], list[Product]]:
    """The two products of attention over all pairs of tokens, and the four of its backward pass."""
    batch, d = size.batch * size.heads, size.width // size.heads
    q, k, v, y, at_q, at_k, at_v = (torch.randn(batch, size.context, d) for _ in range(7))
    p, at_p = (torch.randn(batch, size.context, size.context) for _ in range(2))
    return [_product(q, k.mT, p), _product(p, v, y)], [
        _product(p.mT, y, at_v),
        _product(y, v.mT, at_p),
        _product(at_p, k, at_q),
        _product(at_p.mT, q, at_k),
    ]


def language_model(size: Size, ranks: Sequence[int | None] = (None,) * 4) -> Callable[[], None]:
    """All products of a step of GPT-2; `ranks` of the four matrices of a block, None where dense."""
    rows, d = size.batch * size.context, size.width
    shapes = [(d, 3 * d), (d, d), (d, 4 * d), (4 * d, d)]
    chains = [(a, b) if r is None else (a, r, b) for (a, b), r in zip(shapes, ranks, strict=True)]
    parts = []
    for _ in range(size.depth):
        parts += [layer(rows, chains[0]), attention(size)]
        parts += [layer(rows, chain) for chain in chains[1:]]
    parts.append(layer(rows, (d, size.tokens)))
    products = [product for forward, _ in parts for product in forward]
    products += [product for _, backward in reversed(parts) for product in backward]
    return lambda: _run(products)


def chain(rows: int, sizes: Sequence[int]) -> Callable[[], None]:
    """The products of one layer, forward and backward."""
    forward, backward = layer(rows, sizes)
    return lambda: _run([*forward, *backward])


def _product(a: Tensor, b: Tensor, out: Tensor) -> Product:
    if suits_onednn(a, b.mT):
        return lambda: times(a, b)
    multiply = torch.bmm if a.ndim == 3 else torch.mm
    return lambda: multiply(a, b, out=out)


def _run(products: Sequence[Product]) -> None:
    for product in products:
        product()
