"""What a forward pass costs in floating-point operations, counted by what runs: 2 a multiply-add.

torch's own counter sees every matrix product and convolution, whichever module calls it: 2 m n a
token in a Linear, 2 r (m + n) in a factorised one, and 4 T^2 d a sequence in attention, scores and
values at width d over all T^2 pairs, masked or not, as fused kernels are customarily counted. What
works element by element (norms, activations, biases) or only moves data counts nothing. A training
step costs about three forward passes, less what no gradient is taken of.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils import flop_counter
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from lowrank.errors import LowrankError
from lowrank.factor.convert import evaluating

aten = torch.ops.aten
VECTOR_PRODUCTS: dict[Any, Callable[..., int]] = {
    aten.mv: lambda matrix, vector, **_: 2 * matrix.numel(),
    aten.addmv: lambda bias, matrix, vector, **_: 2 * matrix.numel(),
    aten.dot: lambda a, b, **_: 2 * a.numel(),
    aten.vdot: lambda a, b, **_: 2 * a.numel(),
}
"""Formulas that torch's counter lacks, of shapes."""

FREE = (
    *(aten.cat, aten.stack, aten.copy, aten.copy_, aten.index_put, aten.index_put_),
    *(aten.scatter, aten.scatter_, aten.scatter_add, aten.scatter_add_, aten.index_add),
    *(aten.slice_scatter, aten.select_scatter, aten.masked_scatter, aten.masked_scatter_),
    *(aten.native_layer_norm, aten._thnn_fused_lstm_cell, aten._thnn_fused_gru_cell),
)
"""Operations on several matrices that move data or work element by element."""
SMALL = 10_000_000
"""Parameters of a model on the meta device up to which it is run rather than traced."""


def forward_flops(model: nn.Module, *example_inputs: Any) -> int:
    """The FLOPs of `model(*example_inputs)` as this module counts them, on meta devices too.

    The model runs once in evaluation mode. An operation that combines matrices and has no formula
    raises LowrankError: `torch.utils.flop_counter.register_flop_formula` gives it one.
    """
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    if not any(tensor.is_meta for tensor in tensors.values()):
        return _count(model, lambda: model(*example_inputs))
    # To build its masks transformers looks at values, which meta tensors do not have. Fake tensors have none
    # either, but those it knows to leave alone; yet importing them takes a second, and a small model less.
    small = sum(tensor.numel() for tensor in tensors.values()) <= SMALL
    with torch.device("cpu"), nullcontext() if small else FakeTensorMode():
        stand_ins = {name: _stand_in(tensor) for name, tensor in tensors.items()}
        inputs = tuple(_stand_in(value) for value in example_inputs)
        return _count(model, lambda: functional_call(model, stand_ins, inputs))


def _without_compiler(mode: Any) -> None:
    """At a mode's first operator torch imports its compiler, which takes longer than torch itself, to leave
    the mode out of what is compiled; unless it knows already what to call instead: the mode."""
    plain = getattr(getattr(mode, "__torch_dispatch__", None), "__wrapped__", None)
    if plain is not None:
        setattr(plain, "__dynamo_disable", plain)


def _count(model: nn.Module, run: Callable[[], Any]) -> int:
    counter = FlopCounterMode(display=False, custom_mapping=VECTOR_PRODUCTS)
    with evaluating(model), torch.no_grad(), _unfused(), _Watch(counter), counter:
        run()
    return int(counter.get_total_flops())


def saved_flops(model: nn.Module, *example_inputs: Any) -> int:
    """What a backward pass of `model(*example_inputs)` saves because some parameters need no gradient."""
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    every = {name for name, _ in model.named_parameters()}
    if trained == every:
        return 0
    whole, actual = (_both_passes(model, example_inputs, names) for names in (every, trained))
    return whole - actual


def _both_passes(
    model: nn.Module, example_inputs: tuple[Any, ...], trained: Collection[str]
) -> int:
    """FLOPs of a forward and a backward pass with gradients of the named parameters alone."""
    counter = FlopCounterMode(display=False, custom_mapping=VECTOR_PRODUCTS)
    with ExitStack() as stack:
        stack.enter_context(evaluating(model))
        stack.enter_context(_unfused())
        stack.enter_context(FakeTensorMode())
        tensors = {
            name: _stand_in(tensor).requires_grad_(name in trained)
            for name, tensor in (
                dict(model.named_parameters()) | dict(model.named_buffers())
            ).items()
        }
        inputs = tuple(_stand_in(value) for value in example_inputs)
        stack.enter_context(counter)
        found = functional_call(model, tensors, inputs)
        getattr(found, "logits", found).sum().backward()
    return int(counter.get_total_flops())


@contextmanager
def _unfused() -> Iterator[None]:
    """Attention, encoder layers and recurrent layers as the products they consist of: the counter
    does not know their fused kernels."""
    backends: Any = torch.backends
    fast = backends.mha.get_fastpath_enabled()
    mkldnn, cudnn = backends.mkldnn.enabled, backends.cudnn.enabled
    backends.mha.set_fastpath_enabled(False)
    backends.mkldnn.enabled = backends.cudnn.enabled = False
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        backends.mha.set_fastpath_enabled(fast)
        backends.mkldnn.enabled, backends.cudnn.enabled = mkldnn, cudnn


class _Watch(TorchDispatchMode):
    """Refuses what the counter would count as nothing although it multiplies matrices."""

    def __init__(self, counter: FlopCounterMode) -> None:
        super().__init__()
        self.counter = counter

    def __torch_dispatch__(
        self,
        func: Any,
        types: Collection[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        packet = getattr(func, "_overloadpacket", func)
        known = packet in self.counter.flop_registry or packet in FREE
        if not known and not _by_element(func) and _matrices(args, kwargs) > 1:
            layer = max(self.counter.mod_tracker.parents, key=len).partition(".")[2]
            where = f"Layer '{layer}'" if layer else "The model"
            raise LowrankError(
                f"{where} runs {packet}, which has no formula for FLOPs: give it one by "
                "torch.utils.flop_counter.register_flop_formula."
            )
        return func(*args, **kwargs)


def _by_element(func: Any) -> bool:
    return torch.Tag.pointwise in getattr(func, "tags", ()) or getattr(func, "is_view", False)


def _matrices(args: tuple[Any, ...], kwargs: dict[str, Any]) -> int:
    values = [value for value in tree_leaves((args, kwargs)) if isinstance(value, Tensor)]
    return sum(
        value.ndim > 1 and (value.is_floating_point() or value.is_complex()) for value in values
    )


def _stand_in(value: Any) -> Any:
    """Another tensor of the same shape, in FakeTensorMode without values."""
    if not isinstance(value, Tensor):
        return value
    return torch.zeros(value.shape, dtype=value.dtype, device="cpu")


for _mode in (_Watch, getattr(flop_counter, "_FlopCounterMode", None)):
    _without_compiler(_mode)
