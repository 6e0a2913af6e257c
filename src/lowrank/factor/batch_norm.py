"""Batch-norm statistics of a model whose weights were replaced: the old ones describe other inputs.

A truncated or interpolated network normalises by running means and variances that were gathered
under the dense weights, and may fall to chance for that alone. They are estimated again from training
batches.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import nn

from lowrank.errors import LowrankError
from lowrank.factor.convert import evaluating


@torch.no_grad()
def recompute_batch_norm(
    model: nn.Module, batches: Iterable[Any], forward: Callable[[nn.Module, Any], Any]
) -> bool:
    """Replace all running statistics by their plain means over `batches`; whether there were any.

    `forward(model, batch)` runs the model (a loss will do). Each batch counts alike, whatever the
    norm's momentum; dropout is off meanwhile; modes, momenta and parameters stay as they were. A norm
    that keeps no statistics or that no batch reaches is left alone. No batch at all raises
    LowrankError; on any error the statistics are the old ones.
    """
    norms = [
        module
        for module in model.modules()
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is not None
    ]
    if not norms:
        return False
    kept = [(norm, norm.momentum, copy.deepcopy(norm.state_dict())) for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over the batches seen
    seen, failed = 0, True
    try:
        with evaluating(model):
            for norm in norms:
                norm.train()
            for batch in batches:
                forward(model, batch)
                seen += 1
        if not seen:
            raise LowrankError(
                "No batch was given to recompute batch-norm statistics from: give at least one."
            )
        failed = False
    finally:
        for norm, momentum, state in kept:
            norm.momentum = momentum
            if failed or not norm.num_batches_tracked:
                norm.load_state_dict(state)
    return True
