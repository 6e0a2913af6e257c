"""Layers whose weight is a product of two factors, W = U V^T, which the forward pass never forms.

A dense weight is seen as a matrix of m outputs by n inputs ("matricised"). A convolution has two
such views: `channel`, out x (in kh kw), run as a kh x kw convolution to r channels and a 1 x 1
convolution (Pufferfish, Cuttlefish); and `spatial`, (out kh) x (in kw), run as a 1 x kw and a kh x
1 convolution (Khodak et al. 2021). Groups are independent matrices, stacked along a leading
dimension.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.utils import _pair

from lowrank.errors import LowrankError, unknown
from lowrank.factor.dense import Conv2d, affine, convolve, is_conv1d

MATRICISATIONS = ("channel", "spatial")


class Factorized(nn.Module):
    """A layer with factors U (..., m, r) and V (..., n, r), and a bias or None.

    The leading dimension is there only with more than one group. New factors are NaN until
    `set_factors` or `load_state_dict` fills them, so that a forgotten initialisation shows at once.
    """

    U: nn.Parameter
    V: nn.Parameter
    bias: nn.Parameter | None

    def __init__(
        self,
        matrix_shape: tuple[int, int],
        rank: int,
        outputs: int,
        bias: bool,
        groups: int = 1,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        m, n = matrix_shape
        if not 1 <= rank <= min(m, n):
            raise LowrankError(
                f"Rank {rank} does not fit a {m} x {n} matrix: use 1 to {min(m, n)}."
            )
        lead = (groups,) if groups > 1 else ()
        nan = float("nan")
        self.U = nn.Parameter(torch.full((*lead, m, rank), nan, device=device, dtype=dtype))
        self.V = nn.Parameter(torch.full((*lead, n, rank), nan, device=device, dtype=dtype))
        self.bias = nn.Parameter(torch.zeros(outputs, device=device, dtype=dtype)) if bias else None

    @property
    def rank(self) -> int:
        """The rank r of the product (of each group's product)."""
        return self.U.shape[-1]

    @property
    def matrix_shape(self) -> tuple[int, int]:
        """(m, n): outputs and inputs of the matrix that is factorised (of each group's matrix)."""
        return self.U.shape[-2], self.V.shape[-2]

    @property
    def dense_name(self) -> str:
        """The class of the dense layer in whose place this one stands."""
        raise NotImplementedError

    @property
    def output_taps(self) -> int:
        """How many positions the second factor sums over: its fan-in is this times r."""
        return 1

    @property
    def weight(self) -> Tensor:
        """The dense weight, formed at each access: for modules that read a child's weight by
        themselves, as the fast path of nn.TransformerEncoderLayer does. Forward never reads it."""
        return self.dense_weight()

    def product(self) -> Tensor:
        """The matrix U V^T (..., m, n), for conversion and tests: forward never forms it."""
        return self.U @ self.V.mT

    def set_factors(self, U: Tensor, V: Tensor) -> None:
        """Copy values into the factors, keeping their device and precision; shapes must agree."""
        for name, new, old in (("U", U, self.U), ("V", V, self.V)):
            if new.shape != old.shape:
                raise LowrankError(
                    f"Factor {name} has shape {tuple(new.shape)} where the layer has "
                    f"{tuple(old.shape)}."
                )
        with torch.no_grad():
            self.U.copy_(U)
            self.V.copy_(V)

    def dense_weight(self, matrix: Tensor | None = None) -> Tensor:
        """The product, or another matrix (..., m, n), in the layout of the dense layer's `weight`."""
        raise NotImplementedError

    def to_dense(self) -> nn.Module:
        """A layer of the original class that computes the same, with its own copy of the bias."""
        # Built on the meta device: nothing is allocated twice and no random number is drawn.
        with torch.device("meta"):
            dense = self._dense_shell()
        weight = self.dense_weight().detach().contiguous()
        dense.weight = nn.Parameter(weight, requires_grad=self.U.requires_grad)
        dense.register_parameter("bias", _copy(self.bias))
        return dense.train(self.training)

    def _dense_shell(self) -> nn.Module:
        raise NotImplementedError


class FactorizedLinear(Factorized):
    """y = (x V) U^T + b for x (..., in_features): U (out_features, r), V (in_features, r).

    `dense_class` is what `to_dense` gives back: nn.Linear or a Conv1D.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        rank: int,
        bias: bool = True,
        *,
        dense_class: type[nn.Module] = nn.Linear,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        shape = (out_features, in_features)
        super().__init__(shape, rank, out_features, bias, device=device, dtype=dtype)
        self.in_features, self.out_features = in_features, out_features
        self.dense_class = dense_class

    @property
    def dense_name(self) -> str:
        return self.dense_class.__name__

    def forward(self, x: Tensor) -> Tensor:
        return affine(x @ self.V, self.U, self.bias)

    def dense_weight(self, matrix: Tensor | None = None) -> Tensor:
        matrix = self.product() if matrix is None else matrix
        return matrix if self.dense_class is nn.Linear else matrix.mT

    def _dense_shell(self) -> nn.Module:
        if self.dense_class is nn.Linear:
            return nn.Linear(self.in_features, self.out_features, bias=self.bias is not None)
        return self.dense_class(self.out_features, self.in_features)

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, rank={self.rank}, "
            f"bias={self.bias is not None}"
        )


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


def can_factorize(module: nn.Module) -> bool:
    """Whether `from_dense` takes this layer: exactly nn.Linear, nn.Conv2d (or our own) or Conv1D, padded by
    zeros, its weight and bias parameters of its own.

    Another subclass may compute something else with its weight, so it is not taken on trust.
    """
    return obstacle(module) is None


def obstacle(module: nn.Module) -> str | None:
    """Why a layer cannot be factorised, to go on after its name; None if it can."""
    kind = type(module).__name__
    if type(module) not in (nn.Linear, nn.Conv2d, Conv2d) and not is_conv1d(module):
        return f"is a {kind} and cannot be factorised: only Linear, Conv2d and Conv1D can"
    if isinstance(module, nn.Conv2d) and module.padding_mode != "zeros":
        return (
            f"has padding_mode '{module.padding_mode}' and cannot be factorised: only 'zeros' can"
        )
    for leaf in ("weight", "bias"):
        if leaf not in module._parameters:
            sources = [name for name, _ in module.named_parameters() if name.startswith(leaf)]
            return (
                f"computes its {leaf} from {', '.join(sources) or 'elsewhere'} and cannot be "
                "factorised: make pruning, weight norm or spectral norm permanent first"
            )
    return None


def matricise(
    module: nn.Module, matricisation: str = "channel", tensor: Tensor | None = None
) -> Tensor:
    """The weight of a dense layer as a matrix (..., m, n), with a leading dimension for groups > 1.

    `tensor`, of the weight's shape, is laid out in its place (a gradient, say). `matricisation`
    matters to convolutions only. A layer that cannot be factorised raises LowrankError.
    """
    if matricisation not in MATRICISATIONS:
        raise unknown("matricisation", matricisation, MATRICISATIONS)
    _require(module)
    weight = cast(Tensor, module.weight) if tensor is None else tensor
    if is_conv1d(module):
        return weight.mT
    if isinstance(module, nn.Linear):
        return weight
    module = cast(nn.Conv2d, module)
    outs, ins, kh, kw = weight.shape
    lead = (module.groups, outs // module.groups) if module.groups > 1 else (outs,)
    if matricisation == "channel":
        return weight.reshape(*lead, ins * kh * kw)
    return weight.transpose(1, 2).reshape(*lead[:-1], lead[-1] * kh, ins * kw)


def from_dense(module: nn.Module, rank: int, matricisation: str = "channel") -> Factorized:
    """The factorised layer for a dense one: same device, precision and mode, a copy of its bias.

    Its factors are still to be set. A layer that cannot be factorised raises LowrankError.
    """
    _require(module)
    weight = cast(Tensor, module.weight)
    place: dict[str, Any] = {"device": weight.device, "dtype": weight.dtype}
    has_bias = module.bias is not None
    new: Factorized
    if isinstance(module, nn.Conv2d):
        new = FactorizedConv2d(
            module.in_channels,
            module.out_channels,
            cast("tuple[int, int]", module.kernel_size),
            rank,
            cast("tuple[int, int]", module.stride),
            cast("tuple[int, int] | str", module.padding),
            cast("tuple[int, int]", module.dilation),
            module.groups,
            has_bias,
            matricisation,
            dense_class=type(module),
            **place,
        )
    else:
        m, n = matricise(module).shape
        new = FactorizedLinear(n, m, rank, has_bias, dense_class=type(module), **place)
    new.bias = _copy(cast("nn.Parameter | None", module.bias))
    new.U.requires_grad_(weight.requires_grad)
    new.V.requires_grad_(weight.requires_grad)
    return cast(Factorized, new.train(module.training))


def _copy(parameter: nn.Parameter | None) -> nn.Parameter | None:
    if parameter is None:
        return None
    return nn.Parameter(parameter.detach().clone(), requires_grad=parameter.requires_grad)


def _require(module: nn.Module) -> None:
    if reason := obstacle(module):
        raise LowrankError(f"A layer {reason}.")
