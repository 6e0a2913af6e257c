"""The families of paired contrasts that the studies ask for, and their table.

Reading the workflow asks for the families alone, and waits for neither pandas nor scipy.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from lowrank.experiment.config import Config
from lowrank.experiment.study import STUDIES
from lowrank.experiment.track import arm_name

if TYPE_CHECKING:
    import pandas as pd


def contrasts(config: Config) -> dict[tuple[str, str], list[tuple[str, str]]]:
    """For each (track, study) the (cell, reference cell) pairs: a family for Holm's correction."""
    families: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for name, track in config.tracks.items():
        for study, section in track.studies.asked().items():
            named = [
                (f"{name}/{arm_name(a, track)}", f"{name}/{arm_name(b, track)}")
                for a, b in STUDIES[study].contrasts(section, track)
            ]
            distinct = [pair for pair in dict.fromkeys(named) if pair[0] != pair[1]]
            if distinct:
                families[name, study] = distinct
    return families


def all_contrasts(config: Config, tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Every study's paired contrasts, Holm-corrected within a study and metric.

    tables: by name, `runs` and what else studies measure. An estimate is arm minus reference; contrasts
    whose cells are not there are left out.
    """
    from lowrank.frames import concat

    parts = []
    for (track, study), pairs in contrasts(config).items():
        measures = {"runs": config.tracks[track].task.compared, **STUDIES[study].measures}
        for table, metrics in measures.items():
            for metric in metrics if len(tables.get(table, ())) else ():
                parts.append(_family(tables[table], pairs, metric, track, study))
    return concat(parts)


def _family(
    table: pd.DataFrame, pairs: list[tuple[str, str]], metric: str, track: str, study: str
) -> pd.DataFrame:
    from lowrank.analysis.stats import paired_contrasts

    there = set(table["cell"])
    known = [pair for pair in pairs if there.issuperset(pair)]
    if metric not in table or not known:
        return table.iloc[:0]
    needed = [name for name in ("cell", "seed", metric, "diverged") if name in table]
    table = table.loc[table["cell"].isin({cell for pair in known for cell in pair}), needed]
    return paired_contrasts(table, known, metric).assign(track=track, study=study)
