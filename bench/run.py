"""`make bench`: time the training steps against others and against floors, and write the tables.

`python bench/run.py [part ...] [--seconds S]` measures the parts named (all without any), about S seconds a
comparison, into bench/results/<machine>.json, where other parts stay as they were; then every README table
is written anew from all machines' results. `--tables` writes the tables alone. One thread; what else the
machine does meanwhile falls on all contestants alike, but a quiet machine gives narrower quartiles.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RESULTS = HERE / "results"
os.environ.setdefault("OMP_NUM_THREADS", "1")


def machine() -> dict[str, Any]:
    """What the numbers were measured on."""
    import torch

    from lowrank.train.result import provenance

    facts = provenance(torch.device("cpu"))
    known = {key: facts[key] for key in ("device", "torch", "transformers", "source")}
    if "ATEN_CPU_CAPABILITY" in os.environ:
        known["device"] += " (limited)"
    return {
        **known,
        "capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
    }


def measure(names: list[str], seconds: float) -> Path:
    """Measure these parts and write the machine's results; returns the file."""
    import torch
    from parts import PARTS

    from lowrank.files import read_json, write_json
    from lowrank.train.build import choose_device

    torch.set_num_threads(1)
    choose_device("cpu")
    facts = machine()
    words = f"{facts['device']} {facts['capability']}".lower()
    path = RESULTS / f"{re.sub('[^a-z0-9]+', '-', words).strip('-')}.json"
    kept = read_json(path)["parts"] if path.exists() else {}
    for name in names:
        print(f"{name} ...", file=sys.stderr, flush=True)
        kept[name] = {
            "date": datetime.now(UTC).date().isoformat(),
            "load": round(os.getloadavg()[0], 1),
            "source": facts["source"],
            "rows": PARTS[name](seconds),
        }
        RESULTS.mkdir(exist_ok=True)
        write_json(path, {"machine": facts, "parts": kept})
    return path


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "parts",
        nargs="*",
        help="language, layers, images, around, pipeline, growth; all these without any; and whole,\n"
        "the laptop scale from nothing, which takes as long as that",
    )
    parser.add_argument("--seconds", type=float, default=12.0, help="for each comparison")
    parser.add_argument("--tables", action="store_true", help="only write the tables")
    given = parser.parse_args()
    from parts import ASKED_FOR, PARTS

    if unknown := set(given.parts) - set(PARTS):
        parser.error(f"no part {sorted(unknown)[0]}: there are {', '.join(PARTS)}")
    if not given.tables:
        usual = [name for name in PARTS if name not in ASKED_FOR]
        print(measure(given.parts or usual, given.seconds))
    from tables import write_tables

    write_tables(
        [json.loads(p.read_text(encoding="utf-8")) for p in sorted(RESULTS.glob("*.json"))]
    )


if __name__ == "__main__":
    main()
