"""A track, the arms that studies ask of it, and what an arm is called."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from lowrank.data.images_spec import ImageSpec
from lowrank.data.spec import TextSpec
from lowrank.experiment.metrics import Task, task_of
from lowrank.experiment.sections import (
    SWEPT,
    DecaySpec,
    EvaluationSpec,
    FactorSpec,
    ModelSpec,
    PretrainingSpec,
    Seeds,
    Strict,
    SweepSpec,
    TrainingSpec,
)
from lowrank.models import FAMILIES, Family
from lowrank.optimizers import OPTIMIZERS


class Track(Strict):
    """One model on one data set."""

    data: TextSpec | ImageSpec = Field(discriminator="kind", description="The data set.")
    model: ModelSpec = Field(description="The dense model.")
    seeds: Seeds | None = Field(None, description="Seeds of this track; null: those of the file.")
    training: TrainingSpec = Field(description="How it is trained.")
    factors: FactorSpec = Field(description="The factorised arm that all studies vary.")
    evaluation: EvaluationSpec = Field(EvaluationSpec(), description="Held-out examples.")
    sweep: SweepSpec = Field(description="What every arm chooses on validation data.")

    @property
    def task(self) -> Task:
        """What the track is, whatever it is called."""
        return task_of(self.model.family)

    @property
    def family(self) -> Family:
        """The record of its model family."""
        return FAMILIES[self.model.family]

    @property
    def swept(self) -> bool:
        """Whether each arm's learning rate is the best of its sweep."""
        return self.training.learning_rate is None

    @model_validator(mode="after")
    def _optimizer_fits(self) -> Track:
        if self.family.convolutions and not OPTIMIZERS[self.training.optimizer].kernels:
            raise ValueError(
                f"training.optimizer: {self.training.optimizer} moves matrices, and {self.model.family} "
                "is made of convolutions: use adamw or sgd"
            )
        return self

    @model_validator(mode="after")
    def _own_decay_given(self) -> Track:
        if self.factors.decay.strength == SWEPT:
            raise ValueError(
                "factors.decay.strength: swept is for the decays of a study, and this one is every arm's: "
                "give a number or leave it out"
            )
        return self

    def with_factors(self, **changes: Any) -> FactorSpec:
        """The track's factor section with some of its keys changed."""
        return self.factors.model_copy(update=changes)

    def switched(self, fraction: float, **changes: Any) -> PretrainingSpec:
        """Dense for a share of the steps; then at the rate that the sweep finds, if it looks for one."""
        swept = {"rate_factor": SWEPT} if self.sweep.switch_rates else {}
        return PretrainingSpec.model_validate({"fraction": fraction, **swept, **changes})


class Arm(Strict):
    """What a study asks for, in terms of the track's sections."""

    factors: FactorSpec | None = None
    pretraining: PretrainingSpec | None = None
    width: int | None = None
    heads: int | None = None
    rate_factor: float = 1.0
    length: float = 1.0
    """Steps over the track's steps."""
    kept: float | None = None
    """Share of the factorised layers' parameters that is kept, in place of the rank fraction, which then
    follows from shapes: of arms that are timed only."""
    budget: Literal["steps", "flops"] = "steps"
    """flops: the length is that at which the arm takes as many as the dense model's run."""

    def with_factors(self, **changes: Any) -> Arm:
        """The same arm with some keys of its factor section changed."""
        assert self.factors is not None
        return self.model_copy(update={"factors": self.factors.model_copy(update=changes)})


def arm_name(arm: Arm, track: Track) -> str:
    """The readable name of an arm: only what differs from the track's own sections is said."""
    parts = [_factor_name(arm.factors, track)] if arm.factors else ["dense"]
    if arm.pretraining:
        parts.append(f"pre{arm.pretraining.fraction:g}")
        factor = arm.pretraining.rate_factor
        if factor == SWEPT:
            parts.append(SWEPT)
        elif factor != 0.5:
            parts.append(f"rate{factor:g}")
        if arm.pretraining.moments != "carry":
            parts.append(arm.pretraining.moments)
    if arm.rate_factor != 1.0:
        parts.append("halfrate" if arm.rate_factor == 0.5 else f"rate{arm.rate_factor:g}")
    if arm.budget != "steps":
        parts.append(arm.budget)
    elif arm.length != 1.0:
        parts.append(f"long{arm.length:g}")
    if arm.width and arm.width != track.model.width:
        parts.append(f"w{arm.width}")
    return "-".join(parts)


def _factor_name(factors: FactorSpec, track: Track) -> str:
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
    """`none`, `l2`, `l2-coupled`, `frobenius`, `frobenius-coupled`, with the strength if it is set, and
    `-swept` if it is chosen."""
    name = decay.kind + ("-coupled" if decay.coupled else "")
    if decay.strength == SWEPT:
        return f"{name}-{SWEPT}"
    return name if decay.strength is None else f"{name}{decay.strength:g}"


def swept(arm: Arm) -> tuple[str, ...]:
    """What the arm chooses on validation data beside its learning rate: decay_strength, switch_rate."""
    strength = arm.factors is not None and arm.factors.decay.strength == SWEPT
    switch = arm.pretraining is not None and arm.pretraining.rate_factor == SWEPT
    return (*(("decay_strength",) if strength else ()), *(("switch_rate",) if switch else ()))


def varied(arm: Arm, track: Track) -> tuple[str, ...]:
    """The facts in which an arm differs from the track's plain one: its own factors from the first step, or
    from the switch, at the sweep's rate. The dense model differs in its initialisation, `dense`. An arm
    whose decay strength or rate after the switch is swept differs in that, whatever is found."""
    own, factors, pre = track.factors, arm.factors, arm.pretraining
    switch, chosen = PretrainingSpec(fraction=pre.fraction if pre else 1.0), swept(arm)
    pairs: dict[str, tuple[Any, Any]] = {"init": (None, "dense")}
    if factors:
        same = ("init", "rank_fraction", "matricisation", "layers", "dense_layers", "method")
        pairs = {name: (getattr(factors, name), getattr(own, name)) for name in same}
        decays = factors.decay, own.decay
        pairs["decay"] = decays[0].kind, decays[1].kind
        pairs["decay_coupled"] = decays[0].coupled, decays[1].coupled
        if "decay_strength" not in chosen:
            pairs["decay_strength"] = decays[0].strength, decays[1].strength
    pairs["pretraining"] = pre, None
    pairs["moments"] = (pre or switch).moments, switch.moments
    after = switch if "switch_rate" in chosen or pre is None else pre
    pairs["rate_factor"] = (arm.rate_factor, after.rate_factor), (1.0, switch.rate_factor)
    pairs["swept"] = chosen, ()
    pairs["length"] = arm.length if arm.budget == "steps" else 1.0, 1.0
    pairs["budget"] = arm.budget, "steps"
    pairs["width"] = arm.width or track.model.width, track.model.width
    return tuple(name for name, (its, plain) in pairs.items() if its != plain)
