"""What `import lowrank` offers for a model of one's own: `lowrank.factorize(model, rank=0.25)`.

Nothing here knows a model by name: layers are chosen by their kind and by where they stand, and
changed in place. `choose` says which layers and what ranks, `transform` changes them, `measure`
reads them, `training` holds what a training loop needs beside its optimiser.
"""

from lowrank.api.measure import Report, effective_rank, report, singular_values
from lowrank.api.training import attach_decay, frobenius_decay, parameter_groups
from lowrank.api.transform import factorize, to_dense, truncate

__all__ = [
    "Report",
    "attach_decay",
    "effective_rank",
    "factorize",
    "frobenius_decay",
    "parameter_groups",
    "report",
    "singular_values",
    "to_dense",
    "truncate",
]
