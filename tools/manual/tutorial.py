"""The tutorial: docs/tutorial.ipynb run from top to bottom, as a page and its pictures."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import nbformat
from nbconvert import MarkdownExporter
from nbconvert.preprocessors import ExecutePreprocessor


def pages(root: Path) -> dict[str, str | bytes]:
    """The page and its pictures; an error in a cell ends the build."""
    notebook = nbformat.read(root / "docs/tutorial.ipynb", as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        # The environment's own kernel, on one thread: several only wait for each other at this size.
        os.environ |= {"JUPYTER_PREFER_ENV_PATH": "1", "IPYTHONDIR": folder, "OMP_NUM_THREADS": "1"}
        runner = ExecutePreprocessor(
            timeout=600, kernel_name="python3", extra_arguments=["--log-level=ERROR"]
        )
        runner.preprocess(notebook, {"metadata": {"path": folder}})
    for cell in notebook.cells:  # progress bars
        cell["outputs"] = [o for o in cell.get("outputs", ()) if o.get("name") != "stderr"]
    text, resources = MarkdownExporter().from_notebook_node(notebook)
    # The theme styles tables without a class; pandas gives them one.
    text = text.replace('<table border="1" class="dataframe">', "<table>")
    return {"tutorial.md": text, **resources["outputs"]}
