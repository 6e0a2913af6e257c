"""Write the locks: every package the project installs, by version and hash, for every platform.

    python tools/lock.py [--upgrade] [name ...]

`make` installs `requirements.lock` and torch, which comes in two builds: `requirements-cpu.lock` where
pip is offered the one for processors alone, else `requirements-torch.lock`, on Linux with NVIDIA's
libraries. `requirements-slurm.lock`, `requirements-docs.lock` and `requirements-trackers.lock`
are what the Slurm executor, the manual and the trackers add. Versions stay as they are unless --upgrade says that all, or the named packages, may move.
Needs uv (`make lock` brings it).
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK, TORCH, CPU = (ROOT / f"requirements{part}.lock" for part in ("", "-torch", "-cpu"))
EXTRAS = {extra: ROOT / f"requirements-{extra}.lock" for extra in ("docs", "slurm", "trackers")}
WITH_TORCH = re.compile(r"^(torch$|nvidia-|cuda-|triton$)")
CPU_BUILD = {"2.13.0": ["6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b"]}
"""Hashes of torch's build for processors, which PyPI does not have, by version: Linux, Python 3.11."""
HEADER = "# Written by tools/lock.py: do not edit.\n"


def main(arguments: list[str]) -> None:
    """Compile with and without the extras, and write what each lock holds of it."""
    upgrade, names = "--upgrade" in arguments, [a for a in arguments if a != "--upgrade"]
    moves = [f"--upgrade-package={name}" for name in names] or (["--upgrade"] if upgrade else [])
    locks = (LOCK, TORCH, *EXTRAS.values())
    known = "".join(path.read_text(encoding="utf-8") for path in locks if path.is_file())
    everything = compiled(known, moves, "study", "dev", *EXTRAS)
    usual = compiled(join(everything), [], "study", "dev")
    torch = {name for name in usual if WITH_TORCH.match(name)}
    write(LOCK, {name: text for name, text in usual.items() if name not in torch})
    write(TORCH, {name: usual[name] for name in torch})
    version = usual["torch"].removeprefix("torch==").split()[0]
    hashes = "".join(f" \\\n    --hash=sha256:{known}" for known in CPU_BUILD.get(version, ()))
    write(CPU, {"torch": f"torch=={version}+cpu{hashes}\n"})
    for extra, path in EXTRAS.items():
        with_it = compiled(join(everything), [], "study", "dev", extra)
        # An entry may differ in its marker alone: what an extra needs on more platforms than others do.
        write(path, {name: text for name, text in with_it.items() if text != usual.get(name)})


def compiled(known: str, moves: list[str], *extras: str) -> dict[str, str]:
    """Each package's entry (version, marker, hashes) by name; versions in `known` are preferred."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, "lock")
        output.write_text(known, encoding="utf-8")
        command = ["uv", "pip", "compile", "pyproject.toml", "--universal", "--python-version=3.11"]
        command += [
            "--generate-hashes",
            "--no-annotate",
            "--no-header",
            "--quiet",
            "-o",
            str(output),
        ]
        subprocess.run(
            [*command, *(f"--extra={name}" for name in extras), *moves], check=True, cwd=ROOT
        )
        return parse(output.read_text(encoding="utf-8"))


def parse(text: str) -> dict[str, str]:
    """The entries of a lock by the package's name."""
    entries = re.findall(r"^[a-zA-Z0-9].*?(?=^[a-zA-Z0-9#]|\Z)", text, re.MULTILINE | re.DOTALL)
    return {re.split(r"[=\s;\[]", entry, maxsplit=1)[0]: entry for entry in entries}


def join(entries: dict[str, str]) -> str:
    """The text of a lock."""
    return "".join(entry for _, entry in sorted(entries.items()))


def write(path: Path, entries: dict[str, str]) -> None:
    """Write one lock."""
    path.write_text(HEADER + join(entries), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
