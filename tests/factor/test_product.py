"""Products by oneDNN are those of torch: values, gradients, any layout, and what they must leave to torch."""

from __future__ import annotations

from itertools import product as pairs

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import forward_ad

from lowrank.factor import product as module
from lowrank.factor.product import add_product, multiply, product, suits_onednn, times

SHAPES = ((5, 7), (1, 7), (64, 33), (3, 4, 7), (4, 1), (0, 7), (7,))


@pytest.fixture
def onednn(monkeypatch):
    """Small products too, whatever the processor; and how many oneDNN computes."""
    if not torch.backends.mkldnn.is_available():
        pytest.skip("torch was built without oneDNN")
    calls, compute = [], module._by_onednn

    def counted(*given):
        calls.append(given)
        return compute(*given)

    monkeypatch.setattr(module, "_faster", lambda *sides: True)
    monkeypatch.setattr(module, "_by_onednn", counted)
    return calls


def layouts(tensor: torch.Tensor) -> list[torch.Tensor]:
    """A tensor as it is, with its last dimensions the other way round, with gaps, and repeated."""
    gaps = torch.full((*tensor.shape[:-1], tensor.shape[-1] * 2), 9.0)[..., ::2].copy_(tensor)
    found = [tensor, gaps, tensor[:1].expand_as(tensor)]
    return found + ([tensor.mT.contiguous().mT] if tensor.ndim > 1 else [])


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("outputs", [1, 3, 17])
def test_values_in_any_layout(onednn, shape, outputs):
    draw = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(s, generator=draw) for s in (shape, (outputs, shape[-1])))
    for (a, w), bias in pairs(
        pairs(layouts(x), layouts(weight)), (None, torch.arange(outputs) / 4)
    ):
        expected = F.linear(a.double(), w.double(), None if bias is None else bias.double())
        for found in (multiply(a, w, bias), product(a, w, bias)):
            torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(times(a, w.mT), multiply(a, w))
    assert onednn


@pytest.mark.parametrize(("inputs", "outputs"), [(4, 9), (9, 4)])
def test_for_a_weights_gradient_the_narrower_matrix_is_copied(onednn, inputs, outputs):
    x, weight = torch.randn(50, inputs), torch.randn(outputs, inputs, requires_grad=True)
    product(x, weight).sum().backward()
    torch.testing.assert_close(weight.grad, torch.ones(outputs, 50) @ x)
    assert len(onednn[-1][0]) == min(inputs, outputs)
    into = torch.zeros(outputs, inputs)
    add_product(into, torch.ones(50, outputs).T, x.T)
    torch.testing.assert_close(into, weight.grad)
    assert len(onednn[-1][0]) == min(inputs, outputs)


def test_a_result_lies_as_that_of_torch(onednn):
    for x in layouts(torch.randn(40, 30)):
        for bias in (None, torch.randn(7)):
            assert product(x, torch.randn(7, 30), bias).is_contiguous()
            assert multiply(x, torch.randn(7, 30), bias).is_contiguous()


@pytest.fixture
def of_amd(monkeypatch):
    monkeypatch.setattr(module, "of_intel", lambda: False)


@pytest.mark.parametrize("shape", [(1024,), (1, 1024), (3, 1024), (2, 520, 1024)])
def test_any_number_of_rows_at_the_real_bounds(of_amd, shape):
    x, weight = torch.randn(shape, requires_grad=True), torch.randn(520, 1024, requires_grad=True)
    found = torch.autograd.grad(product(x, weight).square().sum(), (x, weight))
    expected = torch.autograd.grad(F.linear(x, weight).square().sum(), (x, weight))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-2)
    assert suits_onednn(x[..., :3, :] if x.ndim > 1 else x, weight) == (len(shape) == 3)


def test_forward_derivatives_are_never_lost_in_silence(of_amd):
    x, weight = torch.randn(40, 1024), torch.randn(40, 1024)
    with torch.no_grad(), forward_ad.dual_level():
        dual = forward_ad.make_dual(x, torch.ones_like(x))
        try:
            tangent = forward_ad.unpack_dual(product(dual, weight)).tangent
        except NotImplementedError:
            return
        torch.testing.assert_close(tangent, F.linear(torch.ones_like(x), weight))


def test_it_compiles_as_a_whole(of_amd):
    compute = torch.compile(product, fullgraph=True, backend="eager")
    x, weight = torch.randn(40, 1024), torch.randn(40, 1024)
    torch.testing.assert_close(compute(x, weight), F.linear(x, weight))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("repeated", [True, False], ids=["repeated gradient", "plain gradient"])
