"""Measures from factors equal those of the explicit product."""

from __future__ import annotations

import math

import pytest
import torch

from lowrank.factor.spectrum import (
    difference_norm,
    effective_rank,
    entropy_rank,
    product_norm,
    singular_values,
    stable_rank,
)


def pair(m: int = 20, n: int = 13, r: int = 6, lead: tuple[int, ...] = (), seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    U = torch.randn(*lead, m, r, generator=generator, dtype=torch.float64)
    V = torch.randn(*lead, n, r, generator=generator, dtype=torch.float64)
    return U, V


@pytest.mark.parametrize("lead", [(), (3,)])
def test_singular_values_are_those_of_the_dense_product(lead):
    U, V = pair(lead=lead)
    s = singular_values(U, V)
    assert s.shape == (*lead, 6)
    torch.testing.assert_close(s, torch.linalg.svdvals(U @ V.mT)[..., :6])


def test_float64_at_choice_resolves_values_that_float32_loses():
    Q, P = (torch.linalg.qr(factor).Q for factor in pair(r=2))
    true = torch.tensor([1.0, 1e-9], dtype=torch.float64)
    U, V = (Q * true), P
    small = singular_values(U, V, torch.float64)[1].item()
    assert small == pytest.approx(1e-9, rel=1e-4)
    assert singular_values(U.float(), V.float()).dtype == torch.float32


def test_ranks_equal_their_definitions_on_the_dense_svd():
    U, V = pair()
    W = U @ V.T
    s = singular_values(U, V)
    full = torch.linalg.svdvals(W)
    nuclear, operator = torch.linalg.norm(W, "nuc"), torch.linalg.norm(W, 2)
    torch.testing.assert_close(effective_rank(s), nuclear / operator)
    torch.testing.assert_close(stable_rank(s), torch.linalg.norm(W) ** 2 / operator**2)
    p = full[:6] / full.sum()
    torch.testing.assert_close(entropy_rank(s), torch.exp(-(p * p.log()).sum()))


@pytest.mark.parametrize("rank", [effective_rank, entropy_rank, stable_rank])
def test_every_rank_counts_equal_values_and_ignores_scale_and_zeros(rank):
    s = torch.tensor([[2.0, 2.0, 2.0, 0.0], [5.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    torch.testing.assert_close(rank(s), torch.tensor([3.0, 1.0, 0.0]))
    uneven = torch.tensor([3.0, 2.0, 1.0])
    torch.testing.assert_close(rank(7 * uneven), rank(uneven))
    assert 1 < rank(uneven) < 3


def test_the_three_ranks_differ_as_they_should():
    s = torch.tensor([4.0, 2.0, 1.0, 1.0], dtype=torch.float64)
    assert effective_rank(s).item() == pytest.approx(2.0)
    assert stable_rank(s).item() == pytest.approx(22 / 16)
    assert entropy_rank(s).item() == pytest.approx(math.exp(1.75 * math.log(2)))


@pytest.mark.parametrize("lead", [(), (3,)])
def test_product_norm_by_gram_equals_the_explicit_norm(lead):
    U, V = pair(lead=lead)
    torch.testing.assert_close(product_norm(U, V), torch.linalg.matrix_norm(U @ V.mT))


@pytest.mark.parametrize("other_rank", [2, 6, 9])
def test_difference_norm_equals_the_explicit_one_at_any_two_ranks(other_rank):
    U1, V1 = pair()
    U0, V0 = pair(r=other_rank, seed=1)
    explicit = torch.linalg.norm(U1 @ V1.T - U0 @ V0.T)
    torch.testing.assert_close(difference_norm(U1, V1, U0, V0), explicit)


def test_difference_norm_sees_products_not_factors():
    U, V = pair()
    mix = torch.linalg.qr(pair(6, 6, 6)[0]).Q * torch.arange(1.0, 7.0).double()
    same = difference_norm(U, V, U @ mix, V @ torch.linalg.inv(mix).T)
    assert same < 1e-6 * product_norm(U, V)


def test_difference_norm_of_float32_factors_keeps_small_differences():
    U, V = (factor.float() for factor in pair())
    moved = U.clone()
    moved[0, 0] += 1e-3
    explicit = torch.linalg.norm((moved.double() - U.double()) @ V.double().T)
    torch.testing.assert_close(difference_norm(moved, V, U, V), explicit, rtol=1e-6, atol=0.0)


@pytest.mark.parametrize(
    ("left", "right"), [(1e38, 1e38), (1e38, 1e-38), (1e-38, 1e-38), (1e-42, 1.0), (1.0, 1e30)]
)
def test_measures_hold_for_finite_factors_of_any_size(left, right):
    U, V = pair(lead=(2,))
    true = torch.linalg.svdvals(U @ V.mT)[..., :6]
    big_U, big_V = (U * left).float(), (V * right).float()
    size = left * right
    rough = 1e-2 if left == 1e-42 else 1e-5  # a denormal has few digits
    s = singular_values(big_U, big_V)
    torch.testing.assert_close(s.double() / size, true, rtol=rough, atol=rough)
    for rank in (effective_rank, entropy_rank, stable_rank):
        torch.testing.assert_close(rank(s).double(), rank(true), rtol=rough, atol=rough)
    norm = true.norm(dim=-1)
    torch.testing.assert_close(product_norm(big_U, big_V) / size, norm, rtol=rough, atol=0)
    moved = difference_norm(big_U, big_V, -big_U, big_V)
    torch.testing.assert_close(moved / size, 2 * norm, rtol=rough, atol=0)


@pytest.mark.parametrize("size", [3e38, 1e-40])
@pytest.mark.parametrize("rank", [effective_rank, entropy_rank, stable_rank])
def test_ranks_do_not_depend_on_the_size_of_the_values(rank, size):
    s = torch.tensor([1.0, 1.0, 0.5])
    torch.testing.assert_close(rank(s * size), rank(s), rtol=1e-4, atol=0)


def test_the_norm_of_a_product_of_large_float64_factors_is_finite():
    U, V = pair()
    torch.testing.assert_close(product_norm(U * 1e150, V * 1e-100), product_norm(U, V) * 1e50)
