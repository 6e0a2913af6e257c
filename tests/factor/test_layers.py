"""The factorised layers compute what the dense ones compute, exactly at full rank."""

from __future__ import annotations

import copy
import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lowrank.errors import LowrankError
from lowrank.factor.init import initialise
from lowrank.factor.layers import (
    Factorized,
    FactorizedConv2d,
    FactorizedLinear,
    can_factorize,
    from_dense,
    is_conv1d,
    matricise,
)


def filled(dense: nn.Module, matricisation: str = "channel", rank: int | None = None) -> Factorized:
    weight = matricise(dense, matricisation)
    rank = rank or min(weight.shape[-2:])
    layer = from_dense(dense, rank, matricisation)
    layer.set_factors(*initialise("spectral", weight, rank, torch.Generator()))
    return layer


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[nn.Conv2d, torch.Tensor]:
    groups = draw(st.integers(1, 3))
    kernel = draw(st.tuples(st.integers(1, 4), st.integers(1, 4)))
    stride = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    padding = draw(
        st.one_of(
            st.tuples(st.integers(0, 2), st.integers(0, 2)), st.sampled_from(["same", "valid"])
        )
    )
    dilation = draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
    conv = nn.Conv2d(
        groups * draw(st.integers(1, 4)),
        groups * draw(st.integers(1, 4)),
        kernel,
        1 if padding == "same" else stride,
        padding,
        dilation,
        groups,
        bias=draw(st.booleans()),
        dtype=torch.float64,
    )
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    height, width = draw(st.tuples(st.integers(7, 11), st.integers(7, 11)))
    x = torch.randn(2, conv.in_channels, height, width, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        # Unlike a random draw a trained weight is far from symmetric: every entry here is different
        # in size, so that a transposed kernel or channel cannot go unnoticed.
        conv.weight.copy_(
            torch.arange(1, conv.weight.numel() + 1).reshape(conv.weight.shape).sqrt()
            + torch.randn(conv.weight.shape, generator=generator, dtype=torch.float64)
        )
    return conv, x


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("matricisation", ["channel", "spatial"])
@settings(max_examples=60, deadline=None)
@given(case=convolutions())
def test_full_rank_convolution_equals_the_dense_one_both_ways(matricisation, case):
    conv, x = case
    layer = filled(conv, matricisation)
    torch.testing.assert_close(layer(x), conv(x), rtol=1e-9, atol=1e-9)
    back = layer.to_dense()
    assert type(back) is nn.Conv2d
    assert repr(back) == repr(conv)
    torch.testing.assert_close(back.weight, conv.weight, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(back(x), conv(x), rtol=1e-9, atol=1e-9)


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("matricisation", ["channel", "spatial"])
@settings(max_examples=30, deadline=None)
@given(case=convolutions())
def test_rank_one_convolution_equals_the_dense_convolution_with_its_product(matricisation, case):
    conv, x = case
    layer = filled(conv, matricisation, rank=1)
    torch.testing.assert_close(layer(x), layer.to_dense()(x), rtol=1e-9, atol=1e-9)


def test_spatial_matrix_is_khodaks_out_kh_by_in_kw():
    conv = nn.Conv2d(2, 3, (4, 5))
    matrix = matricise(conv, "spatial")
    assert matrix.shape == (3 * 4, 2 * 5)
    for out, row, channel, column in [(0, 0, 0, 0), (2, 3, 1, 4), (1, 2, 0, 3), (2, 0, 1, 1)]:
        entry = matrix[out * 4 + row, channel * 5 + column]
        assert entry == conv.weight[out, channel, row, column]


def test_channel_matrix_is_out_by_in_kh_kw():
    conv = nn.Conv2d(2, 3, (4, 5))
    assert torch.equal(matricise(conv, "channel"), conv.weight.reshape(3, 40))


def test_groups_are_stacked_matrices():
    conv = nn.Conv2d(4, 6, (3, 2), groups=2)
    assert matricise(conv, "channel").shape == (2, 3, 2 * 3 * 2)
    assert matricise(conv, "spatial").shape == (2, 3 * 3, 2 * 2)
    assert torch.equal(matricise(conv, "channel")[1, 0], conv.weight[3].flatten())


def test_spatial_runs_a_1_by_kw_then_a_kh_by_1_convolution(monkeypatch):
    seen = []
    convolve = torch.nn.functional.conv2d

    def spy(x, weight, bias=None, stride=1, padding=0, dilation=1, groups=1):
        seen.append((tuple(weight.shape), stride, padding, dilation))
        return convolve(x, weight, bias, stride, padding, dilation, groups)

    conv = nn.Conv2d(2, 3, (4, 5), stride=(2, 3), padding=(1, 2), dilation=(2, 1))
    layer = filled(conv, "spatial", rank=6)
    monkeypatch.setattr(torch.nn.functional, "conv2d", spy)
    layer(torch.randn(1, 2, 12, 12))
    assert seen == [
        ((6, 2, 1, 5), (1, 3), (0, 2), (1, 1)),
        ((3, 6, 4, 1), (2, 1), (1, 0), (2, 1)),
    ]


def test_linear_is_two_matmuls_and_copies_no_factor():
    from torch.utils._python_dispatch import TorchDispatchMode

    calls = []

    class Record(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            calls.append(str(func))
            return func(*args, **(kwargs or {}))

    layer = filled(nn.Linear(12, 7), rank=3)
    with Record(), torch.no_grad():
        layer(torch.randn(2, 5, 12))
    assert sum("mm" in call for call in calls) == 2
    assert not any("clone" in call or "copy" in call for call in calls)


@pytest.mark.parametrize("bias", [True, False])
def test_full_rank_linear_equals_the_dense_one_both_ways(bias):
    dense = nn.Linear(9, 6, bias=bias)
    layer = filled(dense)
    x = torch.randn(2, 3, 9)
    torch.testing.assert_close(layer(x), dense(x))
    back = layer.to_dense()
    assert type(back) is nn.Linear
    assert (back.bias is None) != bias
    torch.testing.assert_close(back.weight, dense.weight)


def test_conv1d_gives_back_conv1d():
    from transformers.pytorch_utils import Conv1D

    dense = Conv1D(7, 4)
    layer = filled(dense)
    assert layer.matrix_shape == (7, 4)
    back = layer.to_dense()
    assert type(back) is Conv1D
    assert (back.nf, back.nx) == (7, 4)
    torch.testing.assert_close(back.weight, dense.weight)
    torch.testing.assert_close(layer(torch.eye(4)[None]), dense(torch.eye(4)[None]))


def test_gradients_of_the_factors_are_those_of_the_product():
    layer = filled(nn.Linear(5, 4).double(), rank=2)
    x = torch.randn(8, 5, dtype=torch.float64)
    layer(x).square().sum().backward()
    W = layer.product().detach().requires_grad_()
    nn.functional.linear(x, W, layer.bias).square().sum().backward()
    torch.testing.assert_close(layer.U.grad, W.grad @ layer.V)
    torch.testing.assert_close(layer.V.grad, W.grad.T @ layer.U)


def test_bias_is_copied_and_place_and_mode_are_kept():
    dense = nn.Linear(4, 4, dtype=torch.bfloat16).eval().requires_grad_(False)
    layer = filled(dense, rank=2)
    assert torch.equal(layer.bias, dense.bias)
    assert layer.bias.data_ptr() != dense.bias.data_ptr()
    assert layer.U.dtype == layer.to_dense().weight.dtype == torch.bfloat16
    assert not layer.training
    assert not layer.to_dense().training
    assert not any(p.requires_grad for p in layer.parameters())


def test_conversion_draws_no_random_number():
    dense = nn.Conv2d(3, 4, 3)
    state = torch.get_rng_state()
    filled(dense).to_dense()
    assert torch.equal(state, torch.get_rng_state())


def test_factors_that_were_never_set_show_as_nan():
    assert FactorizedLinear(4, 3, 2)(torch.ones(1, 4)).isnan().all()


def test_state_dict_and_copies_keep_the_layer():
    layer = filled(nn.Conv2d(4, 6, 3, groups=2), "spatial", rank=2)
    assert list(layer.state_dict()) == ["U", "V", "bias"]
    other = FactorizedConv2d(4, 6, 3, 2, groups=2, matricisation="spatial")
    other.load_state_dict(layer.state_dict())
    x = torch.randn(1, 4, 6, 6)
    assert torch.equal(other(x), layer(x))
    assert torch.equal(copy.deepcopy(layer)(x), layer(x))


@pytest.mark.parametrize("mode", ["reflect", "circular", "replicate"])
def test_padding_other_than_zeros_is_an_error(mode):
    conv = nn.Conv2d(2, 2, 3, padding=1, padding_mode=mode)
    with pytest.raises(LowrankError, match=mode):
        from_dense(conv, 1)
    with pytest.raises(LowrankError, match=mode):
        matricise(conv)


def test_only_the_plain_classes_are_taken():
    class Tampered(nn.Linear):
        pass

    assert can_factorize(nn.Linear(2, 2))
    assert not can_factorize(Tampered(2, 2))
    with pytest.raises(LowrankError, match="Tampered"):
        from_dense(Tampered(2, 2), 1)
    with pytest.raises(LowrankError, match="LayerNorm"):
        matricise(nn.LayerNorm(3))


@pytest.mark.parametrize("rank", [0, 5])
def test_a_rank_that_does_not_fit_is_an_error(rank):
    with pytest.raises(LowrankError, match=f"Rank {rank} does not fit a 4 x 6"):
        FactorizedLinear(6, 4, rank)


def test_factors_of_another_shape_and_unknown_matricisations_are_errors():
    layer = FactorizedLinear(6, 4, 2)
    with pytest.raises(LowrankError, match="Factor V has shape"):
        layer.set_factors(torch.zeros(4, 2), torch.zeros(6, 1))
    with pytest.raises(LowrankError, match="did you mean 'spatial'"):
        from_dense(nn.Conv2d(2, 2, 3), 1, "spacial")
    with pytest.raises(LowrankError, match="did you mean 'spatial'"):
        matricise(nn.Linear(2, 2), "spacial")


STRIDED = """
import itertools
import torch
from torch import nn
from torch.nn import functional as F
from lowrank.factor.init import initialise
from lowrank.factor.layers import from_dense, matricise

torch.set_num_threads(1)
torch.manual_seed(0)
cases = itertools.product((8, 15, 16), (1, 5), ((2, 1), (1, 2), (2, 2)), ("channel", "spatial"))
for batch, channels, stride, matricisation in cases:
    for kernel, padding in (((1, 1), 0), ((1, 1), (0, 1)), ((3, 1), (1, 0)), ((1, 3), "valid")):
        conv = nn.Conv2d(channels, 32, kernel, stride, padding)
        weight = matricise(conv, matricisation)
        layer = from_dense(conv, min(weight.shape), matricisation)
        layer.set_factors(*initialise("spectral", weight, layer.rank, torch.Generator()))
        images = torch.randn(batch, channels, 8, 4)
        for turn in range(3):
            x = images.clone(memory_format=torch.channels_last).requires_grad_()
            layer(x).square().sum().backward()
            noise = [torch.randn(size) for size in range(1, 300, 23)]
            objects = [bytearray(size) for size in range(16, 2000, 48)]
        # One pixel at a time, as a matmul: no convolution of torch's has a say in the reference.
        y = images.double().requires_grad_()
        W = layer.product().detach().double().requires_grad_()
        rows, columns = (0, 0) if isinstance(padding, str) else nn.modules.utils._pair(padding)
        patches = F.unfold(F.pad(y, (columns, columns, rows, rows)), kernel, stride=stride)
        dense = layer.dense_weight().detach().double().requires_grad_()
        out = dense.flatten(1) @ patches + conv.bias.detach().double()[:, None]
        out.square().sum().backward()
        torch.testing.assert_close(x.grad.double(), y.grad, rtol=1e-3, atol=1e-3)
        G = matricise(conv, matricisation, dense.grad)
        for factor, expected in ((layer.U, G @ layer.V.double()), (layer.V, G.mT @ layer.U.double())):
            found = factor.grad.double() / 3
            assert (found - expected).norm() < 1e-4 * expected.norm() + 1e-4
print("sound")
"""


def test_strided_convolutions_of_few_channels_leave_the_heap_sound():
    # Without AVX-512 oneDNN takes the kernel that writes out of bounds; glibc then checks each block.
    settings = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "OMP_NUM_THREADS": "1"}
    settings |= {"MALLOC_CHECK_": "3", "LD_PRELOAD": "libc_malloc_debug.so.0"}
    done = subprocess.run(
        [sys.executable, "-c", STRIDED],
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "sound\n", done.stderr


@pytest.mark.parametrize(
    ("name", "module"), [("Conv1D", "somewhere.else"), ("Other", "transformers.pytorch_utils")]
)
def test_another_class_is_not_taken_for_transformers_conv1d_by_its_name_or_place(name, module):
    class Conv1D(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3, 4))

    Conv1D.__name__, Conv1D.__module__ = name, module
    assert not is_conv1d(Conv1D())
    assert not can_factorize(Conv1D())
