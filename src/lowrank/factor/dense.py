"""Dense linear layers and convolutions, computed so that they are fast on a CPU."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lowrank.factor.product import product, suits_onednn


def affine(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """F.linear: x W^T + b for x (..., n), W (m, n), b (m) or None.

    On a CPU the bias is added to the product: torch would copy it into the result first and let the product
    add to that, which takes up to a third longer where n, a rank for one, is small.
    """
    if bias is None or not x.is_cpu or suits_onednn(x, weight, bias):
        return product(x, weight, bias)
    return product(x, weight).add_(bias)


def convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] | str = (0, 0),
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
) -> Tensor:
    """F.conv2d of x (N, C, H, W); a 1 x 1 kernel multiplies the pixels that it reads.

    With channels last, as a product wants them and gives them back, that takes half the time of oneDNN's
    convolution where images are small. Nor does it write beyond its buffer, as oneDNN's strided 1 x 1
    kernel for AVX2 does where there are fewer than 8 channels. Of grouped kernels oneDNN misreads those of
    one column that lie channels last.
    """
    if weight.shape[-2:] == (1, 1):
        if not isinstance(padding, str) and any(padding):  # of a 1 x 1 kernel both words mean none
            top, left = padding
            x = F.pad(x, (left, left, top, top))
        if tuple(stride) != (1, 1):
            x = _every(x, *stride)
        if groups == 1:
            return affine(x.movedim(-3, -1), weight.flatten(1), bias).movedim(-1, -3)
        stride, padding = (1, 1), (0, 0)
    if groups > 1:
        weight = weight.contiguous()
    return F.conv2d(x, weight, bias, stride, padding, dilation, groups)


def mean_of_pixels(x: Tensor) -> Tensor:
    """The mean (N, C) of images (N, C, H, W) over their pixels, its gradient in the order of the images.

    torch's gradients of a mean and of a slice lie channels first, and where images lie channels last, whatever
    comes before takes many times as long for that.
    """
    if x.is_contiguous():
        return x.mean(dim=(-2, -1))
    return x.movedim(-3, -1).flatten(-3, -2).mean(-2)


def _every(x: Tensor, down: int, across: int) -> Tensor:
    """Every so many pixels of images, their gradient in the order of the images too."""
    if x.is_contiguous():
        return x[..., ::down, ::across]
    return x.movedim(-3, -1)[..., ::down, ::across, :].movedim(-1, -3)


class Conv1D(nn.Module):
    """y = x W + b for x (..., inputs): the linear layer of GPT-2's checkpoints, whose W is (inputs, outputs).

    The name, the constructor and the parameters are those of transformers' layer. The model that holds it
    draws its values.
    """

    def __init__(self, outputs: int, inputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(inputs, outputs))
        self.bias = nn.Parameter(torch.empty(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return affine(x, self.weight.T, self.bias)


class Conv2d(nn.Conv2d):
    """torch's own layer, computed by `convolve`; padding by zeros alone."""

    def forward(self, input: Tensor) -> Tensor:
        return convolve(
            input,
            self.weight,
            self.bias,
            cast("tuple[int, int]", self.stride),
            cast("tuple[int, int] | str", self.padding),
            cast("tuple[int, int]", self.dilation),
            self.groups,
        )


def is_conv1d(module: nn.Module) -> bool:
    """Whether this is our Conv1D or that of transformers, told by name: importing it takes seconds."""
    kind = type(module)
    foreign = kind.__name__ == "Conv1D" and kind.__module__ == "transformers.pytorch_utils"
    return kind is Conv1D or foreign
