"""The tutorial: docs/tutorial.ipynb run from top to bottom, as a page and its pictures."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter
from nbconvert.preprocessors import ExecutePreprocessor


def pages(root: Path) -> dict[str, str | bytes]:
    """The page and its pictures; an error in a cell ends the build with it."""
    notebook = nbformat.read(root / "docs/tutorial.ipynb", as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        # The environment's own kernel, on one thread: several only wait for each other at this size.
        os.environ |= {"JUPYTER_PREFER_ENV_PATH": "1", "IPYTHONDIR": folder, "OMP_NUM_THREADS": "1"}
        runner = ExecutePreprocessor(
            timeout=600, kernel_name="python3", extra_arguments=["--log-level=ERROR"]
        )
        runner.preprocess(notebook, {"metadata": {"path": folder}})
    text, resources = MarkdownExporter().from_notebook_node(notebook)
    return {"tutorial.md": text, **resources["outputs"]}
