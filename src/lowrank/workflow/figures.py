"""Which figures a scale has, and what each is drawn from."""

from __future__ import annotations

import json
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lowrank.analysis.contrasts import contrasts
from lowrank.analysis.shown import names_beside, shown, studies_of
from lowrank.files import digest
from lowrank.versions import VERSIONS

if TYPE_CHECKING:
    from lowrank.workflow.scale import Scale

TABLES = {
    "initialisation": ["runs", "contrasts"],
    "decay": ["runs", "contrasts", "layers"],
    "effective_rank": ["runs", "contrasts", "layers"],
    "spectra": ["runs", "spectra"],
    "pretraining": ["runs", "contrasts"],
    "scaling": ["runs", "contrasts"],
    "parameters": ["runs", "contrasts"],
    "layers": ["runs", "contrasts"],
    "interpolation": ["runs", "contrasts", "interpolation", "barriers"],
    "posthoc": ["runs", "posthoc"],
    "learning_rate": ["rates", "runs"],
    "claims": ["claims"],
}
"""The tables that each figure is made from."""
ACROSS = ("claims",)
"""Figures that are drawn once, of all tracks."""
ENDINGS = ("pdf", "png", "html", "csv", "json", "md", "tex")
MODULES = {"parameters": "scaling"}
"""The module that draws a figure, where it has another name."""


class Figures:
    """The figures of a scale, by track and name."""

    def __init__(self, scale: Scale) -> None:
        self.scale = scale
        self.folder = f"figures/{scale.name}"

    @cached_property
    def files(self) -> list[str]:
        """Every figure, in every format."""
        names = [
            f"{track}/{name}"
            for track in self.scale.tracks
            for name in TABLES
            if name not in ACROSS and self._exists(track, name)
        ]
        return [
            f"{self.folder}/{name}.{ending}" for name in (*names, *ACROSS) for ending in ENDINGS
        ]

    def _exists(self, track: str, figure: str) -> bool:
        """Whether the track's studies give the figure something to show."""
        if figure == "learning_rate":
            return self.scale.config.tracks[track].training.learning_rate is None
        return any(track in self.scale.with_study(study) for study in studies_of(figure))

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
        folder = self.scale.root / "src/lowrank/plot"
        return {path.stem: str(path) for path in sorted(folder.glob("*.py"))}

    def sources(self, figure: str) -> list[str]:
        """What a figure's look depends on: modules that all share, its own, and what computes it."""
        shared = [path for stem, path in self._modules.items() if stem not in TABLES]
        look = [*shared, self._modules[MODULES.get(figure, figure)]]
        if figure in ACROSS:
            return [*look, *self.scale.analysis("evidence")]
        return [*look, *self.scale.table_sources, *self.scale.analysis("evidence", "power_law")]

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
        studies = [study for study in studies_of(figure) if (track, study) in self._shown]
        if "rates" in TABLES[figure]:
            studies = [study for of, study in self._shown if of == track]
        return digest([VERSIONS["evaluation"], [self._looks[track, study] for study in studies]])

    def results(self, track: str, figure: str) -> list[str]:
        """The results that a figure shows, of all that its tables hold."""
        scale, trained = self.scale, self.scale.experiment.trained
        studies = [study for study in studies_of(figure) if (track, study) in self._shown]
        cells = dict.fromkeys(name for study in studies for name in self._shown[track, study])
        files = [scale.cell_tables(name)[0] for name in cells if name in trained]
        names = self._table_names(track, figure)
        own = [(name, f"{scale.results}/{name}/{track}.parquet") for name in names]
        files += [path for name, path in own if (name, path) in scale.collected]
        return [*files, *(scale.trained_rates(track) if "rates" in names else ()), *scale.published]

    def _table_names(self, track: str, figure: str) -> list[str]:
        language = figure == "initialisation" and self.scale.config.tracks[track].task.language
        return [*TABLES[figure], *(["baselines"] if language else [])]

    def tables(self, track: str, figure: str) -> list[str]:
        """The tables that a figure is made from; a new one is no reason to draw it again."""
        return self.scale.waited_for(
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
