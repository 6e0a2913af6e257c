"""Convolutions in factors: two convolutions in a row, the first one to r channels."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.utils import _pair

from lowrank.errors import unknown
from lowrank.factor.dense import convolve
from lowrank.factor.factorized import Factorized

MATRICISATIONS = ("channel", "spatial")


class FactorizedConv2d(Factorized):
    """A convolution of x (N, in_channels, H, W) as two: V first, to r channels a group, then U.

    `channel`: kh x kw with the stride, padding and dilation, then 1 x 1. `spatial`: 1 x kw with the
    horizontal stride, padding and dilation, then kh x 1 with the vertical ones. Padding is by
    zeros. `dense_class` is what `to_dense` gives back.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        rank: int,
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] | str = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        matricisation: str = "channel",
        *,
        dense_class: type[nn.Conv2d] = nn.Conv2d,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if matricisation not in MATRICISATIONS:
            raise unknown("matricisation", matricisation, MATRICISATIONS)
        kh, kw = _pair(kernel_size)
        ins, outs = in_channels // groups, out_channels // groups
        shape = (outs, ins * kh * kw) if matricisation == "channel" else (outs * kh, ins * kw)
        super().__init__(shape, rank, out_channels, bias, groups, device, dtype)
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size, self.stride, self.dilation = (kh, kw), _pair(stride), _pair(dilation)
        self.padding: str | tuple[int, int] = (
            padding if isinstance(padding, str) else cast("tuple[int, int]", _pair(padding))
        )
        self.matricisation, self.dense_class = matricisation, dense_class

    @property
    def dense_name(self) -> str:
        return self.dense_class.__name__

    @property
    def output_taps(self) -> int:
        return self.kernel_size[0] if self.matricisation == "spatial" else 1

    def forward(self, x: Tensor) -> Tensor:
        (kh, kw), groups = self.kernel_size, self.groups
        ins, outs = self.in_channels // groups, self.out_channels
        if self.matricisation == "channel":
            first = self._first(ins, kh, kw)
            second = self.U.reshape(outs, -1, 1, 1)
            x = convolve(x, first, None, self.stride, self.padding, self.dilation, groups)
            return convolve(x, second, self.bias, groups=groups)
        first = self._first(ins, 1, kw)
        second = self.U.reshape(outs, kh, -1).mT.unsqueeze(-1)
        (sh, sw), (dh, dw), padding = self.stride, self.dilation, self.padding
        # 'same' and 'valid' hold for each direction by themselves.
        across, down = (
            (padding, padding) if isinstance(padding, str) else ((0, padding[1]), (padding[0], 0))
        )
        x = convolve(x, first, None, (1, sw), across, (1, dw), groups)
        return convolve(x, second, self.bias, (sh, 1), down, (dh, 1), groups)

    def _first(self, *kernel: int) -> Tensor:
        """The kernel (groups r, inputs, kh, kw) of the first convolution: without groups a view of V."""
        return self.V.mT.unflatten(-1, kernel).flatten(0, -4)

    def dense_weight(self, matrix: Tensor | None = None) -> Tensor:
        (kh, kw), ins = self.kernel_size, self.in_channels // self.groups
        matrix = self.product() if matrix is None else matrix
        if self.matricisation == "channel":
            return matrix.reshape(self.out_channels, ins, kh, kw)
        return matrix.reshape(self.out_channels, kh, ins, kw).transpose(1, 2)

    def _dense_shell(self) -> nn.Module:
        return self.dense_class(
            self.in_channels,
            self.out_channels,
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
            self.groups,
            bias=self.bias is not None,
        )

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, "
            f"rank={self.rank}, stride={self.stride}, padding={self.padding}, "
            f"dilation={self.dilation}, groups={self.groups}, bias={self.bias is not None}, "
            f"matricisation={self.matricisation}"
        )


class FactorizedConv(Factorized):
    """A convolution of x (N, in_channels, ...) in one or three dimensions, in the channel matricisation: V
    with the kernel, stride, padding and dilation, then U with a kernel of ones. Padding is by zeros."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Sequence[int],
        rank: int,
        stride: Sequence[int],
        padding: Sequence[int] | str,
        dilation: Sequence[int],
        groups: int = 1,
        bias: bool = True,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        shape = (out_channels // groups, in_channels // groups * prod(kernel_size))
        super().__init__(shape, rank, out_channels, bias, groups, device, dtype)
        self.in_channels, self.out_channels, self.groups = in_channels, out_channels, groups
        self.kernel_size, self.stride = tuple(kernel_size), tuple(stride)
        self.dilation = tuple(dilation)
        self.padding: str | tuple[int, ...] = (
            padding if isinstance(padding, str) else tuple(padding)
        )

    @property
    def dense_name(self) -> str:
        return f"Conv{len(self.kernel_size)}d"

    def forward(self, x: Tensor) -> Tensor:
        convolution = F.conv1d if len(self.kernel_size) == 1 else F.conv3d
        kernel = (self.in_channels // self.groups, *self.kernel_size)
        first = self.V.mT.unflatten(-1, kernel).flatten(0, -len(kernel) - 1)
        second = self.U.reshape(self.out_channels, -1, *(1 for _ in self.kernel_size))
        x = convolution(x, first, None, self.stride, self.padding, self.dilation, self.groups)  # type: ignore[arg-type]
        return convolution(x, second, self.bias, groups=self.groups)

    def dense_weight(self, matrix: Tensor | None = None) -> Tensor:
        matrix = self.product() if matrix is None else matrix
        return matrix.reshape(self.out_channels, self.in_channels // self.groups, *self.kernel_size)

    def _dense_shell(self) -> nn.Module:
        return getattr(nn, self.dense_name)(
            *(self.in_channels, self.out_channels, self.kernel_size, self.stride, self.padding),
            *(self.dilation, self.groups),
            bias=self.bias is not None,
        )

    def extra_repr(self) -> str:
        return (
            f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}, "
            f"rank={self.rank}, stride={self.stride}, padding={self.padding}, "
            f"dilation={self.dilation}, groups={self.groups}, bias={self.bias is not None}"
        )
