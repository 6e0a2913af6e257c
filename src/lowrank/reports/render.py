"""Running a figure's notebook by papermill, whatever settings the home folder has."""

from __future__ import annotations

import os
from pathlib import Path

from lowrank.errors import LowrankError
from lowrank.files import make_folder, scratch


def render(notebook: Path, tables: Path, track: str, output: Path, executed: Path) -> None:
    """Run a notebook that draws a figure of `track` from `tables` into the folder `output`.

    `executed` is its copy with outputs, as far as it ran. What a cell raises is a LowrankError.
    """
    make_folder(executed.parent)
    with scratch(executed) as folder:
        os.environ |= {
            "IPYTHONDIR": str(folder.absolute()),
            "MPLBACKEND": "agg",  # a misspelt one would stop matplotlib from being imported
        }
        import papermill
        from papermill.exceptions import PapermillExecutionError

        from lowrank.reports import notebook as here

        parameters = {"tables": str(tables), "track": track, "output": str(output)}
        try:
            papermill.execute_notebook(
                notebook,
                executed,
                parameters,
                engine_name=here.NAME,
                request_save_on_cell_execute=False,
                progress_bar=False,
            )
        except PapermillExecutionError as error:
            what = error.evalue if error.ename == "LowrankError" else f"{error}\n{error.ename}"
            raise LowrankError(
                f"{what.strip().rstrip('.')}. (The notebook as far as it ran: {executed}.)"
            ) from None
