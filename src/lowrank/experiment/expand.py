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
from lowrank.experiment.cell import CELL_NAME, Cell, Extension, PostHocJob, SweepGroup
from lowrank.experiment.config import Config, PostHocStudy, TrackConfig
from lowrank.experiment.extensions import declared
from lowrank.experiment.sections import (
    DECAYS,
    INITIALISATIONS,
    TRUNCATIONS,
    DecaySpec,
    FactorSpec,
    PretrainingSpec,
    Strict,
)
from lowrank.experiment.shares import nearest
from lowrank.methods import IMPLIED, METHODS, check_fit, parse_options


class Arm(Strict):
    """What a study asks for, in terms of the track's sections."""

    factors: FactorSpec | None = None
    pretraining: PretrainingSpec | None = None
    width: int | None = None
    heads: int | None = None
    rate_factor: float = 1.0
    length: float = 1.0
    """Steps over the track's steps."""


def arm_name(arm: Arm, track: TrackConfig) -> str:
    """The readable name of an arm: only what differs from the track's own sections is said."""
    parts = [_factor_name(arm.factors, track)] if arm.factors else ["dense"]
    if arm.pretraining:
        parts.append(f"pre{arm.pretraining.fraction:g}")
        if arm.pretraining.rate_factor != 0.5:
            parts.append(f"rate{arm.pretraining.rate_factor:g}")
        if arm.pretraining.moments != "carry":
            parts.append(arm.pretraining.moments)
    if arm.rate_factor != 1.0:
        parts.append("halfrate" if arm.rate_factor == 0.5 else f"rate{arm.rate_factor:g}")
    if arm.length != 1.0:
        parts.append(f"long{arm.length:g}")
    if arm.width and arm.width != track.model.width:
        parts.append(f"w{arm.width}")
    return "-".join(parts)


def _factor_name(factors: FactorSpec, track: TrackConfig) -> str:
    base = track.factors
    name = f"{factors.init}-r{factors.rank_fraction:g}"
    if factors.decay != base.decay:
        name += "-" + decay_name(factors.decay)
    if factors.matricisation != base.matricisation:
        name += f"-{factors.matricisation}"
    if factors.layers != base.layers:
        name += "-" + "-".join(factors.layers)
    if factors.method != base.method:
        name += f"-{factors.method.name}" if factors.method else "-plain"
    if factors.dense_layers != base.dense_layers:
        extra = [p for p in factors.dense_layers if p not in base.dense_layers]
        name += "-dense_" + "_".join(p.strip("*.").rsplit(".", 1)[-1] for p in extra)
    return name


def decay_name(decay: DecaySpec) -> str:
    """`none`, `l2`, `l2-coupled`, `frobenius`, `frobenius-coupled`, with the strength if it is set."""
    name = decay.kind + ("-coupled" if decay.coupled else "")
    return name if decay.strength is None else f"{name}{decay.strength:g}"


def varied(arm: Arm, track: TrackConfig) -> tuple[str, ...]:
    """The facts in which an arm differs from the track's plain one: its own factors from the first step, or
    from the switch, at the sweep's rate. The dense model differs in its initialisation, `dense`."""
    own, factors, pre = track.factors, arm.factors, arm.pretraining
    switch = PretrainingSpec(fraction=pre.fraction if pre else 1.0)
    pairs: dict[str, tuple[Any, Any]] = {"init": (None, "dense")}
    if factors:
        same = ("init", "rank_fraction", "matricisation", "layers", "dense_layers", "method")
        pairs = {name: (getattr(factors, name), getattr(own, name)) for name in same}
        decays = factors.decay, own.decay
        pairs["decay"] = decays[0].kind, decays[1].kind
        pairs["decay_coupled"] = decays[0].coupled, decays[1].coupled
        pairs["decay_strength"] = decays[0].strength, decays[1].strength
    pairs["pretraining"] = pre, None
    pairs["moments"] = (pre or switch).moments, switch.moments
    rates = arm.rate_factor, (pre or switch).rate_factor
    pairs["rate_factor"] = rates, (1.0, switch.rate_factor)
    pairs["length"] = arm.length, 1.0
    pairs["width"] = arm.width or track.model.width, track.model.width
    return tuple(name for name, (its, plain) in pairs.items() if its != plain)


def _factors(track: TrackConfig, **changes: Any) -> FactorSpec:
    return track.factors.model_copy(update=changes)


def initialisation_arms(track: TrackConfig) -> Iterator[Arm]:
    """Dense, and each initialisation at each rank; the controls at their own ranks."""
    study = track.studies.initialisation
    if study is None:
        return
    yield Arm()
    for inits, ranks in ((study.inits, study.ranks), (study.controls, study.control_ranks)):
        for rank in ranks:
            for init in inits:
                yield Arm(factors=_factors(track, init=init, rank_fraction=rank))


