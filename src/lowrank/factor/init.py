"""How factors begin: from the dense layer's draw, or by controls of its scale and directions.

An initialisation is `fn(weight (..., m, n), rank, generator, scale) -> U (..., m, r), V (..., n,
r)`, entered in `INITIALISATIONS` by name. `weight` is the dense layer's draw (or a trained weight),
which carries the model's special scaling already; `scale` is that factor, for initialisations that
draw new ones. Random numbers come from `generator` on the CPU, the same on every device.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from lowrank.factor.own import call_for_factors
from lowrank.factor.svd import svd, svdvals, working_precision
from lowrank.registry import Registry

Initialisation = Callable[[Tensor, int, torch.Generator, float], tuple[Tensor, Tensor]]

INITIALISATIONS: Registry[Initialisation] = Registry("initialisation")
initialisation = INITIALISATIONS.register


def initialise(
    name: str, weight: Tensor, rank: int, generator: torch.Generator, scale: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Factors U (..., m, r) and V (..., n, r) for a weight (..., m, n), by a named initialisation.

    Computed in float32 (float64 for a float64 weight) and returned in the weight's precision. An
    unknown name, a weight with NaN or infinity, or a method that returns anything else raises
    LowrankError.
    """
    exact = weight.detach().to(working_precision(weight.dtype))
    *lead, m, n = weight.shape
    like = torch.Size([*lead, m, rank]), torch.Size([*lead, n, rank])
    method = INITIALISATIONS[name]
    U, V = call_for_factors(
        INITIALISATIONS.kind, name, method, exact, rank, generator, scale, like=like
    )
    return U.to(weight.dtype), V.to(weight.dtype)


@initialisation("he")
def he(
    weight: Tensor, rank: int, generator: torch.Generator, scale: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Each factor normal with standard deviation sqrt(2 / fan-in): fan n for V, r for U.

    U is multiplied by `scale`, so that a product that the model wants smaller is so (He et al.
    2015).
    """
    m, n = weight.shape[-2:]
    U = _normal(weight, m, rank, generator) * (scale * math.sqrt(2 / rank))
    V = _normal(weight, n, rank, generator) * math.sqrt(2 / n)
    return U, V


@initialisation("spectral")
def spectral(
    weight: Tensor, rank: int, generator: torch.Generator, scale: float = 1.0
) -> tuple[Tensor, Tensor]:
    """U = A sqrt(S), V = B sqrt(S), A S B^T the weight's SVD cut to rank r: its best rank r."""
    A, s, B = svd(weight)
    root = s[..., None, :rank].sqrt()
    return A[..., :rank] * root, B[..., :rank] * root


@initialisation("spectral_ones")
def spectral_ones(
    weight: Tensor, rank: int, generator: torch.Generator, scale: float = 1.0
) -> tuple[Tensor, Tensor]:
    """The weight's top-r singular directions, every singular value 1 whatever its scale was."""
    A, _, B = svd(weight)
    return A[..., :rank], B[..., :rank]


@initialisation("random_spectral")
def random_spectral(
    weight: Tensor, rank: int, generator: torch.Generator, scale: float = 1.0
) -> tuple[Tensor, Tensor]:
    """The weight's top-r singular values on Haar-random orthonormal directions: spectrum alone."""
    m, n = weight.shape[-2:]
    root = svdvals(weight)[..., None, :rank].sqrt()
    A, B = (_haar(weight, size, rank, generator) for size in (m, n))
    return A * root, B * root


@initialisation("he_scaled")
def he_scaled(
    weight: Tensor, rank: int, generator: torch.Generator, scale: float = 1.0
) -> tuple[Tensor, Tensor]:
    """He's directions at spectral's size: |U V^T|_F is that of the weight's best rank r.

    Inputs that are white then give outputs of the same variance under both. The weight already
    carries the model's special scaling, so `scale` has no say.
    """
    U, V = he(weight, rank, generator, 1.0)
    # In float64: the square of a large entry is beyond float32.
    wanted = svdvals(weight)[..., :rank].double().square().sum(-1).sqrt()
    drawn = ((U.mT @ U) * (V.mT @ V)).sum((-2, -1)).clamp_min(0).sqrt()
    root = (wanted / drawn).sqrt()[..., None, None].to(weight.dtype)
    return U * root, V * root


def _normal(weight: Tensor, size: int, rank: int, generator: torch.Generator) -> Tensor:
    shape = (*weight.shape[:-2], size, rank)
    return torch.randn(shape, generator=generator, dtype=weight.dtype).to(weight.device)


def _haar(weight: Tensor, size: int, rank: int, generator: torch.Generator) -> Tensor:
    Q, R = torch.linalg.qr(_normal(weight, size, rank, generator))
    # Without R's signs the distribution depends on LAPACK's sign convention (Mezzadri 2007).
    return Q * R.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)
