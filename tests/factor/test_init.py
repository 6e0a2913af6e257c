"""Each initialisation has the scale and the directions that its name says."""

from __future__ import annotations

import math

import pytest
import torch

from lowrank.errors import LowrankError
from lowrank.factor.init import INITIALISATIONS, initialisation, initialise
from lowrank.factor.spectrum import singular_values


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def weight(m: int = 24, n: int = 40, *lead: int) -> torch.Tensor:
    return torch.randn(*lead, m, n, generator=generator(9), dtype=torch.float64)


@pytest.mark.parametrize("name", sorted(INITIALISATIONS))
@pytest.mark.parametrize("lead", [(), (3,)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_every_initialisation_gives_factors_of_the_right_shape_and_precision(name, lead, dtype):
    U, V = initialise(name, weight(6, 10, *lead).to(dtype), 4, generator())
    assert U.shape == (*lead, 6, 4)
    assert V.shape == (*lead, 10, 4)
    assert U.dtype == V.dtype == dtype
    assert U.isfinite().all()
    assert V.isfinite().all()


@pytest.mark.parametrize("name", sorted(INITIALISATIONS))
def test_every_initialisation_repeats_for_one_seed_and_leaves_the_global_generator(name):
    state = torch.get_rng_state()
    first, second = (initialise(name, weight(), 5, generator(3)) for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("rank", [1, 5, 24])
def test_spectral_product_is_the_best_approximation_of_its_rank(rank):
    W = weight()
    U, V = initialise("spectral", W, rank, generator())
    s = torch.linalg.svdvals(W)
    # Eckart and Young: no matrix of this rank is closer than the root of the discarded energy.
    torch.testing.assert_close(torch.linalg.norm(W - U @ V.T), s[rank:].square().sum().sqrt())
    torch.testing.assert_close(torch.linalg.svdvals(U @ V.T)[:rank], s[:rank])
    # And the factors share the singular values equally.
    torch.testing.assert_close(U.T @ U, torch.diag(s[:rank]))
    torch.testing.assert_close(V.T @ V, torch.diag(s[:rank]))


def test_spectral_ones_has_spectrals_directions_and_values_of_one():
    W = weight()
    U, V = initialise("spectral_ones", W, 6, generator())
    torch.testing.assert_close(singular_values(U, V), torch.ones(6, dtype=W.dtype))
    A, _, Bh = torch.linalg.svd(W)
    torch.testing.assert_close(U @ V.T, A[:, :6] @ Bh[:6])


def test_random_spectral_has_the_weights_values_on_directions_of_its_own():
    W = weight()
    U, V = initialise("random_spectral", W, 6, generator())
    s = torch.linalg.svdvals(W)[:6]
    torch.testing.assert_close(singular_values(U, V), s)
    torch.testing.assert_close(U.T @ U, torch.diag(s))
    A = torch.linalg.svd(W)[0][:, :6]
    overlap = torch.linalg.svdvals(A.T @ (U / s.sqrt()))
    assert overlap.min() < 0.9
    other, _ = initialise("random_spectral", W, 6, generator(1))
    assert not torch.allclose(U, other)


def test_random_spectral_directions_are_haar_random():
    # Every entry of a Haar-random unit vector of length 4 has mean 0 and variance 1/4; LAPACK's
    # sign convention, left in, makes the first entry always negative.
    W = torch.eye(4, dtype=torch.float64).expand(4000, 4, 4)
    U, V = initialise("random_spectral", W, 2, generator())
    for factor in (U, V):
        assert factor.mean(0).abs().max() < 0.05
        assert (factor.square().mean(0) - 0.25).abs().max() < 0.02


def test_he_factors_have_the_variance_of_their_own_fan():
    U, V = initialise("he", weight(400, 600), 64, generator(), 0.25)
    assert V.std().item() == pytest.approx(math.sqrt(2 / 600), rel=0.02)
    assert U.std().item() == pytest.approx(0.25 * math.sqrt(2 / 64), rel=0.02)
    # So the product's variance is r (2/n) (2/r) scale^2.
    assert (U @ V.T).var().item() == pytest.approx(4 / 600 * 0.25**2, rel=0.05)


def test_he_scaled_has_spectrals_norm_and_hes_directions():
    W = weight()
    rank = 8
    U, V = initialise("he_scaled", W, rank, generator(2), 0.1)
    A, B = initialise("spectral", W, rank, generator())
    torch.testing.assert_close(torch.linalg.norm(U @ V.T), torch.linalg.norm(A @ B.T))
    he_U, he_V = initialise("he", W, rank, generator(2))
    for scaled, drawn in ((U, he_U), (V, he_V)):
        ratio = scaled / drawn
        torch.testing.assert_close(ratio, torch.full_like(ratio, ratio[0, 0].item()))


def test_he_scaled_gives_spectrals_output_variance_for_white_inputs():
    W = weight(200, 300)
    x = torch.randn(4000, 300, generator=generator(4), dtype=torch.float64)
    variance = {}
    for name in ("he", "he_scaled", "spectral"):
        U, V = initialise(name, W, 50, generator())
        variance[name] = (x @ V @ U.T).var().item()
    assert variance["he_scaled"] == pytest.approx(variance["spectral"], rel=0.05)
    assert variance["he"] < 0.1 * variance["spectral"]


def test_a_name_entered_twice_is_an_error():
    with pytest.raises(LowrankError, match="initialisation 'he' is defined twice"):
        initialisation("he")(lambda weight, rank, generator, scale: (weight, weight))


def test_an_unknown_name_is_an_error_that_lists_the_known_ones():
    with pytest.raises(LowrankError, match=r"did you mean 'spectral'.*he_scaled"):
        initialise("spectrl", weight(), 2, generator())


@pytest.mark.parametrize("name", ["spectral", "random_spectral", "he_scaled"])
@pytest.mark.parametrize("size", [3e38, 1e-38])
def test_products_follow_weights_of_any_finite_size(name, size):
    W = torch.randint(2, (6, 8), generator=torch.Generator().manual_seed(1)) * 2.0 - 1
    plain, scaled = (
        [
            factor.double()
            for factor in initialise(name, weight, 4, torch.Generator().manual_seed(0))
        ]
        for weight in (W, W * size)
    )
    product, expected = scaled[0] @ scaled[1].mT / size, plain[0] @ plain[1].mT
    torch.testing.assert_close(product, expected, rtol=1e-4, atol=1e-4)
