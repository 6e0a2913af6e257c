"""Write the bill of materials: docs/packages.json (CycloneDX) and docs/packages.md, the licences.

    python tools/bill.py PYTHON

lists what is installed beside PYTHON, which the locks determine. Needs cyclonedx-py (`make bill`).
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HEADER = """# Packages and their licences

Written by `make bill` from the metadata of the installed packages; the same as CycloneDX: `packages.json`.
torch's usual build for Linux brings NVIDIA's libraries besides (`requirements-torch.lock`), under NVIDIA's
own licence. Of the project itself: `LICENSE`.

| package | version | licence as stated |
|---|---|---|
"""


def main(python: str) -> None:
    """Ask cyclonedx-py what is installed, and write its answer and a table of it."""
    path = ROOT / "docs/packages.json"
    command = [str(Path(sys.executable).with_name("cyclonedx-py")), "environment", python]
    command += [
        "--pyproject",
        str(ROOT / "pyproject.toml"),
        "--output-reproducible",
        "--of",
        "JSON",
    ]
    subprocess.run([*command, "--short-PURLs", "-o", str(path)], check=True)
    bill = json.loads(path.read_text(encoding="utf-8"))
    parts = bill["components"]
    for part in parts:  # names, versions and licences are what counts
        part.pop("externalReferences", None)
        part.pop("description", None)
    bill["metadata"].pop("tools", None)
    path.write_text(json.dumps(bill, indent=1) + "\n", encoding="utf-8")
    rows = sorted((p["name"].lower(), p["version"], licence(p) or field(python, p)) for p in parts)
    lines = [f"| {' | '.join(row)} |\n" for row in rows if row[0] != "lowrank"]
    path.with_suffix(".md").write_text(HEADER + "".join(lines), encoding="utf-8")


def licence(part: dict) -> str:
    """SPDX identifier, expression or classifier of a component; a whole text is cut to its title."""
    found = []
    for entry in part.get("licenses", ()):
        stated = entry.get("license", {})
        text = entry.get("expression") or stated.get("id") or stated.get("name", "")
        found.append(text.strip().splitlines()[0].rpartition(" :: ")[2].replace("|", "\\|"))
    return ", ".join(dict.fromkeys(found))


def field(python: str, part: dict) -> str:
    """The old free-text field of a component that states no licence otherwise."""
    code = (
        f"import importlib.metadata as m; print(m.metadata({part['name']!r}).get('License') or '')"
    )
    said = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout
    return said.strip().partition("\n")[0] or "not stated"


if __name__ == "__main__":
    main(sys.argv[1])