def test_gradients_and_gradients_of_gradients(onednn, bias, repeated):
    def gradients(dtype, compute):
        draw = torch.Generator().manual_seed(0)
        shapes = ((2, 9, 6), (5, 6), (5,))[: 2 + bias]
        given = [
            torch.randn(s, generator=draw).to(dtype).requires_grad_()  # the same numbers in both
            for s in shapes
        ]
        y = compute(*given)
        loss = y.sum() if repeated else y.square().sum()
        first = torch.autograd.grad(loss, given, create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in first), given, allow_unused=True)
        return [*first, *(g for g in second if g is not None)]

    found, expected = gradients(torch.float32, product), gradients(torch.float64, F.linear)
    assert len(found) == len(expected) and len(onednn) >= 3
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-4, atol=1e-4)


def test_only_what_is_asked_for_is_differentiated(onednn):
    x, weight = torch.randn(8, 4), torch.randn(3, 4, requires_grad=True)
    product(x, weight).sum().backward()
    assert len(onednn) == 2 and weight.grad.shape == (3, 4)


def test_a_product_is_added_in_place(onednn):
    x, weight, into = torch.randn(8, 4), torch.randn(3, 4), torch.ones(8, 3)
    add_product(into, x, weight)
    torch.testing.assert_close(into, 1 + x @ weight.T)
    assert len(onednn) == 1


def test_what_is_left_to_torch(onednn):
    x, weight = torch.randn(8, 4), torch.randn(3, 4)
    assert suits_onednn(x, weight)
    assert not suits_onednn(x.double(), weight.double())
    batch = torch.randn(2, 4, 5)
    torch.testing.assert_close(times(torch.randn(2, 8, 4) * 0 + x, batch), x @ batch)
    assert not suits_onednn(x.to("meta"), weight.to("meta"))
    with torch.autocast("cpu", torch.bfloat16):
        assert product(x, weight).dtype is torch.bfloat16
    mapped = torch.func.vmap(product, (0, None))(x, weight)
    torch.testing.assert_close(mapped, x @ weight.T)
    assert not onednn


def test_operators_are_counted_as_torchs(onednn):
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter:
        product(torch.randn(8, 4), torch.randn(3, 4))
    assert counter.get_total_flops() == 2 * 8 * 4 * 3


@pytest.mark.parametrize(
    ("sides", "avx512", "avx2"),
    [
        ((1024, 64, 64), True, False),
        ((1024, 64, 48), False, False),
        ((1024, 64, 10), True, True),
        ((10, 64, 1024), True, True),
        ((1001, 64, 64), True, True),
        ((1024, 64, 5), False, False),
        ((512, 64, 7), False, False),
        ((4, 3, 0), False, False),
        ((3, 1024, 1024), False, False),
    ],
)
def test_large_and_uneven_products_are_onednns(monkeypatch, sides, avx512, avx2):
    x, weight = torch.randn(sides[0], sides[2]), torch.randn(sides[1], sides[2])
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    for intel, capability, expected in (
        (False, "AVX512", avx512),
        (False, "AVX2", avx2),
        (True, "AVX512", False),
        (True, "AVX2", False),
    ):
        monkeypatch.setattr(module, "of_intel", lambda intel=intel: intel)
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda c=capability: c)
        assert suits_onednn(x, weight) is expected, (intel, capability)


def test_it_can_be_switched_off(monkeypatch):
    monkeypatch.setattr(module, "of_intel", lambda: False)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    there = torch.backends.mkldnn.is_available() and torch.backends.mkl.is_available()
    assert module._faster(1024, 64, 64) == there
    with torch.backends.mkldnn.flags(enabled=False):
        assert not module._faster(1024, 64, 64)


def test_a_weight_that_is_part_of_a_larger_matrix_takes_no_longer(monkeypatch):
    """As where a kernel of one pixel skips pixels: oneDNN is given whole matrices."""
    given = []

    def onednn(x, weight, *_):
        given.append(weight.is_contiguous() or weight.T.is_contiguous())
        return x @ weight.T

    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", onednn)
    x, large = torch.randn(3, 8), torch.randn(10, 16)
    for weight in (large[:, :8], large[::2, :8], torch.randn(16, 5)[::2].T, torch.randn(8, 5).T):
        torch.testing.assert_close(module._by_onednn(x, weight, None), x @ weight.T)
    assert all(given) and len(given) == 4
