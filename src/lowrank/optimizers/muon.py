"""Muon (Jordan et al. 2024) for the matrices between embedding and head, AdamW for all else.

torch's own Muon: momentum 0.95 with Nesterov's look-ahead, orthogonalised by five Newton-Schulz
iterations, and steps of 0.2 sqrt(max(m, n)) times the rate (Liu et al. 2025, arXiv 2502.16982), so
that an entry moves about as far as under AdamW. The learning rate is therefore one number, AdamW's,
for both, and so is the decoupled decay. A factor is a matrix like any other: U (m, r) and V (n, r)
are orthogonalised each by itself. Embeddings, an untied head, biases and gains are AdamW's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from lowrank.errors import LowrankError
from lowrank.optimizers import OPTIMIZERS, Algorithm, Moves
from lowrank.optimizers.adamw import STATES
from lowrank.optimizers.adamw import values as adamw_values

if TYPE_CHECKING:
    from lowrank.experiment.sections import TrainingSpec
    from lowrank.optimizers.base import Group

MOMENTUM = 0.95


def build(groups: Sequence[Group], spec: TrainingSpec) -> list[Moves]:
    """A Muon for hidden matrices and an AdamW for the rest, where there are any of each.

    A hidden weight that is no matrix (a kernel) is a LowrankError.
    """
    from torch.optim import Muon

    from lowrank.optimizers.base import AdamW

    for group in groups:
        for name in sorted(group.hidden):
            if (dimensions := group.parameters[name].ndim) != 2:
                raise LowrankError(
                    f"optimizer: muon moves matrices, and {name} has {dimensions} dimensions: use adamw "
                    "or sgd."
                )
    hidden = [group.for_torch(sorted(group.hidden)) for group in groups if group.hidden]
    rest = [(g, {n: p for n, p in g.parameters.items() if n not in g.hidden}) for g in groups]
    others = [replace(group, parameters=own) for group, own in rest if own]
    found: list[Moves] = []
    if hidden:
        found.append(
            Muon(hidden, lr=0.0, momentum=MOMENTUM, nesterov=True, adjust_lr_fn="match_rms_adamw")
        )
    if others:
        found.append(AdamW(others, spec))
    return found


def values(group: Group) -> int:
    """One momentum of a hidden matrix, AdamW's two of everything else."""
    return adamw_values(group) - sum(group.parameters[name].numel() for name in group.hidden)


OPTIMIZERS.add(
    "muon",
    Algorithm(
        "Muon",
        build,
        {**STATES, "momentum_buffer": "first"},
        values,
        kernels=False,
        sharded=False,
    ),
)
