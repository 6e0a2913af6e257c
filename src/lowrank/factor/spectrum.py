"""Measures of a product U V^T, from its factors: singular values, ranks, norms and distances.

The m x n product is never formed. With a leading dimension for groups (..., m, r), every measure is
taken for each group's product by itself and has the shape (...).
"""

from __future__ import annotations

import torch
from torch import Tensor

from lowrank.factor.svd import normalise, rescale, svdvals, working_precision


def singular_values(U: Tensor, V: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """The singular values (..., r) of U V^T, descending, from two QRs and an r x r SVD.

    U (..., m, r), V (..., n, r), r at most min(m, n). Computed in `dtype`: float32 unless the
    factors are float64, or float64 at choice, which resolves values below 1e-7 of the largest.
    Values beyond the range of float32 come in float64. Factors that hold NaN or infinity raise
    LowrankError.
    """
    dtype = dtype or working_precision(U.dtype)
    (U, c_U), (V, c_V) = (normalise(factor.detach().to(dtype)) for factor in (U, V))
    R_U, R_V = (torch.linalg.qr(factor, mode="r").R for factor in (U, V))
    return rescale(svdvals(R_U @ R_V.mT), c_U.squeeze(-1), c_V.squeeze(-1))


def effective_rank(s: Tensor) -> Tensor:
    """Nuclear over operator norm, sum(s) / max(s), for s (..., r); 0 for a zero matrix."""
    return _to_largest(s).sum(-1)


def entropy_rank(s: Tensor) -> Tensor:
    """exp(-sum p log p) with p = s / sum(s) (Roy and Vetterli 2007); 0 for a zero matrix."""
    shares = _to_largest(s)
    total = shares.sum(-1, keepdim=True)
    entropy = torch.special.entr(shares / total.clamp_min(1)).sum(-1)
    return torch.where(total.squeeze(-1) == 0, 0, entropy.exp())


def stable_rank(s: Tensor) -> Tensor:
    """sum(s^2) / max(s)^2 of singular values s (..., r); 0 for a zero matrix."""
    return _to_largest(s).square().sum(-1)


def product_norm(U: Tensor, V: Tensor) -> Tensor:
    """|U V^T|_F (...), from sum((U^T U) * (V^T V)): two r x r Gram matrices, in float64."""
    (A, a), (B, b) = (normalise(factor.detach().double()) for factor in (U, V))
    norm = ((A.mT @ A) * (B.mT @ B)).sum((-2, -1)).clamp_min(0).sqrt()
    return norm * a[..., 0, 0] * b[..., 0, 0]


def difference_norm(U1: Tensor, V1: Tensor, U0: Tensor, V0: Tensor) -> Tensor:
    """|U1 V1^T - U0 V0^T|_F (...), the ranks may differ: the norm of `[U1, -U0] [V1, V0]^T`.

    In float64 by Gram matrices: a difference below about 1e-8 of the products' norms is lost.
    """
    return product_norm(
        torch.cat([U1.double(), -U0.double()], dim=-1),
        torch.cat([V1.double(), V0.double()], dim=-1),
    )


def _to_largest(s: Tensor) -> Tensor:
    """Singular values over the largest of them; zeros where all are zero."""
    largest = s.amax(-1, keepdim=True)
    return s / torch.where(largest == 0, 1, largest)
