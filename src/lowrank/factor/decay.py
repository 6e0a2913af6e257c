"""Weight decay on factors: L2, or Frobenius decay of the product, which is never formed.

A decay is `fn(U, V) -> (gradient at U, gradient at V)` for strength 1, entered in `DECAYS` by name.
`add_decay_` applies it coupled (into `.grad`, so that Adam rescales it), `shrink_` decoupled (off
the weights, as AdamW does).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from lowrank.factor.own import call_for_factors
from lowrank.registry import Registry

Decay = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

DECAYS: Registry[Decay] = Registry("decay")
decay = DECAYS.register


def frobenius_gradients(U: Tensor, V: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients U (V^T V) and V (U^T U) of |U V^T|_F^2 / 2 (Khodak et al. 2021).

    U (..., m, r) and V (..., n, r); costs 4 (m + n) r^2 FLOPs and r x r memory beyond the result.
    """
    return U @ _gram(V), V @ _gram(U)


def _gram(factor: Tensor) -> Tensor:
    """F^T F. Of a factor cut over devices, the r x r sum is what they exchange, not the factor."""
    gram = factor.mT @ factor
    if not hasattr(gram, "redistribute"):
        return gram
    from torch.distributed.tensor import Replicate

    return gram.redistribute(placements=[Replicate()])


@decay("frobenius")
def frobenius(U: Tensor, V: Tensor) -> tuple[Tensor, Tensor]:
    """Frobenius decay: penalises |U V^T|_F^2 / 2."""
    return frobenius_gradients(U, V)


@decay("l2")
def l2(U: Tensor, V: Tensor) -> tuple[Tensor, Tensor]:
    """L2 on the factors: penalises (|U|_F^2 + |V|_F^2) / 2, at least the nuclear norm of U V^T."""
    return U, V


@decay("none")
def none(U: Tensor, V: Tensor) -> tuple[Tensor, Tensor]:
    """No decay."""
    return torch.zeros_like(U), torch.zeros_like(V)


def gradients(kind: str, U: Tensor, V: Tensor, finite: bool = False) -> tuple[Tensor, Tensor]:
    """The decay's gradients at U and V, for strength 1.

    An unknown kind, or a method that raises or returns anything but two tensors of these shapes (and
    with `finite`, which a GPU has to be waited for, of finite numbers), is a LowrankError.
    """
    like = U.shape, V.shape
    return call_for_factors(DECAYS.kind, kind, DECAYS[kind], U, V, like=like, finite=finite)


@torch.no_grad()
def add_decay_(factors: Iterable[tuple[Tensor, Tensor]], kind: str, strength: float) -> None:
    """Add `strength` times the decay's gradients to `.grad` of each U and V: coupled decay.

    A factor that has no gradient yet gets one. An unknown kind raises LowrankError.
    """
    DECAYS[kind]  # an unknown kind is an error even where there is no factor
    for U, V in factors:
        for factor, gradient in zip((U, V), gradients(kind, U, V), strict=True):
            if factor.grad is None:
                factor.grad = torch.zeros_like(factor)
            factor.grad.add_(gradient, alpha=strength)


@torch.no_grad()
def shrink_(
    factors: Iterable[tuple[Tensor, Tensor]], kind: str, rate_times_strength: float
) -> None:
    """Subtract learning rate times strength times the decay's gradients: decoupled decay.

    Both gradients are taken before either factor moves. An unknown kind raises LowrankError.
    """
    DECAYS[kind]
    for U, V in factors:
        at_U, at_V = gradients(kind, U, V)
        U.sub_(at_U, alpha=rate_times_strength)
        V.sub_(at_V, alpha=rate_times_strength)
