"""Writing a figure beside its table: PDF and PNG, and the numbers as CSV, HTML, Markdown and LaTeX."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from lowrank.files import atomic
from lowrank.plot import style
from lowrank.plot.page import Page
from lowrank.plot.results import locate
from lowrank.plot.table import Table

if TYPE_CHECKING:
    from IPython.display import Image


def publish(figure: Figure, table: Table | Page, prefix: Path | str) -> Image:
    """Write `<prefix>.{pdf,png,html,csv,md,tex}`; the picture is returned, for a notebook to show.

    A relative prefix is meant from the project's root.
    """
    from IPython.display import Image

    prefix = locate(prefix)
    paths = style.save(figure, prefix)
    _write(f"{prefix}.html", table.html(Path(prefix).name.replace("_", " ")))
    _write(f"{prefix}.csv", table.csv())
    _write(f"{prefix}.md", table.markdown())
    _write(f"{prefix}.tex", table.latex())
    return Image(filename=str(paths[1]), width=int(96 * figure.get_figwidth()))


def _write(path: Path | str, text: str) -> None:
    """Write a text file, atomically."""
    with atomic(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
