"""Post-hoc compression: a trained dense model truncated to low rank, without further training.

A truncation is `fn(weight (..., m, n), rank, statistic) -> U, V`, entered in `TRUNCATIONS` with the
statistic of calibration data that it needs. All choose ranks alike, hence keep equally many
parameters. All are one formula: the rank-r matrix closest to W when errors are weighed by a root L,
min |(W - W_r) L|_F, is W_r = A A^T W with A the top-r left singular vectors of W L. It needs no
inverse of L, so inputs that never vary do no harm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lowrank.errors import LowrankError
from lowrank.factor.convert import evaluating, plan_replacements, replace_layers
from lowrank.factor.layers import matricise
from lowrank.factor.own import call, call_for_factors
from lowrank.factor.svd import svd
from lowrank.registry import Registry

Loss = Callable[[nn.Module, Any], Tensor]
Layers = dict[str, nn.Module]
Gather = Callable[[nn.Module, Layers, str, Iterable[Any], Loss], dict[str, Tensor]]
Factorize = Callable[[Tensor, int, "Tensor | None"], tuple[Tensor, Tensor]]

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
RIDGE = 1e-8
"""Share of its mean diagonal added to a statistic: ranks directions the data never use."""


@dataclass(frozen=True)
class Truncation:
    """A way to truncate, and how to gather the statistic it needs of each layer (None: none)."""

    factorize: Factorize
    gather: Gather | None


TRUNCATIONS: Registry[Truncation] = Registry("truncation")


def truncation(name: str, gather: Gather | None = None) -> Callable[[Factorize], Factorize]:
    """Decorator that enters a function in `TRUNCATIONS`; a name taken raises LowrankError."""

    def enter(factorize: Factorize) -> Factorize:
        TRUNCATIONS.add(name, Truncation(factorize, gather))
        return factorize

    return enter


def truncate_model(
    model: nn.Module,
    scales: Mapping[str, float],
    *,
    method: str,
    rank_fraction: float = 1.0,
    rank_multiple: int = 16,
    ranks: Mapping[str, int] | None = None,
    matricisation: str = "channel",
    batches: Iterable[Any] = (),
    loss: Loss | None = None,
) -> list[str]:
    """Truncate every layer named in `scales` (values ignored), in place; returns the names.

    Ranks are as in `factorize_model`.
    `batches` are calibration data and `loss(model, batch)` a scalar, for methods that need them;
    the model is in evaluation mode meanwhile and its gradients stay as they were. Batch-norm
    statistics stay too, those of the dense weights: call `recompute_batch_norm` next. Besides the
    errors of `factorize_model`, an unknown method, missing calibration data, a layer that they do
    not reach, or whitening the spatial matricisation (whose columns no input is) raises
    LowrankError.
    """
    chosen = TRUNCATIONS[method]
    plan = plan_replacements(model, scales, rank_fraction, rank_multiple, matricisation, ranks)
    statistics: dict[str, Tensor] = {}
    if chosen.gather:
        if loss is None:
            raise LowrankError(f"Truncation '{method}' needs calibration batches and a loss.")
        layers = {step.name: step.dense for step in plan if not step.tied}
        with evaluating(model):
            statistics = call(
                TRUNCATIONS.kind, method, chosen.gather, model, layers, matricisation, batches, loss
            )
        if not isinstance(statistics, Mapping):
            raise LowrankError(
                f"Truncation '{method}' gathered a {type(statistics).__name__}, where a statistic "
                "of each layer by name is expected."
            )
        for name in layers:
            if name not in statistics:
                raise LowrankError(
                    f"No calibration batch reached layer '{name}': truncation '{method}' needs "
                    "data for every layer."
                )
            if not statistics[name].isfinite().all():
                raise LowrankError(
                    f"The calibration data give layer '{name}' NaN or infinity, of which truncation "
                    f"'{method}' cannot be made: look for them in the batches and the weights."
                )
    for step in plan:
        if step.tied:
            continue
        weight = matricise(step.dense, matricisation).detach().double()
        rank, statistic = step.factorized.rank, statistics.get(step.name)
        like = step.factorized.U.shape, step.factorized.V.shape
        U, V = call_for_factors(
            TRUNCATIONS.kind, method, chosen.factorize, weight, rank, statistic, like=like
        )
        step.factorized.set_factors(U, V)
    return replace_layers(model, plan)


def input_moments(
    model: nn.Module, layers: Layers, matricisation: str, batches: Iterable[Any], loss: Loss
) -> dict[str, Tensor]:
    """The second moment sum(x x^T) (..., n, n) of each layer's inputs, float64, by hooks.

    The inputs of a convolution are its patches, the columns of the channel matricisation. Those of an
    embedding never come two at a time: its moment is diagonal, and given as how often each came (n).
    """
    if matricisation != "channel" and any(isinstance(m, nn.Conv2d) for m in layers.values()):
        raise LowrankError(
            "Whitening needs the inputs that a matrix acts on, which the spatial matricisation "
            "of a convolution has not: use 'channel'."
        )
    moments: dict[str, Tensor] = {}

    def watch(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            for moment in _moments(module, args[0].detach()):
                moments[name] = moments[name] + moment if name in moments else moment

        return hook

    handles = [module.register_forward_pre_hook(watch(name)) for name, module in layers.items()]
    try:
        with torch.no_grad():
            for batch in batches:
                loss(model, batch)
    finally:
        for handle in handles:
            handle.remove()
    return moments


def squared_gradients(
    model: nn.Module, layers: Layers, matricisation: str, batches: Iterable[Any], loss: Loss
) -> dict[str, Tensor]:
    """Fisher information (..., n) of each input: squared gradients summed over outputs.

    One gradient a batch (Hsu et al. 2022, FWSVD): batches of one example give the exact
    expectation.
    """
    weights = [cast(Tensor, module.weight) for module in layers.values()]
    frozen = [weight for weight in weights if not weight.requires_grad]
    fisher: dict[str, Tensor] = {}
    try:
        for weight in frozen:
            weight.requires_grad_(True)
        for batch in batches:
            with torch.enable_grad():
                value = loss(model, batch)
            gradients = torch.autograd.grad(value, weights, allow_unused=True)
            for (name, module), gradient in zip(layers.items(), gradients, strict=True):
                if gradient is None:
                    continue
                squares = matricise(module, matricisation, gradient).double().square().sum(-2)
                fisher[name] = fisher[name] + squares if name in fisher else squares
    finally:
        for weight in frozen:
            weight.requires_grad_(False)
    return fisher


@truncation("plain")
def plain(weight: Tensor, rank: int, statistic: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The best rank-r approximation of the weight (Eckart and Young 1936)."""
    return _project(weight, weight, rank)


