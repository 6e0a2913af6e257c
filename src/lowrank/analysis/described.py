"""Facts of arms as columns of tables that lack some: those of sweeps, and those published before."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from lowrank.experiment.config import Config
from lowrank.experiment.expand import outline
from lowrank.experiment.facts import FACTS

Tables = Mapping[str, pd.DataFrame]


def described(config: Config, tables: Tables) -> dict[str, pd.DataFrame]:
    """`runs` and `rates` of a configuration with every fact of their cells and sweeps; what a table
    says itself stays. The facts of cells that the configuration has not are missing."""
    grid = outline(config)
    cells = [cell.facts() for cell in grid.cells.values()]
    sweeps = [{"group": sweep.name, **sweep.facts()} for sweep in grid.sweeps.values()]
    found = {"runs": _with(tables["runs"], cells, "cell")}
    if len(tables.get("rates", ())):
        found["rates"] = _with(tables["rates"], sweeps, "group")
    return found


def as_configured(config: Config, runs: pd.DataFrame) -> pd.DataFrame:
    """`runs` with the facts that their cells have in a configuration, such as the studies that use them; what
    it does not say, because it is swept, is what the table says."""
    facts = pd.DataFrame([cell.facts() for cell in outline(config).cells.values()])
    own = runs[["cell"]].merge(facts, "left", "cell").set_axis(runs.index)
    known = {
        name: own[name].where(own[name].notna(), runs[name]) if name in runs else own[name]
        for name in own
    }
    return runs.assign(**known)


def of_cells(table: pd.DataFrame, runs: pd.DataFrame | None) -> pd.DataFrame:
    """A table with column `cell` with the facts that `runs` has of those cells, and what they keep."""
    if runs is None or "cell" not in table or "cell" not in runs:
        return table
    known = runs[[name for name in (*FACTS, "kept_parameters") if name in runs]].drop_duplicates(
        "cell"
    )
    return _with(table, known.to_dict("records"), "cell")


def _with(table: pd.DataFrame, facts: Iterable[Mapping[Any, Any]], key: str) -> pd.DataFrame:
    known = pd.DataFrame(facts)
    if known.empty:
        return table
    lacking = [name for name in known if name == key or name not in table]
    return table.merge(known[lacking], "left", key)
