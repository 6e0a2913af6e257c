"""The SVD is right, and stays right when LAPACK fails to converge."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lowrank.errors import LowrankError
from lowrank.factor.svd import balanced, normalise, svd, svdvals


def fail(*args, **kwargs):
    raise torch.linalg.LinAlgError("did not converge")


@pytest.fixture(params=["gesdd", "gesvd", "gram"])
def route(request, monkeypatch):
    """Force each route in turn by making those before it fail."""
    if request.param != "gesdd":
        monkeypatch.setattr(torch.linalg, "svd", fail)
        monkeypatch.setattr(torch.linalg, "svdvals", fail)
    if request.param == "gram":
        import scipy.linalg

        def refuse(*args, **kwargs):
            raise np.linalg.LinAlgError("did not converge")

        monkeypatch.setattr(scipy.linalg, "svd", refuse)
    return request.param


@pytest.mark.parametrize("shape", [(7, 4), (4, 7), (5, 5), (3, 6, 4)])
def test_every_route_gives_orthonormal_directions_and_descending_values(route, shape):
    W = torch.randn(shape, dtype=torch.float64)
    W[..., 0] = W[..., 1]
    A, s, B = svd(W)
    eye = torch.eye(s.shape[-1], dtype=W.dtype).expand(*shape[:-2], -1, -1)
    torch.testing.assert_close((A * s.unsqueeze(-2)) @ B.mT, W)
    torch.testing.assert_close(A.mT @ A, eye)
    torch.testing.assert_close(B.mT @ B, eye)
    assert (s.diff(dim=-1) <= 0).all()
    assert (s >= 0).all()
    torch.testing.assert_close(svdvals(W), s)


def test_every_route_knows_the_true_values(route):
    W = torch.diag(torch.tensor([3.0, 0.0, -5.0, 1.0])).roll(1, 0)
    torch.testing.assert_close(svd(W)[1], torch.tensor([5.0, 3.0, 1.0, 0.0]))
    assert svd(W)[0].dtype == torch.float32


def test_every_route_keeps_directions_together_where_values_differ_by_rounding_alone(route):
    draw = torch.Generator().manual_seed(3)
    W = torch.linalg.qr(torch.randn(9, 9, generator=draw, dtype=torch.float64))[0]
    A, s, B = svd(W)
    assert (s.diff() <= 0).all()
    torch.testing.assert_close((A * s) @ B.mT, W)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_weight_that_is_not_finite_is_an_error(bad):
    W = torch.eye(3)
    W[1, 2] = bad
    for decompose in (svd, svdvals):
        with pytest.raises(LowrankError, match="NaN or infinity"):
            decompose(W)


EXTREMES = {
    "near the largest float32": (3e38, torch.float32),
    "tiny": (1e-36, torch.float32),
    "denormal": (2.0**-145, torch.float32),
    "large float64": (1e307, torch.float64),
    "tiny float64": (1e-300, torch.float64),
}


@pytest.mark.parametrize(("size", "dtype"), EXTREMES.values(), ids=EXTREMES)
@pytest.mark.parametrize("shape", [(6, 4), (2, 4, 6)])
def test_entries_of_any_finite_size_are_decomposed(route, size, dtype, shape):
    signs = torch.randint(2, shape, generator=torch.Generator().manual_seed(1)) * 2 - 1
    signs[..., 0] = 0
    A, s, B = svd((signs.double() * size).to(dtype))
    eye = torch.eye(s.shape[-1], dtype=torch.float64).expand(*shape[:-2], -1, -1)
    torch.testing.assert_close(A.double().mT @ A.double(), eye, rtol=0, atol=1e-5)
    torch.testing.assert_close(B.double().mT @ B.double(), eye, rtol=0, atol=1e-5)
    unit = s.double() / size
    true = torch.from_numpy(np.linalg.svd(signs.numpy().astype(float), compute_uv=False))
    torch.testing.assert_close(unit, true, rtol=1e-5, atol=1e-5)
    values = svdvals((signs.double() * size).to(dtype)).double() / size
    torch.testing.assert_close(values, true, rtol=1e-5, atol=1e-5)
    back = (A.double() * unit.unsqueeze(-2)) @ B.double().mT
    torch.testing.assert_close(back, signs.double(), rtol=1e-5, atol=1e-5)


def test_scaling_changes_no_bit_of_ordinary_values_and_is_undone():
    W = torch.randn(40, 30, generator=torch.Generator().manual_seed(2)) * 0.02
    assert torch.equal(svdvals(W), torch.linalg.svdvals(W))
    assert torch.equal(svd(W)[0], torch.linalg.svd(W, full_matrices=False)[0])
    scaled, c = normalise(W)
    assert 1 <= scaled.abs().max() < 2
    assert torch.equal(scaled * c, W)


def test_a_zero_matrix_has_zero_values(route):
    assert torch.equal(svd(torch.zeros(4, 3))[1], torch.zeros(3))
    assert torch.equal(svdvals(torch.zeros(4, 3)), torch.zeros(3))


@pytest.mark.parametrize("shape", [(9, 5, 3), (4, 8, 4), (2, 6, 7, 2)])
@pytest.mark.parametrize("rank", [None, 2])
def test_balanced_factors_are_of_the_product_or_its_best_approximation(shape, rank):
    *lead, m, n, r = shape
    draw = torch.Generator().manual_seed(0)
    U, V = (torch.randn(*lead, size, r, generator=draw, dtype=torch.float64) for size in (m, n))
    A, s, Bh = np.linalg.svd((U @ V.mT).numpy(), full_matrices=False)
    s[..., rank if rank else r :] = 0
    left, right = balanced(U, V, rank)
    assert left.shape == (*lead, m, rank or r) and right.shape == (*lead, n, rank or r)
    assert (left @ right.mT).numpy() == pytest.approx(A * s[..., None, :] @ Bh, abs=1e-12)
    values = torch.diag_embed(torch.from_numpy(s[..., : rank or r]))
    for factor in (left, right):
        assert torch.allclose(factor.mT @ factor, values, atol=1e-12)
