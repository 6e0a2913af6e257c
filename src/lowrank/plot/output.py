"""Writing a figure beside its table: PDF and PNG, and the numbers as CSV, JSON, HTML, Markdown and LaTeX."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from lowrank.files import write_json, write_text
from lowrank.plot import style
from lowrank.plot.page import Page
from lowrank.plot.results import locate
from lowrank.plot.table import Table

if TYPE_CHECKING:
    from IPython.display import Image


def publish(figure: Figure, table: Table | Page, prefix: Path | str) -> Image:
    """Write `<prefix>.{pdf,png,html,csv,json,md,tex}`; the picture is returned, for a notebook to show.

    A relative prefix is meant from the project's root.
    """
    from IPython.display import Image

    prefix = locate(prefix)
    paths = style.save(figure, prefix)
    write_text(f"{prefix}.html", table.html(Path(prefix).name.replace("_", " ")))
    write_text(f"{prefix}.csv", table.csv())
    write_json(f"{prefix}.json", table.fields())
    write_text(f"{prefix}.md", table.markdown())
    write_text(f"{prefix}.tex", table.latex())
    return Image(filename=str(paths[1]), width=int(96 * figure.get_figwidth()))