def decay_arms(track: TrackConfig) -> Iterator[Arm]:
    """Each kind of decay at each share of the arm's learning rate."""
    study = track.studies.decay
    if study is None:
        return
    for decay in study.decays:
        for factor in study.rate_factors:
            yield Arm(factors=_factors(track, decay=decay), rate_factor=factor)


def pretraining_arms(track: TrackConfig) -> Iterator[Arm]:
    """Dense and from-scratch ends, each switch between them, and longer from-scratch runs."""
    study = track.studies.pretraining
    if study is None:
        return
    yield Arm()
    for init in study.inits:
        yield Arm(factors=_factors(track, init=init))
        for fraction in study.fractions:
            spec = PretrainingSpec(fraction=fraction)
            yield Arm(factors=_factors(track, init=init), pretraining=spec)
    for fraction in study.variants_at:
        for changes in ({"rate_factor": 1.0}, {"moments": "reset"}):
            spec = PretrainingSpec.model_validate({"fraction": fraction, **changes})
            yield Arm(factors=track.factors, pretraining=spec)
    for length in study.longer:
        yield Arm(factors=track.factors, length=length)


def scaling_arms(track: TrackConfig) -> Iterator[Arm]:
    """Dense, low-rank and pre-trained at each width."""
    study = track.studies.scaling
    if study is None:
        return
    for index, width in enumerate(study.widths):
        heads = None
        if track.model.heads:
            size = track.model.width // track.model.heads
            heads = study.heads[index] if study.heads else max(1, width // size)
        yield Arm(width=width, heads=heads)
        yield Arm(width=width, heads=heads, factors=track.factors)
        if study.fraction is not None:
            spec = PretrainingSpec(fraction=study.fraction)
            yield Arm(width=width, heads=heads, factors=track.factors, pretraining=spec)


def layers_arms(track: TrackConfig) -> Iterator[Arm]:
    """All layers, one group alone, the first or the last block left dense, and alternative matricisations."""
    study = track.studies.layers
    if study is None:
        return
    yield Arm(factors=track.factors)
    for group in study.groups:
        yield Arm(factors=_factors(track, layers=(group,)))
    for block in study.dense_blocks:
        pattern = f"{block}_block"
        yield Arm(factors=_factors(track, dense_layers=(*track.factors.dense_layers, pattern)))
    for matricisation in study.matricisations:
        yield Arm(factors=_factors(track, matricisation=matricisation))


def interpolation_arms(track: TrackConfig) -> Iterator[Arm]:
    """The ends of the lines: dense, low-rank from scratch, low-rank after pre-training."""
    study = track.studies.interpolation
    if study is None:
        return
    yield Arm()
    yield Arm(factors=track.factors)
    for fraction in study.fractions:
        yield Arm(factors=track.factors, pretraining=PretrainingSpec(fraction=fraction))


def posthoc_arms(track: TrackConfig) -> Iterator[Arm]:
    """The dense model that is truncated, and training in low rank at the same ranks."""
    study = track.studies.posthoc
    if study is None:
        return
    yield Arm()
    for rank in study.ranks:
        yield Arm(factors=_factors(track, rank_fraction=rank))


def timed_arms(track: TrackConfig) -> Iterator[Arm]:
    """The arms whose steps cost differently: dense and low-rank at each rank, width and matricisation
    trained."""
    study = track.studies.layers
    kernels = [_factors(track, matricisation=m) for m in (study.matricisations if study else ())]
    arms = [*initialisation_arms(track), *scaling_arms(track), *(Arm(factors=k) for k in kernels)]
    for arm in arms:
        plain = arm.factors is None or arm.factors.init == track.factors.init
        if plain and arm.pretraining is None:
            yield arm


STUDIES = {
    "initialisation": initialisation_arms,
    "decay": decay_arms,
    "pretraining": pretraining_arms,
    "scaling": scaling_arms,
    "layers": layers_arms,
    "interpolation": interpolation_arms,
    "posthoc": posthoc_arms,
}


class Grid(Strict):
    """All cells and sweeps of a configuration, by name."""

    cells: dict[str, Cell]
    sweeps: dict[str, SweepGroup]
    posthoc: dict[str, PostHocJob] = {}
    """By track."""
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
    return _grid(config.model_copy(update={"retrain": ()}), {})


def _grid(config: Config, extensions: dict[str, Extension]) -> Grid:
    _check_names(config)
    cells: dict[str, Cell] = {}
    sweeps: dict[str, SweepGroup] = {}
    for name, track in config.tracks.items():
        for study, arms in STUDIES.items():
            for arm in arms(track):
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
                if track.training.learning_rate is None:
                    for group in _sweeps(name, track, arm, extensions):
                        sweeps[group.name] = group
    unknown_cells = [cell for cell in config.retrain if cell not in cells]
    if unknown_cells:
        raise unknown("cell in retrain", unknown_cells[0], cells)
    posthoc = {
        name: _posthoc(track, track.studies.posthoc, extensions)
        for name, track in config.tracks.items()
        if track.studies.posthoc
    }
    return Grid(cells=cells, sweeps=sweeps, posthoc=posthoc, extensions=extensions)


def _check_names(config: Config) -> None:
    """Every initialisation, decay and truncation named is built in or an extension."""
    own = set(config.extensions)
    for name, track in config.tracks.items():
        arms = [arm for arms in STUDIES.values() for arm in arms(track)]
        factors = [track.factors, *(arm.factors for arm in arms if arm.factors)]
        truncations = track.studies.posthoc.methods if track.studies.posthoc else ()
        methods = [factor.method.name for factor in factors if factor.method]
        for kind, used, known in (
            (
                "initialisation (init, inits or controls)",
                [factor.init for factor in factors],
                INITIALISATIONS,
            ),
            ("decay (kind)", [factor.decay.kind for factor in factors], DECAYS),
            ("truncation (posthoc.methods)", list(truncations), TRUNCATIONS),
            ("method (factors.method.name)", methods, set(METHODS.names()) - set(IMPLIED)),
        ):
            for method in used:
                if method not in known | own:
                    raise unknown(f"{kind} in tracks.{name}:", method, known | own)
        cut = config.parallel == "fsdp" and config.devices > 1
        starts = [(track.factors, None), *((arm.factors, arm.pretraining) for arm in arms)]
        for factor, pretraining in starts:
            if factor and factor.method and factor.method.name not in own:
                parse_options(factor.method.name, factor.method.options)
                check_fit(factor.method.name, track.training, track.model, pretraining, cut)


def _cell(
    name: str,
    track: TrackConfig,
    arm: Arm,
    study: str,
    seeds: tuple[int, ...],
    extensions: dict[str, Extension],
) -> Cell:
    swept = track.training.learning_rate is None
    steps = nearest(arm.length, track.training.steps)
    pretraining = arm.pretraining
    if pretraining and not swept:
        update = {"dense_learning_rate": track.training.learning_rate}
        pretraining = pretraining.model_copy(update=update)
    factor = arm.rate_factor * (pretraining.rate_factor if pretraining else 1.0)
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
        rate_from=_group_name(name, track, arm) if swept else None,
        rate_factor=factor,
        length=arm.length,
        varied=varied(arm, track),
        trunk=f"{name}/{arm_name(_trunk(arm), track)}" if pretraining else None,
        seeds=seeds,
        extensions=_used(arm.factors, extensions),
    )


