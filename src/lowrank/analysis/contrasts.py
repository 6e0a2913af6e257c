"""Which arms each study compares with which: the families of paired contrasts, and their table."""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from lowrank.experiment.config import Config, TrackConfig
from lowrank.experiment.expand import (
    Arm,
    arm_name,
    decay_arms,
    initialisation_arms,
    interpolation_arms,
    layers_arms,
    pretraining_arms,
    scaling_arms,
)
from lowrank.frames import concat


def contrasts(config: Config) -> dict[tuple[str, str], list[tuple[str, str]]]:
    """For each (track, study) the (cell, reference cell) pairs: a family for Holm's correction."""
    families: dict[tuple[str, str], list[tuple[str, str]]] = {}
    for name, track in config.tracks.items():
        for study, pairs in PAIRS.items():
            named = [
                (f"{name}/{arm_name(a, track)}", f"{name}/{arm_name(b, track)}")
                for a, b in pairs(track)
            ]
            distinct = [pair for pair in dict.fromkeys(named) if pair[0] != pair[1]]
            if distinct:
                families[name, study] = distinct
    return families


def _initialisation(track: TrackConfig) -> Iterator[tuple[Arm, Arm]]:
    """Each initialisation against dense, and against spectral at the same rank."""
    for arm in initialisation_arms(track):
        if arm.factors:
            yield arm, Arm()
            yield arm, arm.model_copy(update={"factors": _with(arm, init="spectral")})


def _decay(track: TrackConfig) -> Iterator[tuple[Arm, Arm]]:
    """Each decay against the track's own at the same rate; each lower rate against the full one."""
    for arm in decay_arms(track):
        own = _with(arm, decay=track.factors.decay)
        yield arm, arm.model_copy(update={"factors": own})
        yield arm, arm.model_copy(update={"rate_factor": 1.0})


def _pretraining(track: TrackConfig) -> Iterator[tuple[Arm, Arm]]:
    """Each switch against from scratch and against dense; each variant against the plain switch."""
    for arm in pretraining_arms(track):
        pre = arm.pretraining
        if arm.factors and (pre or arm.length != 1.0):
            yield arm, Arm(factors=arm.factors)
            yield arm, Arm()
        if arm.factors and pre:
            plain = pre.model_copy(update={"rate_factor": 0.5, "moments": "carry"})
            yield arm, Arm(factors=arm.factors, pretraining=plain)


def _scaling(track: TrackConfig) -> Iterator[tuple[Arm, Arm]]:
    """Low-rank against dense at each width, and pre-trained against from scratch."""
    for arm in scaling_arms(track):
        if arm.factors:
            yield arm, Arm(width=arm.width, heads=arm.heads)
        if arm.pretraining:
            yield arm, arm.model_copy(update={"pretraining": None})


def _layers(track: TrackConfig) -> Iterator[tuple[Arm, Arm]]:
    """Each choice of layers against all of them and against dense."""
    for arm in layers_arms(track):
        yield arm, Arm(factors=track.factors)
        yield arm, Arm()


def _interpolation(track: TrackConfig) -> Iterator[tuple[Arm, Arm]]:
    """Pre-trained against from scratch."""
    for arm in interpolation_arms(track):
        if arm.pretraining:
            yield arm, Arm(factors=arm.factors)


def _with(arm: Arm, **changes: object) -> object:
    assert arm.factors is not None
    return arm.factors.model_copy(update=changes)


PAIRS = {
    "initialisation": _initialisation,
    "decay": _decay,
    "pretraining": _pretraining,
    "scaling": _scaling,
    "layers": _layers,
    "interpolation": _interpolation,
}


def all_contrasts(
    config: Config, runs: pd.DataFrame, barriers: pd.DataFrame | None = None
) -> pd.DataFrame:
    """Every study's paired contrasts, Holm-corrected within a study and metric.

    An estimate is arm minus reference; contrasts whose cells are not there are left out.
    """
    parts = []
    for (track, study), pairs in contrasts(config).items():
        for metric in config.tracks[track].task.compared:
            parts.append(_family(runs, pairs, metric, track, study))
        if study == "interpolation" and barriers is not None and len(barriers):
            for metric in ("barrier", "distance"):
                parts.append(_family(barriers, pairs, metric, track, study))
    return concat(parts)


def _family(
    table: pd.DataFrame, pairs: list[tuple[str, str]], metric: str, track: str, study: str
) -> pd.DataFrame:
    # Here, because it imports scipy, which reading the workflow would wait for.
    from lowrank.analysis.stats import paired_contrasts

    there = set(table["cell"])
    known = [pair for pair in pairs if there.issuperset(pair)]
    if metric not in table or not known:
        return pd.DataFrame()
    needed = [name for name in ("cell", "seed", metric, "diverged") if name in table]
    table = table.loc[table["cell"].isin({cell for pair in known for cell in pair}), needed]
    return paired_contrasts(table, known, metric).assign(track=track, study=study)
