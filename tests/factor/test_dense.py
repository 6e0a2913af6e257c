"""Dense layers compute what torch's do: convolutions in both layouts and with kernels that are views."""

from __future__ import annotations

from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lowrank.factor.dense import Conv1D, Conv2d, affine, convolve, mean_of_pixels

KERNEL = torch.arange(10, dtype=torch.double).reshape(2, 5, 1, 1)


@pytest.mark.parametrize("bias", [True, False])
def test_values_and_gradients_of_a_product_are_those_of_torch(bias):
    draw = torch.Generator().manual_seed(0)
    shapes = ((2, 3, 5), (7, 5), (7,))
    given = [torch.randn(s, generator=draw, dtype=torch.double, requires_grad=True) for s in shapes]
    x, weight, b = given if bias else (*given[:2], None)
    assert torch.autograd.gradcheck(affine, (x, weight, b))
    torch.testing.assert_close(affine(x, weight, b), F.linear(x, weight, b))


def test_autocast_reaches_a_product():
    x, weight, bias = torch.randn(3, 5), torch.randn(7, 5), torch.randn(7)
    with torch.autocast("cpu", torch.bfloat16):
        y, expected = affine(x, weight, bias), F.linear(x, weight, bias)
    assert y.dtype is torch.bfloat16
    torch.testing.assert_close(y, expected, rtol=2e-2, atol=2e-2)


def test_conv1d_is_the_layer_of_transformers():
    from transformers.pytorch_utils import Conv1D as TheirConv1D

    layer, other = Conv1D(7, 4), TheirConv1D(7, 4)
    other.bias.data.normal_()
    layer.load_state_dict(other.state_dict())
    x = torch.randn(2, 3, 4)
    torch.testing.assert_close(layer(x), other(x))


LAYOUTS = (torch.contiguous_format, torch.channels_last)


def kernels(shape: tuple[int, ...], draw: torch.Generator) -> list[torch.Tensor]:
    """One kernel in three layouts of memory: plain, inputs last, outputs last."""
    weight = torch.randn(shape, generator=draw)
    return [
        weight,
        weight.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2),
        weight.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2),
    ]


@pytest.mark.parametrize("kernel", [(1, 1), (3, 1), (1, 3), (3, 2)])
@pytest.mark.parametrize("groups", [1, 2])
def test_values_and_gradients_are_those_of_double_precision(kernel, groups):
    draw = torch.Generator().manual_seed(0)
    settings = product(
        [(3, 4), (8, 16), (24, 10)], [(1, 1), (2, 1), (2, 2)], [(0, 0), (1, 2)], LAYOUTS
    )
    for (inputs, outputs), stride, padding, layout in settings:
        x = torch.randn(2, inputs * groups, 9, 7, generator=draw).to(memory_format=layout)
        bias = torch.randn(outputs, generator=draw)
        for weight in kernels((outputs, inputs, *kernel), draw):
            given = [t.detach().clone().requires_grad_() for t in (x, weight, bias)]
            exact = [t.detach().double().requires_grad_() for t in given]
            y = convolve(*given, stride, padding, groups=groups)
            expected = F.conv2d(*exact, stride, padding, groups=groups)
            torch.testing.assert_close(y.double(), expected, rtol=1e-4, atol=1e-4)
            gradient = torch.randn(y.shape, generator=draw)
            y.backward(gradient)
            expected.backward(gradient.double())
            for single, double in zip(given, exact, strict=True):
                torch.testing.assert_close(single.grad.double(), double.grad, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("kernel", [(1, 1), (3, 2)])
def test_a_dilated_kernel_reads_every_other_pixel(kernel):
    x, weight = torch.randn(2, 6, 9, 8), torch.randn(4, 6, *kernel)
    found = convolve(x, weight, stride=(2, 1), padding=(1, 0), dilation=(2, 3))
    expected = F.conv2d(x, weight, None, (2, 1), (1, 0), (2, 3))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_a_1_x_1_kernel_keeps_channels_last():
    x = torch.randn(2, 6, 5, 4).to(memory_format=torch.channels_last)
    y = convolve(x, torch.randn(8, 6, 1, 1))
    assert y.is_contiguous(memory_format=torch.channels_last)


def test_an_image_without_a_batch_is_taken():
    x, weight = torch.randn(6, 5, 4), torch.randn(8, 6, 1, 1)
    torch.testing.assert_close(convolve(x, weight), F.conv2d(x, weight))


@pytest.mark.parametrize("padding", ["same", "valid", 1])
@pytest.mark.parametrize("kernel", [1, 3])
def test_the_layer_is_torchs_with_its_parameters(kernel, padding):
    layer, plain = (kind(6, 8, kernel, padding=padding) for kind in (Conv2d, nn.Conv2d))
    plain.load_state_dict(layer.state_dict())
    x = torch.randn(2, 6, 5, 4)
    torch.testing.assert_close(layer(x), plain(x))
    assert repr(layer) == repr(plain)


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("compute", [mean_of_pixels, lambda x: convolve(x, KERNEL, stride=(2, 1))])
def test_gradients_lie_as_the_images(order, compute):
    x = torch.randn(3, 5, 4, 2, dtype=torch.double).to(memory_format=order).requires_grad_()
    assert torch.autograd.gradcheck(compute, x)
    seen = []
    inner = F.relu(x)
    inner.register_hook(lambda gradient: seen.append(gradient.stride()))
    compute(inner).sum().backward()
    assert seen == [x.stride()]


def test_the_mean_of_pixels_is_torchs():
    x = torch.randn(3, 5, 4, 2)
    for images in (x, x.to(memory_format=torch.channels_last)):
        torch.testing.assert_close(mean_of_pixels(images), x.mean(dim=(2, 3)))
