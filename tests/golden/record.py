"""Record the golden study anew, after a change that is meant to change results.

`python tests/golden/record.py` writes tests/golden/record. With `--compare` nothing is written: it
prints how far this machine's results lie from the record, for each sort of number. With `--derive` only
the tables that follow from the recorded ones (contrasts, claims, plan) are written. With `--document`
it does so for other instruction sets of the same processor and writes what it found into
docs/determinism.md.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from golden import (
    DERIVED,
    HERE,
    KEYS,
    SORTS,
    allowed,
    derive,
    differences,
    make,
    platform,
    read,
    sort_of,
    versions,
    write,
)

RECORD = HERE / "record"
DOCUMENT = HERE.parents[1] / "docs/determinism.md"
SETS = {
    "AVX2 throughout": {
        "ATEN_CPU_CAPABILITY": "avx2",
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    },
    "SSE throughout": {
        "ATEN_CPU_CAPABILITY": "default",
        "ONEDNN_MAX_CPU_ISA": "SSE41",
        "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
        "MKL_CBWR": "COMPATIBLE",
    },
}
"""What torch, oneDNN and MKL are told to do without."""


def record(folder: Path) -> None:
    """Train the study and write its record."""
    write(RECORD, make(folder))
    record_derived(folder)
    origin = {"platform": platform(), "versions": versions()}
    (RECORD / "origin.json").write_text(json.dumps(origin, indent=1) + "\n", encoding="utf-8")


def record_derived(folder: Path) -> None:
    """Write what follows from the recorded tables, after a change to contrasts, claims or plan alone."""
    trained = {name: read(RECORD, name) for name in KEYS if name not in DERIVED}
    write(RECORD, derive(trained, folder))


def farthest(folder: Path) -> dict[str, tuple[float, float]]:
    """For each sort of number the largest relative and absolute difference to the record."""
    found = {sort.words: (0.0, 0.0) for sort in SORTS}

    def note(column: str, a: float, b: float) -> bool:
        relative, absolute = found[sort_of(column).words]
        far = abs(a - b)
        found[sort_of(column).words] = max(relative, far / abs(a) if a else 0.0), max(absolute, far)
        return True

    for name, table in make(folder).items():
        for _, sentence in differences(name, read(RECORD, name), table, note):
            print(sentence, file=sys.stderr)
    return found


def document() -> None:
    """Measure each instruction set in a process of its own, and write the table."""
    columns = {}
    for name, variables in SETS.items():
        command = [sys.executable, __file__, "--compare"]
        environment = {**os.environ, **variables}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        columns[name] = json.loads(done.stdout)
    origin = json.loads((RECORD / "origin.json").read_text(encoding="utf-8"))["platform"]
    lines = [
        f"Record: torch {origin['torch']}, {origin['capability']}, processor {origin['processor']}.",
        "",
        f"| number | {' | '.join(columns)} | allowed |",
        f"|---|{'---:|' * (len(columns) + 1)}",
    ]
    for sort in SORTS:
        kind = int(not sort.relative)
        fields = [f"{values[sort.words][kind]:.0e}" for values in columns.values()]
        lines.append(f"| {' | '.join([sort.words, *fields, allowed(sort)])} |")
    text = DOCUMENT.read_text(encoding="utf-8")
    block = "\n".join(lines)
    new = re.sub(
        r"(<!-- measured[^\n]*-->\n).*(\n<!-- end)", rf"\g<1>\n{block}\n\g<2>", text, flags=re.S
    )
    DOCUMENT.write_text(new, encoding="utf-8")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as name:
        if sys.argv[1:] == ["--document"]:
            document()
        elif sys.argv[1:] == ["--compare"]:
            print(json.dumps(farthest(Path(name)), indent=1))
        elif sys.argv[1:] == ["--derive"]:
            record_derived(Path(name))
        else:
            record(Path(name))
