"""A singular value decomposition that does not give up.

Squares of large or tiny entries leave the range of their precision, so every matrix is first divided
by a power of two, which rounds nothing, and its singular values are multiplied by it afterwards.
LAPACK's divide and conquer (`gesdd`, the only routine torch calls on the CPU) now and then fails to
converge on a finite matrix. Then the slower QR iteration (`gesvd`, by scipy) is tried in float64,
and last the eigendecomposition of the smaller Gram matrix in float64, which always converges but
resolves no singular value below about 1e-8 of the largest.
"""

from __future__ import annotations

import torch
from torch import Tensor

from lowrank.errors import LowrankError


def working_precision(dtype: torch.dtype) -> torch.dtype:
    """The precision to decompose in: float64 stays, all else (half precision too) is float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def normalise(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """`matrix` (..., m, n) over c, and c (..., 1, 1): the power of two that brings its largest entry
    to between 1 and 2, or 1 for a zero matrix."""
    largest = matrix.detach().abs().amax((-2, -1), keepdim=True)
    mantissa, _ = torch.frexp(largest)
    c = torch.where(largest > 0, largest / (2 * mantissa), 1)
    c = c.clamp_min(torch.finfo(matrix.dtype).tiny)  # one below may count as 0 in float arithmetic
    return matrix / c, c


def rescale(s: Tensor, *scales: Tensor) -> Tensor:
    """Singular values s (..., k) times each of the scales (..., 1), in float64 where the largest
    leaves the range of s's own precision."""
    exact = s.double()
    for scale in scales:
        exact = exact * scale.double()
    rounded = exact.to(s.dtype)
    top, true_top = rounded.amax(-1), exact.amax(-1)
    fits = top.isfinite() & ((top >= torch.finfo(s.dtype).tiny) | (true_top == 0))
    return rounded if fits.all() else exact


def svd(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A (..., m, k), s (..., k), B (..., n, k) with `matrix` = A diag(s) B^T and k = min(m, n).

    The columns of A and of B are orthonormal and s descends; values beyond the range of float32 come
    in float64. A matrix that holds NaN or infinity raises LowrankError.
    """
    _require_finite(matrix)
    matrix, c = normalise(matrix)
    A, s, B = _decompose(matrix)
    return A, rescale(s, c.squeeze(-1)), B


def svdvals(matrix: Tensor) -> Tensor:
    """The singular values alone, (..., min(m, n)), as `svd` gives them; NaN raises LowrankError."""
    _require_finite(matrix)
    matrix, c = normalise(matrix)
    try:
        values = torch.linalg.svdvals(matrix)
    except torch.linalg.LinAlgError:
        values = _decompose(matrix)[1]
    return rescale(values, c.squeeze(-1))


def balanced(U: Tensor, V: Tensor, rank: int | None = None) -> tuple[Tensor, Tensor]:
    """Factors A sqrt(S) (..., m, r) and B sqrt(S) (..., n, r) of the product U V^T = A S B^T, which is not
    formed: two QRs and an r x r SVD. With a smaller `rank` they are of its best approximation.

    U (..., m, r) and V (..., n, r) with r at most min(m, n); NaN or infinity raise LowrankError.
    """
    dtype = working_precision(U.dtype)
    Q_U, R_U = torch.linalg.qr(U.to(dtype))
    Q_V, R_V = torch.linalg.qr(V.to(dtype))
    A, s, B = svd(R_U @ R_V.mT)
    root = s.to(dtype)[..., None, :rank].sqrt()
    return (Q_U @ A[..., :rank] * root).to(U.dtype), (Q_V @ B[..., :rank] * root).to(V.dtype)


def _require_finite(matrix: Tensor) -> None:
    if not torch.isfinite(matrix).all():
        raise LowrankError(
            f"A weight of shape {tuple(matrix.shape)} holds NaN or infinity and has no "
            "singular value decomposition: take an earlier checkpoint or a lower learning rate."
        )


def _decompose(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    for method in (_divide_and_conquer, _qr_iteration):
        try:
            return method(matrix)
        except torch.linalg.LinAlgError:
            continue
    return _by_gram(matrix)


def _divide_and_conquer(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    A, s, Bh = torch.linalg.svd(matrix, full_matrices=False)
    return A, s, Bh.mT


def _qr_iteration(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    import numpy as np
    import scipy.linalg

    stack = matrix.detach().double().cpu().reshape(-1, *matrix.shape[-2:]).numpy()
    try:
        parts = [scipy.linalg.svd(one, full_matrices=False, lapack_driver="gesvd") for one in stack]
    except np.linalg.LinAlgError as error:
        raise torch.linalg.LinAlgError(str(error)) from error
    A, s, Bh = (
        torch.from_numpy(np.stack(part)).reshape(*matrix.shape[:-2], *part[0].shape).to(matrix)
        for part in zip(*parts, strict=True)
    )
    return A, s, Bh.mT


def _by_gram(matrix: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    if matrix.shape[-2] > matrix.shape[-1]:
        B, s, A = _by_gram(matrix.mT)
        return A, s, B
    exact = matrix.double()
    A = torch.linalg.eigh(exact @ exact.mT).eigenvectors.flip(-1)
    # matrix^T A = B diag(s): a QR normalises its columns and completes B where s is zero.
    B, R = torch.linalg.qr(exact.mT @ A)
    s = R.diagonal(dim1=-2, dim2=-1)
    B = B * torch.where(s < 0, -1.0, 1.0).unsqueeze(-2)
    s, order = s.abs().sort(dim=-1, descending=True)
    A = A.gather(-1, order.unsqueeze(-2).expand_as(A))
    B = B.gather(-1, order.unsqueeze(-2).expand_as(B))
    return A.to(matrix), s.to(matrix), B.to(matrix)
