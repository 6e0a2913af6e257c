"""Which studies, and so which cells, a track's figure shows: it is drawn again when one of them changes.

Beside the cells of its studies these are the cells that they are compared with, and the dense one.
"""

from __future__ import annotations

from typing import Any

from lowrank.analysis.contrasts import contrasts
from lowrank.experiment.cell import Cell
from lowrank.experiment.config import Config
from lowrank.experiment.expand import Grid
from lowrank.experiment.sections import DECAYS, INITIALISATIONS, SWEPT
from lowrank.experiment.study import STUDIES
from lowrank.experiment.track import decay_name


def shown(config: Config, grid: Grid) -> dict[tuple[str, str], list[str]]:
    """The cells that each (track, study) shows."""
    tracks = config.tracks.items()
    cells: dict[tuple[str, str], dict[str, Any]] = {
        (name, study): {} for name, track in tracks for study in track.studies.asked()
    }
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


def names_beside(config: Config, grid: Grid) -> dict[tuple[str, str], list[str]]:
    """Names of arms that each (track, study) does not show itself, but that share out colours and
    markers with those that it does: own methods anywhere, and the switches of a track's lines and
    widths."""
    own = {name: _own_names(cell) for name, cell in grid.cells.items()}
    found: dict[tuple[str, str], set[str]] = {}
    for family, names in shown(config, grid).items():
        if any(own[name] for name in names):
            found[family] = {each for names in own.values() for each in names}
    lines = {name for name, study in STUDIES.items() if study.lines}
    for track, section in config.tracks.items():
        switches = {
            cell.name
            for cell in grid.of_track(track)
            if cell.pretraining and set(cell.studies) & lines
        }
        for study in lines:
            found.setdefault((track, study), set()).update(switches)
        for study, settings in section.studies.asked().items():
            methods = STUDIES[study].truncations(settings)
            for other in config.tracks if methods else ():
                found.setdefault((other, study), set()).update(methods)
    return {family: sorted(names) for family, names in found.items()}


def _own_names(cell: Cell) -> set[str]:
    if cell.factors is None:
        return set()
    decay = cell.factors.decay
    if decay.strength == SWEPT:
        decay = decay.model_copy(update={"strength": None})
    names = {cell.factors.init, decay_name(decay).removesuffix("-coupled")}
    return names - INITIALISATIONS - DECAYS
