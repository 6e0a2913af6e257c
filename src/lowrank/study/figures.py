"""Which studies, and so which cells, a track's figure shows: it is drawn again when one of them changes.

Beside the cells of its studies these are the cells that they are compared with, and the dense one.
"""

from __future__ import annotations

from typing import Any

from lowrank.study.config import Config
from lowrank.study.contrasts import contrasts
from lowrank.study.grid import Grid

FIGURE_STUDIES = {
    "effective_rank": ("decay",),
    "spectra": ("decay", "initialisation"),
    "parameters": ("scaling",),
    "learning_rate": (),
}


def studies_of(figure: str) -> tuple[str, ...]:
    """The studies whose cells a figure shows, any of which it can do without."""
    return FIGURE_STUDIES.get(figure, (figure,))


def shown(config: Config, grid: Grid) -> dict[tuple[str, str], list[str]]:
    """The cells that each (track, study) shows."""
    cells: dict[tuple[str, str], dict[str, Any]] = {}
    for cell in grid.cells.values():
        for study in cell.studies:
            cells.setdefault((cell.track, study), {})[cell.name] = None
    for family, pairs in contrasts(config).items():
        cells.setdefault(family, {}).update(
            (name, None) for pair in pairs for name in pair if name in grid.cells
        )
    for (track, _), names in cells.items():
        if f"{track}/dense" in grid.cells:
            names[f"{track}/dense"] = None
    return {family: list(names) for family, names in cells.items()}
