"""The SVD is right, and stays right when LAPACK fails to converge."""

from __future__ import annotations

import pytest
import torch

from lowrank.errors import LowrankError
from lowrank.factor.svd import svd, svdvals


def fail(*args, **kwargs):
    raise torch.linalg.LinAlgError("did not converge")


@pytest.fixture(params=["gesdd", "gesvd", "gram"])
def route(request, monkeypatch):
    """Force each route in turn by making those before it fail."""
    if request.param != "gesdd":
        monkeypatch.setattr(torch.linalg, "svd", fail)
        monkeypatch.setattr(torch.linalg, "svdvals", fail)
    if request.param == "gram":
        import numpy as np
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


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_weight_that_is_not_finite_is_an_error(bad):
    W = torch.eye(3)
    W[1, 2] = bad
    for decompose in (svd, svdvals):
        with pytest.raises(LowrankError, match="NaN or infinity"):
            decompose(W)
