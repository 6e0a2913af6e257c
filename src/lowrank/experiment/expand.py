"""From a configuration to the table of cells and learning-rate sweeps.

Each study names arms; an arm's name is made from what sets it apart, so two studies that ask for the
same arm get the same cell, and it is trained once.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lowrank.errors import LONGEST_NAME, LowrankError, unknown
from lowrank.experiment.cell import CELL_NAME, Cell, Extension, SweepGroup
from lowrank.experiment.config import Config, TrackConfig
from lowrank.experiment.extensions import declared
from lowrank.experiment.sections import (
    DECAYS,
    INITIALISATIONS,
    SWEPT,
    TRUNCATIONS,
    FactorSpec,
    Strict,
)
from lowrank.experiment.shares import nearest
from lowrank.experiment.study import STUDIES, jobs
from lowrank.experiment.track import Arm, arm_name, swept, varied
from lowrank.methods import IMPLIED, METHODS, check_fit, parse_options


class Timed(Strict):
    """A cell whose steps are timed: at a given rate, which no time depends on."""

    cell: Cell
    kept: float | None = None
    """As of an arm."""

    @property
    def extensions(self) -> dict[str, Extension]:
        """The files that the cell uses."""
        return self.cell.extensions


class Grid(Strict):
    """All cells and sweeps of a configuration, by name."""

    cells: dict[str, Cell]
    sweeps: dict[str, SweepGroup]
    jobs: dict[str, dict[str, Any]] = {}
    """What each study's job is told: by study and track."""
    extensions: dict[str, Extension] = {}
    """All of the configuration's, whether a cell uses them or not."""

    def cell(self, name: str) -> Cell:
        """A cell by name; LowrankError names the nearest one."""
        if name not in self.cells:
            raise unknown("cell", name, self.cells)
        return self.cells[name]

    def of_track(self, track: str) -> list[Cell]:
        """The cells of one track, in the order of the studies."""
        return [cell for cell in self.cells.values() if cell.track == track]


def expand(config: Config, base: Path = Path()) -> Grid:
    """The table of cells and sweeps of a configuration. Extension paths are relative to `base`."""
    extensions = {}
    for name, file in config.extensions.items():
        extensions[name] = declared(name, base / file).model_copy(update={"file": file})
    return _grid(config, extensions)


def outline(config: Config) -> Grid:
    """The same without the extensions' files and `retrain`: enough to tell what every arm is."""
    return _grid(config.model_copy(update={"retrain": None}), {})


def _grid(config: Config, extensions: dict[str, Extension]) -> Grid:
    _check_names(config)
    cells: dict[str, Cell] = {}
    sweeps: dict[str, SweepGroup] = {}
    for name, track in config.tracks.items():
        for study, arm in track.arms():
            cell = _cell(name, track, arm, study, config.seeds_of(name), extensions)
            if cell.name in cells:
                known = cells[cell.name]
                if cell.model_copy(update={"studies": known.studies}) != known:
                    raise LowrankError(
                        f"tracks.{name}.studies.{study}: two different arms would both be called "
                        f"{cell.name}: give values that differ in their first six digits, and "
                        "one number of heads for each width."
                    )
                studies = tuple(dict.fromkeys((*known.studies, study)))
                cell = known.model_copy(update={"studies": studies})
            cells[cell.name] = cell
            for group in _sweeps(name, track, arm, study, extensions):
                sweeps[group.name] = group
    unknown_cells = [cell for cell in config.retrain or () if cell not in cells]
    if unknown_cells:
        raise unknown("cell in retrain", unknown_cells[0], cells)
    told: dict[str, dict[str, Any]] = {}
    for study, job in jobs().items():
        if job.times and config.cut:
            continue  # one device would have to hold whole models, side by side
        for name, track in config.tracks.items():
            section = track.studies.asked().get(study)
            if section is not None or job.wanted(track):
                if job.arms and not any(True for _ in job.arms(section, track)):
                    raise LowrankError(
                        f"The job of the study {study} reads no model of tracks.{name}: let its `arms` "
                        "yield one, or leave them out."
                    )
                told.setdefault(study, {})[name] = job.spec(section, track, extensions)
    return Grid(cells=cells, sweeps=sweeps, jobs=told, extensions=extensions)


