"""An engine for papermill whose cells run in this process: no kernel is started for a notebook."""

from __future__ import annotations

import contextlib
import io
from types import ModuleType
from typing import Any

from IPython.core.displaypub import DisplayPublisher
from IPython.core.interactiveshell import InteractiveShell
from nbformat import NotebookNode
from nbformat.v4 import new_output
from papermill.engines import Engine, NotebookExecutionManager, papermill_engines
from traitlets.config import Config

NAME = "lowrank"


class _Publisher(DisplayPublisher):
    """Takes what `display` shows."""

    def publish(self, data: Any, metadata: Any = None, *more: Any, **others: Any) -> None:
        """Keep it as an output of the cell."""
        shown = new_output("display_data", data=data, metadata=metadata or {})
        self.shell.outputs.append(shown)


class _Shell(InteractiveShell):
    """IPython that keeps what a cell shows, as an output of the notebook."""

    def __init__(self) -> None:
        self.outputs: list[NotebookNode] = []
        quiet = Config({"HistoryManager": {"enabled": False}, "InteractiveShell": {"banner1": ""}})
        super().__init__(
            config=quiet, user_module=ModuleType("notebook"), display_pub_class=_Publisher
        )
        self.display_trap.hook = self._result

    def _result(self, value: object) -> None:
        if value is not None and self.display_formatter is not None:
            data, metadata = self.display_formatter.format(value)
            count = self.execution_count
            shown = new_output(
                "execute_result", data=data, metadata=metadata, execution_count=count
            )
            self.outputs.append(shown)

    def _showtraceback(self, etype: Any, evalue: Any, stb: list[str]) -> None:
        shown = {"ename": etype.__name__, "evalue": str(evalue), "traceback": stb}
        self.outputs.append(new_output("error", **shown))


class Here(Engine):
    """Runs the cells of a notebook one after the other, up to one that raises."""

    @classmethod
    def execute_managed_notebook(
        cls, nb_man: NotebookExecutionManager, kernel_name: str, **others: Any
    ) -> None:
        """Fill in the outputs of `nb_man`'s notebook; papermill raises what a cell has raised."""
        shell = _Shell.instance()  # the one that `display` asks
        try:
            for index, cell in enumerate(nb_man.nb.cells):
                nb_man.cell_start(cell, index)
                if cell.cell_type == "code" and not _run(shell, cell):
                    nb_man.cell_exception(cell, index)
                    break
                nb_man.cell_complete(cell, index)
        finally:
            _Shell.clear_instance()


def _run(shell: _Shell, cell: NotebookNode) -> bool:
    """Run a cell; whether it raised nothing."""
    shell.outputs.clear()
    said = {"stdout": io.StringIO(), "stderr": io.StringIO()}
    with contextlib.redirect_stdout(said["stdout"]), contextlib.redirect_stderr(said["stderr"]):
        cell.execution_count = shell.execution_count
        result = shell.run_cell(cell.source, store_history=True)
    streams = [
        new_output("stream", name=name, text=stream.getvalue())
        for name, stream in said.items()
        if stream.getvalue()
    ]
    cell.outputs = [*streams, *shell.outputs]
    return bool(result.success)


papermill_engines.register(NAME, Here)
