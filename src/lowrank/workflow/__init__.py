"""What the workflow's rules ask Python: which files there are, and what each of them is made from.

Nothing here writes a file while the workflow is read; `Scale.begin` does, before the first job.
"""

from lowrank.workflow.reading import check_call, closing, ledger_of, open_scale

__all__ = ["check_call", "closing", "ledger_of", "open_scale"]
