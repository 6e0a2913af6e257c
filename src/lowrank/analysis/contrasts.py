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

    parts, of_track = [], {}
    for (track, study), pairs in contrasts(config).items():
        measures = {"runs": config.tracks[track].task.compared, **STUDIES[study].measures}
        for name, metrics in measures.items():
            if name not in of_track:
                of_track[name] = _by_track(tables.get(name))
            if track in of_track[name]:
                rows = of_track[name][track]
                parts += [_family(rows, pairs, metric, track, study) for metric in metrics]
    return concat(parts)


def _by_track(table: pd.DataFrame | None) -> dict[str, pd.DataFrame]:
    import pandas as pd

    if table is None or not len(table):
        return {}
    track_of = {cell: str(cell).split("/")[0] for cell in table["cell"].unique()}
    by_track = table.groupby(table["cell"].map(track_of), sort=False)
    return {str(track): rows.assign(cell=pd.Categorical(rows["cell"])) for track, rows in by_track}


def _family(
    table: pd.DataFrame, pairs: list[tuple[str, str]], metric: str, track: str, study: str
) -> pd.DataFrame:
    from lowrank.analysis.stats import paired_contrasts

    there = set(table["cell"].cat.categories)
    known = [pair for pair in pairs if there.issuperset(pair)]
    if metric not in table or not known:
        return table.iloc[:0]
    return paired_contrasts(table, known, metric).assign(track=track, study=study)
