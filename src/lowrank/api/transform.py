"""Dense models into factorised ones, before training or after it, and back."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from lowrank.api.choose import Rank, choose_layers, choose_ranks
from lowrank.errors import LowrankError, unknown
from lowrank.factor import convert
from lowrank.factor.batch_norm import recompute_batch_norm
from lowrank.factor.layers import Factorized, can_factorize
from lowrank.factor.truncate import truncate_model

METHODS = ("uv",)


def factorize(
    model: nn.Module,
    rank: Rank | Mapping[str, Rank] | None = None,
    *,
    kept_parameters: float | None = None,
    layers: Iterable[str] | None = None,
    exclude: Iterable[str] = (),
    init: str = "spectral",
    method: str = "uv",
    matricisation: str = "channel",
    seed: int = 0,
) -> nn.Module:
    """Replace dense layers by U V^T, in place, to train them; returns the model.

    `rank` is a fraction of each layer's smaller side, a whole rank, or either by pattern of layer
    names, the first that fits counting; or give `kept_parameters`, the share of its parameters that
    each layer keeps. `layers` and `exclude` are patterns of names; without `layers`, those of the
    repeated blocks are taken (see `lowrank.api.choose`). `init` is `spectral` (the SVD of the weights
    that are there: also right for a trained model), `spectral_ones`, `he` or another registered
    initialisation; draws depend on `seed` and a layer's name alone.

    Buffers, biases and all other parameters stay the same objects; an optimiser is built afterwards.
    What does not fit raises LowrankError and leaves the model as it was.
    """
    if method not in METHODS:
        raise unknown("method", method, METHODS)
    if can_factorize(model):  # it stands alone and cannot be changed in place
        holder = nn.Sequential(model)
        factorize(
            holder,
            rank,
            kept_parameters=kept_parameters,
            init=init,
            matricisation=matricisation,
            seed=seed,
        )
        return holder[0]
    names = choose_layers(model, layers, exclude)
    ranks = choose_ranks(model, names, rank, kept_parameters, matricisation)
    convert.factorize_model(
        model,
        dict.fromkeys(ranks, 1.0),
        ranks=ranks,
        init=init,
        seed=seed,
        matricisation=matricisation,
    )
    _declare(model)
    return model


def truncate(
    model: nn.Module,
    data: Iterable[Any] = (),
    rank: Rank | Mapping[str, Rank] | None = None,
    *,
    kept_parameters: float | None = None,
    layers: Iterable[str] | None = None,
    exclude: Iterable[str] = (),
    method: str = "whitened",
    matricisation: str = "channel",
    loss: Callable[[nn.Module, Any], Tensor] | None = None,
) -> nn.Module:
    """Compress a trained model: truncate dense layers to low rank, in place; returns the model.

    `method`: `whitened` weighs errors by the inputs that the calibration batches `data` give a layer
    (needed: some thousand vectors a layer), `fisher` by squared gradients, `plain` not at all and
    needs no data. A batch is what the model takes: a mapping of keywords (as transformers' loaders
    give them), a list or tuple, or one tensor; it is moved to the model's device. `loss(model, batch)`
    gives the scalar that `fisher` differentiates; without it the output's `.loss` is used. Statistics
    of batch norms are estimated again from `data`. Ranks and layers are chosen as in `factorize`.
    """
    names = choose_layers(model, layers, exclude)
    ranks = choose_ranks(model, names, rank, kept_parameters, matricisation)
    batches = [moved(batch, model) for batch in data]
    measured = loss or (_output_loss if method == "fisher" else run)
    truncate_model(
        model,
        dict.fromkeys(ranks, 1.0),
        method=method,
        ranks=ranks,
        matricisation=matricisation,
        batches=batches,
        loss=measured,
    )
    if batches:
        recompute_batch_norm(model, batches, run if loss is None else loss)
    _declare(model)
    return model


def to_dense(model: nn.Module) -> nn.Module:
    """Replace every factorised layer by the dense layer that computes the same, in place."""
    if isinstance(model, Factorized):
        return model.to_dense()
    convert.to_dense(model)
    _declare(model)
    return model


def _declare(model: nn.Module) -> None:
    """A model of transformers carries its factorised layers in its config, to be saved with it."""
    library = sys.modules.get("transformers")
    if library is not None and isinstance(model, library.PreTrainedModel):
        from lowrank.api.exchange import declare

        declare(model)


def run(model: nn.Module, batch: Any) -> Any:
    if isinstance(batch, Mapping):
        return model(**batch)
    return model(*batch) if isinstance(batch, list | tuple) else model(batch)


def _output_loss(model: nn.Module, batch: Any) -> Tensor:
    value = getattr(run(model, batch), "loss", None)
    if not isinstance(value, Tensor):
        raise LowrankError(
            "The model's output has no loss: put labels in the batches, or give loss=, a function of "
            "model and batch."
        )
    return value


def moved(batch: Any, model: nn.Module) -> Any:
    device = next(model.parameters()).device
    if isinstance(batch, Tensor):
        return batch.to(device)
    if isinstance(batch, Mapping):
        return {key: moved(value, model) for key, value in batch.items()}
    if isinstance(batch, list | tuple):
        return [moved(value, model) for value in batch]
    return batch
