"""Which files Snakemake waits for without making again what is made from them."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def waited_for(
    workflow: Any, files: list[str], product: str, reasons: list[str], made_from: str
) -> list[str]:
    """Files that a job reads or waits for, but that are no reason to make its product again: the `reasons`
    are, and another digest. Snakemake overlooks those while it makes files again that are marked so, hence the
    mark is left out when there is a reason. `workflow` is Snakemake's own, None where nothing is made."""
    from snakemake.io import IOFile, ancient

    if not Path(product).exists():
        return files
    record = workflow.persistence.params(IOFile(product)) if workflow else None
    made = Path(product).stat().st_mtime
    newer = any(Path(p).stat().st_mtime > made for p in reasons if Path(p).exists())
    if newer or (record is not None and repr(made_from) not in record):
        return files
    return list(map(ancient, files))
