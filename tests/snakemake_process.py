"""Snakemake in a process that was forked where it had been imported: many tests start it, and its imports take
longer than most of what it is asked for. Nothing of lowrank is imported there, since copies bring their own."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import sys
import tempfile
from pathlib import Path

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    [
        *(f"snakemake.{part}" for part in ("cli", "api", "workflow", "dag", "jobs")),
        *("pandas", "pydantic", "yaml"),
    ]
)


def call(folder: Path, arguments: list[str], environment: dict[str, str]) -> tuple[int, str]:
    """The exit status of `snakemake arguments` in a folder, and all that it printed."""
    with tempfile.TemporaryDirectory() as place:
        output = Path(place) / "output"
        output.touch()
        process = FORKS.Process(target=_main, args=(folder, arguments, environment, output))
        process.start()
        try:
            process.join()
        finally:
            process.kill()
        return process.exitcode, output.read_text(encoding="utf-8")


def _main(folder: Path, arguments: list[str], environment: dict[str, str], output: Path) -> None:
    """In the new process: what `python -m snakemake` does."""
    with output.open("wb") as file:
        for stream in (1, 2):
            os.dup2(file.fileno(), stream)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    first = [str(folder), *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
    tests = str(Path(__file__).parent)
    sys.path[:] = [*first, *(path for path in sys.path if not path.startswith(tests))]
    sys.argv = ["snakemake", *arguments]
    from snakemake.cli import main

    try:
        main(arguments)
    finally:  # which a forked process leaves out
        atexit._run_exitfuncs()