def _used(factors: FactorSpec | None, extensions: dict[str, Extension]) -> dict[str, Extension]:
    """The extensions an arm uses: only their files enter its digest."""
    used = [factors.init, factors.decay.kind] if factors else []
    used += [factors.method.name] if factors and factors.method else []
    return {name: extensions[name] for name in used if name in extensions}


def _posthoc(
    track: TrackConfig, study: PostHocStudy, extensions: dict[str, Extension]
) -> PostHocJob:
    """A track's truncations, and the extensions that they and their fine-tuning use."""
    decays = (track.factors.decay.kind,) if any(study.fine_tune_steps) else ()
    used = {n: extensions[n] for n in (*study.methods, *decays) if n in extensions}
    return PostHocJob(study=study, factors=track.factors, extensions=used)


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
    with the track's own decay and layers. Decays, layer choices and switches are compared at that rate."""
    factors = arm.factors
    if factors is not None:
        kept = {name: getattr(factors, name) for name in ("init", "rank_fraction", "method")}
        factors = _factors(track, **kept)
    return Arm(factors=factors, width=arm.width, heads=arm.heads)


def _group_name(name: str, track: TrackConfig, arm: Arm) -> str:
    return f"{name}/{arm_name(_swept_arm(track, arm), track)}"


def _sweeps(
    name: str, track: TrackConfig, arm: Arm, extensions: dict[str, Extension]
) -> Iterator[SweepGroup]:
    for swept in (arm, _trunk(arm)) if arm.pretraining else (arm,):
        swept = _swept_arm(track, swept)
        yield SweepGroup(
            name=_group_name(name, track, swept),
            track=name,
            model=_model(track, swept),
            training=track.training,
            factors=swept.factors,
            evaluation=track.evaluation,
            sweep=track.sweep,
            varied=varied(swept, track),
            extensions=_used(swept.factors, extensions),
        )