@truncation("whitened", gather=input_moments)
def whitened(weight: Tensor, rank: int, statistic: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The best rank r for the layer's outputs: L L^T is the second moment of its inputs."""
    if statistic is None:
        raise LowrankError("Truncation 'whitened' needs the second moment of the layer's inputs.")
    if statistic.ndim < weight.ndim:
        return fisher(weight, rank, statistic)
    return _project(weight, weight @ _root(statistic), rank)


@truncation("fisher", gather=squared_gradients)
def fisher(weight: Tensor, rank: int, statistic: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Fisher-weighted SVD (Hsu et al. 2022): each input weighs the root of its information."""
    if statistic is None:
        raise LowrankError("Truncation 'fisher' needs squared gradients of the layer's weight.")
    weighed = (statistic + _ridge(statistic)).sqrt()
    return _project(weight, weight * weighed.unsqueeze(-2), rank)


def _project(weight: Tensor, weighed: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Balanced factors (equal Gram matrices) of A A^T W, A the top-r left vectors of `weighed`."""
    A = svd(weighed)[0][..., :rank]
    P, s, B = svd(A.mT @ weight)
    root = s.unsqueeze(-2).sqrt()
    return (A @ P) * root, B * root


def _ridge(diagonal: Tensor) -> Tensor:
    """A small constant per matrix, 1 where the statistic is all zero and says nothing."""
    mean = diagonal.mean(-1, keepdim=True)
    return torch.where(mean > 0, RIDGE * mean, 1.0)


def _root(moment: Tensor) -> Tensor:
    """L with L L^T the moment and its ridge: by Cholesky, or by eigenvalues where that fails."""
    ridge = _ridge(moment.diagonal(dim1=-2, dim2=-1))
    ridged = moment + torch.diag_embed(ridge.expand(moment.shape[:-1]))
    if not ridged.isfinite().all():
        raise LowrankError("The second moment of a layer's inputs holds NaN or infinity.")
    L, failed = torch.linalg.cholesky_ex(ridged)
    if not failed.any():
        return L
    values, vectors = torch.linalg.eigh(ridged)
    return vectors * values.clamp_min(0).sqrt().unsqueeze(-2)


def _moments(module: nn.Module, x: Tensor) -> Iterable[Tensor]:
    """The second moments of parts of a layer's inputs, in float64; of an embedding how often each came."""
    if isinstance(module, nn.Embedding):
        yield torch.bincount(x.flatten(), minlength=module.num_embeddings).double()
        return
    for columns in _columns(module, x):
        yield columns @ columns.mT


def _columns(module: nn.Module, x: Tensor) -> Iterable[Tensor]:
    """The inputs of a layer as columns (..., n, count) in float64, a few images at a time."""
    if not isinstance(module, CONVOLUTIONS):
        yield x.reshape(-1, x.shape[-1]).double().mT
        return
    for part in x.reshape(-1, *x.shape[-1 - len(module.kernel_size) :]).split(16):
        padded = F.pad(part.double(), module._reversed_padding_repeated_twice)
        if isinstance(module, nn.Conv2d):
            patches = F.unfold(padded, module.kernel_size, module.dilation, 0, module.stride)  # type: ignore[arg-type]
        else:
            patches = _unfold(padded, module)
        columns = patches.transpose(0, 1).flatten(1)
        yield columns.unflatten(0, (module.groups, -1)) if module.groups > 1 else columns


def _unfold(x: Tensor, module: nn.Conv1d | nn.Conv3d) -> Tensor:
    """F.unfold of x (N, C, ...) in any number of dimensions: (N, C kernel, positions)."""
    dimensions = len(module.kernel_size)
    settings = zip(module.kernel_size, module.dilation, module.stride, strict=True)
    for at, (size, dilation, stride) in enumerate(settings):
        x = x.unfold(2 + at, (size - 1) * dilation + 1, stride)[..., ::dilation]
    positions, kernel = range(2, 2 + dimensions), range(2 + dimensions, 2 + 2 * dimensions)
    x = x.permute(0, 1, *kernel, *positions)
    return x.flatten(2 + dimensions).flatten(1, -2)
