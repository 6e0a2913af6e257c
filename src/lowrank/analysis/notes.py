"""What a contrast's note says of why it decides nothing."""

from __future__ import annotations

from typing import Any

CANNOT_TELL = "this scale cannot tell"
"""The smallest effect that its seeds settle is larger than the margin."""
NOTHING = "nothing to explain: what it is compared with is below the margin"
"""Of an interaction whose premise does not hold."""
UNSURE = "it is open whether there is anything to explain"
"""Of an interaction whose premise may not hold."""


def add_note(row: dict[str, Any], note: str) -> None:
    """Say this too."""
    row["note"] = "; ".join(filter(None, (row["note"], note)))
