"""Which figures a scale has, and what each is drawn from."""

from __future__ import annotations

import json
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lowrank.analysis.contrasts import contrasts
from lowrank.analysis.shown import names_beside, shown
from lowrank.experiment.study import Figure, studies, writers
from lowrank.files import digest
from lowrank.versions import VERSIONS
from lowrank.workflow.waiting import waited_for

if TYPE_CHECKING:
    from lowrank.workflow.scale import Scale
    from lowrank.workflow.there import There

ACROSS = ("claims",)
"""Figures that are drawn once, of all tracks."""
ENDINGS = ("pdf", "png", "html", "csv", "json", "md", "tex")


class Figures:
    """The figures of a scale, by track and name."""

    def __init__(self, scale: Scale) -> None:
        self.scale = scale
        self.folder = f"figures/{scale.name}"

    @cached_property
    def files(self) -> list[str]:
        """Every figure, in every format."""
        names = [f"{track}/{name}" for track in self.scale.tracks for name in self.drawn(track)]
        return [
            f"{self.folder}/{name}.{ending}" for name in (*names, *ACROSS) for ending in ENDINGS
        ]

    def drawn(self, track: str) -> list[str]:
        """The figures of a track: all, but of published results that nothing is added to those that have some."""
        names, there = self.scale.config.tracks[track].figures(), self.scale.there
        return [name for name in names if not there or self._has_results(there, track, name)]

    def _has_results(self, there: There, track: str, figure: str) -> bool:
        record, shows = self._of(track, figure)
        cells = self.scale.experiment.grid.of_track(track)
        asking = [c for c in cells if set(c.studies) & set(shows) and c.arm != "dense"]
        # A study shares cells with those before it: what it alone adds tells that there is something to show.
        own = [cell for cell in asking if cell.studies[0] in shows] or asking
        by = {*record.beside, *(name for name, s in studies().items() if record in s.figures)}
        measured = [table for table in record.tables if writers().get(table) in by]
        return (
            (not own or there.has_runs(cell.name for cell in own))
            and all(self.scale.contributes(track, table) for table in measured)
            and ("rates" not in record.tables or there.has_rates(track))
        )

    def _of(self, track: str, figure: str) -> tuple[Figure, list[str]]:
        """A figure's record, and the studies that it shows."""
        record, shows = self.scale.config.tracks[track].figures()[figure]
        return record, list(shows)

    # Sources.

    def notebook(self, figure: str) -> str:
        """The notebook that a figure is drawn by."""
        return self.scale.source(f"notebooks/{figure}.ipynb")

    def reading(self, figure: str) -> dict[str, str]:
        """The title of a figure's notebook and what it says on how to read the figure: the report's
        categories and captions."""
        return _reading(self.notebook(figure))

    @cached_property
    def _modules(self) -> dict[str, str]:
        folder = self.scale.package / "plot"
        return {path.stem: str(path) for path in sorted(folder.glob("*.py"))}

    def sources(self, figure: str) -> list[str]:
        """What a figure's look depends on: modules that all share, its own, and what computes it."""
        drawn_by = {
            f.name: (f.drawn_by[0], name) for name, s in studies().items() for f in s.figures
        }
        of_figures = {module for module, _ in drawn_by.values()} | {*ACROSS}
        shared = [path for stem, path in self._modules.items() if stem not in of_figures]
        if figure in ACROSS:
            return [*shared, self._modules[figure], *self.scale.analysis("evidence")]
        module, study = drawn_by[figure]
        # The figure of a study of one's own stands in the file of its study.
        own = self.scale.config.extensions.get(study) or self._modules[module]
        computed = [
            *self.scale.table_sources,
            *self.scale.analysis("evidence", "groups", "power_law"),
        ]
        return [*shared, own, *computed]

    # Results.

    @cached_property
    def _shown(self) -> dict[tuple[str, str], list[str]]:
        return shown(self.scale.config, self.scale.experiment.grid)

    @cached_property
    def _looks(self) -> dict[tuple[str, str], dict[str, Any]]:
        """What each (track, study) shows and where that comes from."""
        config, grid, trained = (
            self.scale.config,
            self.scale.experiment.grid,
            set(self.scale.experiment.trained),
        )
        compared, beside = contrasts(config), names_beside(config, grid)
        return {
            family: {
                "cells": names,
                "contrasts": compared.get(family, []),
                "beside": beside.get(family, []),
                "trained": [name for name in names if name in trained],
            }
            for family, names in self._shown.items()
        }

    def digest(self, track: str, figure: str) -> str:
        """Stands for which results a figure shows, and where they come from."""
        record, shows = self._of(track, figure)
        if "rates" in record.tables:
            shows = [study for of, study in self._shown if of == track]
        return digest(
            [VERSIONS["evaluation"], [self._looks.get((track, study)) for study in shows]]
        )

    def results(self, track: str, figure: str) -> list[str]:
        """The results that a figure shows, of all that its tables hold."""
        scale, trained = self.scale, self.scale.experiment.trained
        _, shows = self._of(track, figure)
        cells = dict.fromkeys(
            name for study in shows for name in self._shown.get((track, study), ())
        )
        files = [scale.cell_tables(name)[0] for name in cells if name in trained]
        names = self._table_names(track, figure)
        own = [(name, f"{scale.results}/{name}/{track}.parquet") for name in names]
        files += [path for name, path in own if (name, path) in scale.collected]
        return [*files, *(scale.trained_rates(track) if "rates" in names else ()), *scale.published]

    def _table_names(self, track: str, figure: str) -> list[str]:
        record, _ = self._of(track, figure)
        return [name for name in record.tables if self.scale.contributes(track, name)]

    def tables(self, track: str, figure: str) -> list[str]:
        """The tables that a figure is made from; a new one is no reason to draw it again."""
        return waited_for(
            self.scale.workflow,
            [self.scale.table(name) for name in self._table_names(track, figure)],
            f"{self.folder}/{track}/{figure}.png",
            [*self.results(track, figure), *self.sources(figure), self.notebook(figure)],
            self.digest(track, figure),
        )


@cache
def _reading(notebook: str) -> dict[str, str]:
    cells = json.loads(Path(notebook).read_text(encoding="utf-8"))["cells"]
    title, text = "".join(cells[0]["source"]).removeprefix("# ").split("\n\n", 1)
    return {"title": title, "text": text}
