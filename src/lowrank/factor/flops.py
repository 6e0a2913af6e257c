"""What a forward pass costs in floating-point operations, counted layer by layer: 2 a multiply-add.

Linear and Conv1D: 2 m n a token. Conv2d: 2 m n a group and output pixel, n = in kh kw / groups.
Factorised: 2 r n where the first factor acts and 2 r m where the second does (for the spatial
matricisation the first keeps the input's height). Attention adds 4 T^2 d a sequence: scores and
values at width d over all T^2 pairs, masked or not, as fused kernels are customarily counted.
Norms, activations, embeddings and biases count nothing. A training step costs about three forward
passes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call

from lowrank.errors import LowrankError
from lowrank.factor.convert import evaluating
from lowrank.factor.layers import Factorized, FactorizedConv2d, FactorizedLinear, is_conv1d

FREE = (nn.Embedding, nn.LayerNorm, nn.modules.batchnorm._BatchNorm, nn.GroupNorm)
"""Layers with parameters whose work is not counted."""


def forward_flops(model: nn.Module, *example_inputs: Any) -> int:
    """The FLOPs of `model(*example_inputs)` as this module counts them, on meta devices too.

    The model runs once in evaluation mode. A layer whose work has no formula here raises
    LowrankError.
    """
    return sum(_count(model, example_inputs).values())


def layer_table(model: nn.Module, *example_inputs: Any) -> list[dict[str, Any]]:
    """A row `name`, `parameters`, `flops` for each layer that has either, in the model's order.

    Attention's scores stand in a row of their own, the attention module's. A tied weight counts at
    its first layer, so that the parameters add up to those of the model.
    """
    flops = _count(model, example_inputs)
    seen: set[int] = set()
    rows = []
    for name, module in model.named_modules():
        own = [p for p in module.parameters(recurse=False) if id(p) not in seen]
        seen.update(id(p) for p in own)
        row = {"name": name, "parameters": sum(p.numel() for p in own), "flops": flops.get(name, 0)}
        if row["parameters"] or row["flops"]:
            rows.append(row)
    return rows


def _count(model: nn.Module, example_inputs: tuple[Any, ...]) -> dict[str, int]:
    flops: dict[str, int] = {}

    def watch(name: str, cost: Callable[..., int]) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            # Added up, because a layer may be called more than once.
            flops[name] = flops.get(name, 0) + cost(module, args, output)

        return hook

    handles = []
    try:
        for name, module in model.named_modules():
            cost = _cost(name, module)
            if cost:
                handles.append(module.register_forward_hook(watch(name, cost)))
        with evaluating(model), torch.no_grad():
            _forward(model, example_inputs)
    finally:
        for handle in handles:
            handle.remove()
    return flops


def _forward(model: nn.Module, example_inputs: tuple[Any, ...]) -> None:
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    if not any(tensor.is_meta for tensor in tensors.values()):
        model(*example_inputs)
        return
    # To build its masks transformers looks at values, which meta tensors do not have. Fake tensors
    # have none either and do as little work, but those it knows to leave alone.
    with FakeTensorMode():

        def fake(value: Any) -> Any:
            if not isinstance(value, Tensor):
                return value
            return torch.empty(value.shape, dtype=value.dtype, device="cpu")

        stand_ins = {name: fake(tensor) for name, tensor in tensors.items()}
        functional_call(model, stand_ins, tuple(fake(value) for value in example_inputs))


def _cost(name: str, module: nn.Module) -> Callable[..., int] | None:
    """The formula of one module, or None if it does no work of its own that counts."""
    if isinstance(module, FactorizedLinear):
        return _factorized_linear
    if isinstance(module, FactorizedConv2d):
        return _factorized_conv
    if isinstance(module, nn.Linear) or is_conv1d(module):
        return _linear
    if isinstance(module, nn.Conv2d):
        return _conv
    # By name: importing transformers to compare classes takes seconds.
    if type(module).__name__ == "GPT2Attention":
        return _attention
    unknown = not isinstance(module, (*FREE, Factorized)) and any(
        p.ndim > 1 for p in module.parameters(recurse=False)
    )
    if unknown:
        raise LowrankError(
            f"Layer '{name}' is a {type(module).__name__}, which has no formula for FLOPs: add one."
        )
    return None


def _linear(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> int:
    return 2 * (output.numel() // output.shape[-1]) * module.weight.numel()  # type: ignore[operator, union-attr]


def _conv(module: nn.Conv2d, args: tuple[Any, ...], output: Tensor) -> int:
    return 2 * (output.numel() // module.out_channels) * module.weight.numel()


def _factorized_linear(module: FactorizedLinear, args: tuple[Any, ...], output: Tensor) -> int:
    tokens = output.numel() // module.out_features
    return 2 * tokens * (module.U.numel() + module.V.numel())


def _factorized_conv(module: FactorizedConv2d, args: tuple[Any, ...], output: Tensor) -> int:
    after = output.numel() // module.out_channels
    between = after
    if module.matricisation == "spatial":
        between = after // output.shape[-2] * args[0].shape[-2]
    return 2 * (between * module.V.numel() + after * module.U.numel())


def _attention(module: nn.Module, args: tuple[Any, ...], output: Any) -> int:
    states = output[0] if isinstance(output, tuple) else output
    tokens, width = states.shape[-2:]
    return 4 * (states.numel() // width) * tokens * width