def _check_names(config: Config) -> None:
    """Every initialisation, decay and truncation named is built in or an extension."""
    own = set(config.extensions)
    for name, track in config.tracks.items():
        arms = [arm for _, arm in track.arms()]
        factors = [track.factors, *(arm.factors for arm in arms if arm.factors)]
        truncations = [
            method
            for study, section in track.studies.asked().items()
            for method in STUDIES[study].truncations(section)
        ]
        methods = [factor.method.name for factor in factors if factor.method]
        for kind, used, known in (
            (
                "initialisation (init, inits or controls)",
                [factor.init for factor in factors],
                INITIALISATIONS,
            ),
            ("decay (kind)", [factor.decay.kind for factor in factors], DECAYS),
            ("truncation (posthoc.methods)", truncations, TRUNCATIONS),
            ("method (factors.method.name)", methods, set(METHODS.names()) - set(IMPLIED)),
        ):
            for method in used:
                if method not in known | own:
                    raise unknown(f"{kind} in tracks.{name}:", method, known | own)
        starts = [(track.factors, None), *((arm.factors, arm.pretraining) for arm in arms)]
        for factor, pretraining in starts:
            if factor and factor.method and factor.method.name not in own:
                parse_options(factor.method.name, factor.method.options)
                check_fit(factor.method.name, track.training, track.model, pretraining, config.cut)


def _cell(
    name: str,
    track: TrackConfig,
    arm: Arm,
    study: str,
    seeds: tuple[int, ...],
    extensions: dict[str, Extension],
) -> Cell:
    steps = nearest(arm.length, track.training.steps)
    pretraining = arm.pretraining
    if pretraining and not track.swept:
        update = {"dense_learning_rate": track.training.learning_rate}
        pretraining = pretraining.model_copy(update=update)
    factor, chosen = arm.rate_factor, swept(arm)
    if pretraining and pretraining.rate_factor != SWEPT:
        factor *= pretraining.rate_factor
    called = f"{name}/{arm_name(arm, track)}"
    if not re.fullmatch(CELL_NAME, called) or len(called) > LONGEST_NAME:
        raise LowrankError(
            f"tracks.{name}.studies.{study}: an arm would be called '{called}', which is no name of "
            f"a file: use values between 0.0001 and 99999, and at most {LONGEST_NAME} characters."
        )
    return Cell(
        name=called,
        track=name,
        studies=(study,),
        model=_model(track, arm),
        training=track.training.model_copy(update={"steps": steps}),
        factors=arm.factors,
        pretraining=pretraining,
        evaluation=track.evaluation,
        rate_from=_group_name(name, track, arm) if track.swept else None,
        rate_factor=factor,
        strength_from=_strength_group(name, track, arm) if "decay_strength" in chosen else None,
        switch_from=_switch_group(name, track, arm) if "switch_rate" in chosen else None,
        length=arm.length,
        budget=arm.budget,
        varied=varied(arm, track),
        trunk=f"{name}/{arm_name(_trunk(arm), track)}" if pretraining else None,
        seeds=seeds,
        extensions=_used(arm.factors, extensions),
    )


def timed_cells(
    name: str, track: TrackConfig, extensions: dict[str, Extension]
) -> dict[str, Timed]:
    """What is timed of a track, by name."""
    training, found = track.training, {}
    rate = training.learning_rate or min(track.sweep.rates)
    given = track.model_copy(
        update={"training": training.model_copy(update={"learning_rate": rate})}
    )
    for arm in track.timed():
        cell = _cell(name, given, arm, "speed", (0,), extensions)
        if arm.kept is not None:
            share = f"-r{arm.kept:g}", f"-kept{arm.kept:g}"
            cell = cell.model_copy(update={"name": cell.name.replace(*share, 1)})
        found[cell.name] = Timed(cell=cell, kept=arm.kept)
    return found


