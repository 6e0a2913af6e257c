"""Record the golden study anew, after a change that is meant to change results.

`python tests/golden/record.py` writes tests/golden/record. With `--compare` nothing is written: for
each column of results it prints how far this machine's lie from the record, which is how the
tolerances in `test_golden.py` were measured.
"""

from __future__ import annotations

import json
import sys
import tempfile
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import pandas as pd
from golden import DERIVED, HERE, KEYS, derive, differences, make, platform, read, write

from lowrank.versions import VERSIONS

RECORD = HERE / "record"


def record(folder: Path) -> None:
    """Train the study and write its record."""
    write(RECORD, make(folder))
    trained = {name: read(RECORD, name) for name in KEYS if name not in DERIVED}
    write(RECORD, derive(trained, folder))
    origin = {"platform": platform(), "versions": dict(VERSIONS)}
    (RECORD / "origin.json").write_text(json.dumps(origin, indent=1) + "\n", encoding="utf-8")


def compare(folder: Path) -> None:
    """Print the largest difference to the record in each column of results."""
    rows: list[dict[str, object]] = []
    for name, table in make(folder).items():
        far: dict[str, list[float]] = {}

        def note(column: str, a: float, b: float, far: dict[str, list[float]] = far) -> bool:
            far.setdefault(column, []).append(abs(a - b) / abs(a) if a else float("inf"))
            far.setdefault(column + " ", []).append(abs(a - b))
            return True

        words = [sentence for _, sentence in differences(name, read(RECORD, name), table, note)]
        rows += [
            {
                "table": name,
                "column": c,
                "relative": max(v),
                "absolute": max(far[c + " "]),
                "fields": len(v),
            }
            for c, v in far.items()
            if not c.endswith(" ")
        ]
        print("".join(f"{sentence}\n" for sentence in words), end="")
    origin = json.loads((RECORD / "origin.json").read_text(encoding="utf-8"))
    print(f"record: {origin['platform']}\nhere:   {platform()}")
    shown = pd.DataFrame(rows, columns=["table", "column", "relative", "absolute", "fields"])
    print(shown.to_string(index=False, float_format="{:.1e}".format))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as name:
        (compare if sys.argv[1:] == ["--compare"] else record)(Path(name))
