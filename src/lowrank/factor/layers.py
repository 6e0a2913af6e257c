"""Layers whose weight is a product of two factors, W = U V^T, which the forward pass never forms.

A dense weight is seen as a matrix of m outputs by n inputs ("matricised"). A convolution has two
such views: `channel`, out x (in kh kw), run as a kh x kw convolution to r channels and a 1 x 1
convolution (Pufferfish, Cuttlefish); and, in two dimensions, `spatial`, (out kh) x (in kw), run as a 1 x
kw and a kh x 1 convolution (Khodak et al. 2021). Groups are independent matrices, stacked along a
leading dimension. An embedding's inputs are the numbers that it has vectors of.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from lowrank.errors import LowrankError, unknown
from lowrank.factor.convolutions import MATRICISATIONS, FactorizedConv, FactorizedConv2d
from lowrank.factor.dense import Conv2d, affine, is_conv1d
from lowrank.factor.embedding import FactorizedEmbedding
from lowrank.factor.factorized import Factorized, copied
from lowrank.factor.product import times

__all__ = [
    "MATRICISATIONS",
    "Factorized",
    "FactorizedConv",
    "FactorizedConv2d",
    "FactorizedEmbedding",
    "FactorizedLinear",
    "can_factorize",
    "from_dense",
    "matricise",
    "obstacle",
]
KINDS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Embedding, Conv2d)
"""The classes of layers that have factorised ones, beside Conv1D."""


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

    @property
    def transposed(self) -> bool:
        return self.dense_class is not nn.Linear

    def forward(self, x: Tensor) -> Tensor:
        return affine(times(x, self.V), self.U, self.bias)

    def dense_weight(self, matrix: Tensor | None = None) -> Tensor:
        matrix = self.product() if matrix is None else matrix
        return matrix.mT if self.transposed else matrix

    def _dense_shell(self) -> nn.Module:
        if not self.transposed:
            return nn.Linear(self.in_features, self.out_features, bias=self.bias is not None)
        return self.dense_class(self.out_features, self.in_features)

    def extra_repr(self) -> str:
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, rank={self.rank}, "
            f"bias={self.bias is not None}"
        )


def can_factorize(module: nn.Module) -> bool:
    """Whether `from_dense` takes this layer: exactly one of `KINDS` or Conv1D, padded by zeros,
    its weight and bias parameters of its own.

    Another subclass may compute something else with its weight, so it is not taken on trust.
    """
    return obstacle(module) is None


def obstacle(module: nn.Module) -> str | None:
    """Why a layer cannot be factorised, to go on after its name; None if it can."""
    kind = type(module).__name__
    if type(module) not in KINDS and not is_conv1d(module):
        return (
            f"is a {kind} and cannot be factorised: only Linear, Conv1D, Conv1d, Conv2d, Conv3d and "
            "Embedding can"
        )
    mode = getattr(module, "padding_mode", "zeros")
    if mode != "zeros":
        return f"has padding_mode '{mode}' and cannot be factorised: only 'zeros' can"
    for option in ("max_norm", "scale_grad_by_freq", "sparse"):
        if getattr(module, option, None):
            return f"has {option}, which its factors cannot have: leave it dense"
    for leaf in ("weight",) if isinstance(module, nn.Embedding) else ("weight", "bias"):
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
    if is_conv1d(module) or isinstance(module, nn.Embedding):
        return weight.mT
    if isinstance(module, nn.Linear):
        return weight
    module = cast(nn.Conv2d, module)
    outs = weight.shape[0]
    lead = (module.groups, outs // module.groups) if module.groups > 1 else (outs,)
    if matricisation == "channel":
        return weight.reshape(*lead, weight[0].numel())
    if not isinstance(module, nn.Conv2d):
        raise LowrankError(
            f"A {type(module).__name__} has no spatial matricisation: use 'channel', or leave it dense."
        )
    _, ins, kh, kw = weight.shape
    return weight.transpose(1, 2).reshape(*lead[:-1], lead[-1] * kh, ins * kw)


def from_dense(module: nn.Module, rank: int, matricisation: str = "channel") -> Factorized:
    """The factorised layer for a dense one: same device, precision and mode, a copy of its bias.

    Its factors are still to be set. A layer that cannot be factorised raises LowrankError.
    """
    _require(module)
    weight = cast(Tensor, module.weight)
    place: dict[str, Any] = {"device": weight.device, "dtype": weight.dtype}
    bias = cast("nn.Parameter | None", getattr(module, "bias", None))
    has_bias = bias is not None
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
    elif isinstance(module, nn.Conv1d | nn.Conv3d):
        matricise(module, matricisation)
        new = FactorizedConv(
            *(module.in_channels, module.out_channels, module.kernel_size, rank, module.stride),
            *(module.padding, module.dilation, module.groups, has_bias),
            **place,
        )
    elif isinstance(module, nn.Embedding):
        new = FactorizedEmbedding(
            module.num_embeddings, module.embedding_dim, rank, module.padding_idx, **place
        )
    else:
        m, n = matricise(module).shape
        new = FactorizedLinear(n, m, rank, has_bias, dense_class=type(module), **place)
    new.bias = copied(bias)
    new.U.requires_grad_(weight.requires_grad)
    new.V.requires_grad_(weight.requires_grad)
    return cast(Factorized, new.train(module.training))


def _require(module: nn.Module) -> None:
    if reason := obstacle(module):
        raise LowrankError(f"A layer {reason}.")