def _used(factors: FactorSpec | None, extensions: dict[str, Extension]) -> dict[str, Extension]:
    """The extensions an arm uses: only their files enter its digest."""
    used = [factors.init, factors.decay.kind] if factors else []
    used += [factors.method.name] if factors and factors.method else []
    return {name: extensions[name] for name in used if name in extensions}


def _model(track: TrackConfig, arm: Arm) -> Any:
    update = {"width": arm.width, "heads": arm.heads}
    return track.model.model_validate(
        {**track.model.model_dump(), **{key: value for key, value in update.items() if value}}
    )


def _trunk(arm: Arm) -> Arm:
    """The dense arm that a pre-trained one begins as."""
    return Arm(width=arm.width, heads=arm.heads)


def _swept_arm(track: TrackConfig, arm: Arm) -> Arm:
    """The arm whose sweep serves this one: same initialisation, rank, method and width, from scratch,
    with the track's own layers, and its own decay but under a method, which may demand another. Decays, layer
    choices and switches are compared at that rate."""
    factors = arm.factors
    if factors is not None:
        names = ("init", "rank_fraction", "method", *(("decay",) if factors.method else ()))
        kept = {name: getattr(factors, name) for name in names}
        factors = track.with_factors(**kept)
        if factors.decay.strength == SWEPT:
            decay = factors.decay.model_copy(update={"strength": track.factors.decay.strength})
            factors = factors.model_copy(update={"decay": decay})
    return Arm(factors=factors, width=arm.width, heads=arm.heads)


def _decaying_arm(track: TrackConfig, arm: Arm) -> Arm:
    """The arm whose decay strength serves this one: the swept one with this one's decay."""
    assert arm.factors is not None
    return _swept_arm(track, arm).with_factors(decay=arm.factors.decay)


def _switched_arm(arm: Arm) -> Arm:
    """The arm whose rate after the switch serves this one: the same of which moments are carried."""
    assert arm.pretraining is not None
    pretraining = arm.pretraining.model_copy(update={"moments": "carry"})
    return arm.model_copy(update={"pretraining": pretraining, "rate_factor": 1.0, "length": 1.0})


def _group_name(name: str, track: TrackConfig, arm: Arm) -> str:
    return f"{name}/{arm_name(_swept_arm(track, arm), track)}"


def _strength_group(name: str, track: TrackConfig, arm: Arm) -> str:
    return f"{name}/{arm_name(_decaying_arm(track, arm), track)}.decay_strength"


def _switch_group(name: str, track: TrackConfig, arm: Arm) -> str:
    return f"{name}/{arm_name(_switched_arm(arm), track)}.switch_rate"


def _sweeps(
    name: str, track: TrackConfig, arm: Arm, study: str, extensions: dict[str, Extension]
) -> Iterator[SweepGroup]:
    """What is chosen for an arm on validation data, each with the sweep's seeds."""
    sweep, chosen = track.sweep, swept(arm)

    def group(group_name: str, of: Arm, **values: Any) -> SweepGroup:
        cell = _cell(name, track, of, study, sweep.seeds, extensions)
        cell = cell.model_copy(update={"studies": ("sweep",)})
        return SweepGroup(name=group_name, cell=cell, **values)

    for rated in (arm, _trunk(arm)) if arm.pretraining else (arm,):
        if track.swept:
            values = {"choice": "learning_rate", "values": sweep.rates, "extend": sweep.extend}
            yield group(_group_name(name, track, rated), _swept_arm(track, rated), **values)
    if "decay_strength" in chosen:
        assert arm.factors is not None
        usual = arm.factors.decay.usual(track.training)
        strengths = tuple(usual * factor for factor in sweep.decay_strengths)
        values = {"choice": "decay_strength", "values": strengths, "extend": sweep.extend_others}
        yield group(_strength_group(name, track, arm), _decaying_arm(track, arm), **values)
    if "switch_rate" in chosen:
        values = {
            "choice": "switch_rate",
            "values": sweep.switch_rates,
            "extend": sweep.extend_others,
        }
        yield group(_switch_group(name, track, arm), _switched_arm(arm), **values)
