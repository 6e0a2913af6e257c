"""Convolutions of images, those of 1 x 1 as the matrix products that they are."""

from __future__ import annotations

from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn


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
            x = x[..., :: stride[0], :: stride[1]]
        if groups == 1:
            return F.linear(x.movedim(-3, -1), weight.flatten(1), bias).movedim(-1, -3)
        stride, padding = (1, 1), (0, 0)
    if groups > 1:
        weight = weight.contiguous()
    return F.conv2d(x, weight, bias, stride, padding, dilation, groups)


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
