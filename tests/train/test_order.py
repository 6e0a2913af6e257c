"""Every example once an epoch, also where an epoch is too long to be listed."""

from __future__ import annotations

import itertools
import tracemalloc

import numpy as np
import pytest

from lowrank.train import order
from lowrank.train.task import example_indices


@pytest.mark.parametrize("examples", [1, 2, 3, 16, 17, 1000, 65537])
def test_a_computed_order_has_every_example_once(examples):
    places = np.arange(examples)
    found = order._computed(3, 1, examples, places)
    assert np.array_equal(np.sort(found), places)
    some = places[:: max(1, examples // 7)]
    assert np.array_equal(order._computed(3, 1, examples, some), found[some])


def test_a_computed_order_is_another_for_each_seed_and_epoch_and_looks_random():
    places = np.arange(20_000)
    orders = [order._computed(*key, 20_000, places) for key in ((0, 0), (0, 1), (1, 0))]
    for one in orders:
        assert abs(np.corrcoef(places, one)[0, 1]) < 0.03
        assert abs(np.corrcoef(one[:-1], one[1:])[0, 1]) < 0.03
        assert (np.diff(one) == 1).sum() < 10
    for one, other in itertools.pairwise(orders):
        assert (one == other).sum() < 10


def test_the_mixing_is_that_of_splitmix64():
    state = np.array([0x9E3779B97F4A7C15 * n % 2**64 for n in (1, 2)], dtype=np.uint64)
    published = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4]  # its first numbers from the state 0
    assert order._mixed(state).tolist() == published


def test_short_epochs_are_listed_and_long_ones_need_no_memory(monkeypatch):
    listed = np.random.Generator(np.random.Philox(key=[5, 2])).permutation(40)
    assert np.array_equal(order.shown(5, 2, 40, np.arange(40)), listed)
    example_indices(0, 0, 16, 10**9)
    tracemalloc.start()
    found = example_indices(7, 123, 16, 10**9)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100_000
    assert len(set(found)) == 16
    assert 0 <= found.min() < 2 * 10**8 and 8 * 10**8 < found.max() < 10**9
