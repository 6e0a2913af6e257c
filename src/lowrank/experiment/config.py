"""What a configuration file may say: the studies of each track, and the tracks.

Everything that determines a result is described here and in `sections` once. `config/README.md` and the
JSON schema are generated from these classes, and a test holds them in step.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from lowrank.data.images_spec import ImageSpec
from lowrank.data.spec import TextSpec
from lowrank.errors import LowrankError, unknown
from lowrank.experiment.complaints import complaint, shown
from lowrank.experiment.metrics import TASKS, Task, task_of
from lowrank.experiment.sections import (
    DECAYS,
    INITIALISATIONS,
    TRUNCATIONS,
    Count,
    DecaySpec,
    EvaluationSpec,
    FactorSpec,
    Few,
    Fraction,
    ModelSpec,
    Name,
    Positive,
    Seeds,
    Size,
    Strict,
    SweepSpec,
    TrackName,
    TrainingSpec,
)
from lowrank.experiment.shares import nearest
from lowrank.files import read_sealed
from lowrank.methods import METHODS
from lowrank.models import FAMILIES
from lowrank.optimizers import OPTIMIZERS
from lowrank.strict_yaml import read_yaml


class InitialisationStudy(Strict):
    """Initialisations against each other and against dense."""

    ranks: tuple[Fraction, ...] = Field(min_length=1, description="Rank fractions.")
    inits: tuple[Name, ...] = Field(
        ("he", "spectral", "spectral_ones"), description="Initialisations at every rank."
    )
    controls: tuple[Name, ...] = Field(
        (), description="Further initialisations, at `control_ranks` only."
    )
    control_ranks: tuple[Fraction, ...] = Field((), description="Rank fractions of the controls.")

    @model_validator(mode="after")
    def _controls_with_ranks(self) -> InitialisationStudy:
        if bool(self.controls) != bool(self.control_ranks):
            raise ValueError(
                f"controls: {list(self.controls)} and control_ranks {list(self.control_ranks)} need "
                "each other: give both or neither"
            )
        return self


class DecayStudy(Strict):
    """Kinds of decay, each at the arm's rate and at half of it."""

    decays: tuple[DecaySpec, ...] = Field(min_length=1, description="The kinds of decay.")
    rate_factors: tuple[Positive, ...] = Field(
        (1.0, 0.5), description="What the arm's learning rate is multiplied by."
    )


class PretrainingStudy(Strict):
    """Dense steps before the switch to factors."""

    fractions: tuple[Fraction, ...] = Field(min_length=1, description="Dense shares of the steps.")
    inits: tuple[Name, ...] = Field(
        ("spectral", "spectral_ones"), description="Initialisations at the switch."
    )
    variants_at: tuple[Fraction, ...] = Field(
        (), description="Dense shares at which full rate and reset moments are run as well."
    )
    longer: tuple[Positive, ...] = Field(
        (), description="From-scratch runs of so many times the steps, for the equal-FLOPs line."
    )


class ScalingStudy(Strict):
    """Quality against compute and parameters as the model is widened."""

    widths: tuple[Size, ...] = Field(min_length=1, description="Model widths.")
    heads: tuple[Size, ...] | None = Field(
        None, description="Heads at each width; null: the model section's head size is kept."
    )
    fraction: Fraction | None = Field(
        0.25, description="Dense share of the pre-trained arm; null: no such arm."
    )

    @model_validator(mode="after")
    def _heads_for_each_width(self) -> ScalingStudy:
        if self.heads is not None and len(self.heads) != len(self.widths):
            raise ValueError(
                f"heads: {list(self.heads)} must be as many as the widths {list(self.widths)}"
            )
        return self


class LayersStudy(Strict):
    """Which layers are factorised, and by which matricisation of their kernels."""

    groups: tuple[Name, ...] = Field((), description="Groups factorised alone.")
    dense_blocks: tuple[Literal["first", "last"], ...] = Field(
        (), description="Blocks left dense, one arm each."
    )
    matricisations: tuple[Literal["channel", "spatial"], ...] = Field(
        (), description="Alternative matricisations of kernels, with all layers factorised."
    )


class InterpolationStudy(Strict):
    """The line from the dense solution to low-rank ones, through effective weights."""

    points: Few = Field(11, ge=3, description="Points on the line, ends included.")
    fractions: tuple[Fraction, ...] = Field(
        (), description="Pre-trained arms drawn beside the one trained from scratch."
    )
    batches: Count = Field(
        8, description="Training batches that recompute batch-norm statistics at each point."
    )


class PostHocStudy(Strict):
    """Truncation of the trained dense model."""

    methods: tuple[Name, ...] = Field(("plain", "whitened", "fisher"), description="Truncations.")
    ranks: tuple[Fraction, ...] = Field(min_length=1, description="Rank fractions.")
    fine_tune_steps: tuple[Annotated[int, Field(ge=0, le=1_000_000_000)], ...] = Field(
        (0,), description="Optimiser steps after truncation; 0: none."
    )
    fine_tune_rate_factor: Positive = Field(
        0.1, description="Fine-tuning's peak rate over the dense arm's rate."
    )
    calibration_batches: Count = Field(
        8, description="Training batches from which whitening and Fisher weights are measured."
    )
    batch_norm_batches: Count = Field(
        8,
        description="Training batches that recompute batch-norm statistics after truncation and "
        "fine-tuning.",
    )


class Studies(Strict):
    """The experiments of a track; one left out is not run."""

    initialisation: InitialisationStudy | None = None
    decay: DecayStudy | None = None
    pretraining: PretrainingStudy | None = None
    scaling: ScalingStudy | None = None
    layers: LayersStudy | None = None
    interpolation: InterpolationStudy | None = None
    posthoc: PostHocStudy | None = None


class TrackConfig(Strict):
    """One model on one data set, and what is asked of it."""

    data: TextSpec | ImageSpec = Field(discriminator="kind", description="The data set.")
    model: ModelSpec = Field(description="The dense model.")
    seeds: Seeds | None = Field(None, description="Seeds of this track; null: those of the file.")
    training: TrainingSpec = Field(description="How it is trained.")
    factors: FactorSpec = Field(description="The factorised arm that all studies vary.")
    evaluation: EvaluationSpec = Field(EvaluationSpec(), description="Held-out examples.")
    sweep: SweepSpec = Field(description="The learning-rate sweep of every arm.")
    studies: Studies = Field(Studies(), description="The experiments.")

    @property
    def task(self) -> Task:
        """What the track is, whatever it is called."""
        return task_of(self.model.family)

    @model_validator(mode="after")
    def _studies_fit(self) -> TrackConfig:
        studies, steps, family = self.studies, self.training.steps, FAMILIES[self.model.family]
        if family.convolutions and not OPTIMIZERS[self.training.optimizer].kernels:
            raise ValueError(
                f"training.optimizer: {self.training.optimizer} moves matrices, and {self.model.family} "
                "is made of convolutions: use adamw or sgd"
            )
        if studies.layers:
            if studies.layers.matricisations and not family.convolutions:
                raise ValueError(
                    f"studies.layers.matricisations: {self.model.family} has no convolutions to factorise: "
                    "leave it out"
                )
            for group in studies.layers.groups:
                if group not in family.groups:
                    raise ValueError(
                        str(unknown("group in studies.layers.groups", group, family.groups))
                    )
        if studies.scaling and self.model.heads:
            size = self.model.width // self.model.heads
            for index, width in enumerate(studies.scaling.widths):
                given = studies.scaling.heads
                heads = given[index] if given else max(1, width // size)
                if width % heads:
                    raise ValueError(
                        f"studies.scaling.widths: {width} is not divisible by its {heads} heads: "
                        "give heads that divide it"
                    )
        forks = bool(
            studies.pretraining
            or (studies.scaling and studies.scaling.fraction)
            or (studies.interpolation and studies.interpolation.fractions)
        )
        if forks and steps < 2:
            raise ValueError(
                f"training.steps: {steps} cannot be parted into dense and low-rank steps: give 2 or "
                "more, or leave pre-training out"
            )
        for length in studies.pretraining.longer if studies.pretraining else ():
            if not 1 <= nearest(length, steps) <= 1_000_000_000:
                raise ValueError(
                    f"studies.pretraining.longer: {length:g} times {steps} steps is no number of "
                    "steps: give a factor such as 1.5"
                )
        whitened = studies.posthoc is not None and "whitened" in studies.posthoc.methods
        if whitened and self.factors.matricisation == "spatial":
            raise ValueError(
                "studies.posthoc.methods: whitened needs the matricisation channel, not spatial: "
                "leave it out or set factors.matricisation"
            )
        return self


class Config(Strict):
    """A whole configuration file."""

    scale: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]*$")] = Field(
        max_length=60, description="Name of the scale; results lie in results/<scale>."
    )
    seeds: Seeds = Field(description="Seed k sees the same data order in every cell.")
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where runs are trained.")
    devices: Few = Field(1, description="Devices one run is spread over.")
    parallel: Literal["ddp", "fsdp"] = Field(
        "ddp",
        description="With several devices: each holds the whole model (ddp), or a slice of it and of "
        "the optimiser's state, for models that do not fit (fsdp).",
    )
    results_from: Literal["train", "published"] = Field(
        "train", description="Train the cells, or read the published tables."
    )
    retrain: tuple[str, ...] = Field(
        (), description="Cells trained although `results_from` is published."
    )
    extensions: dict[Name, str] = Field(
        {},
        max_length=100,
        description="Names of further initialisations, decays or truncations, each with the Python "
        "file that registers it.",
    )
    tracks: dict[TrackName, TrackConfig] = Field(
        min_length=1, max_length=100, description="The tracks, by names of your own."
    )

    def seeds_of(self, track: str) -> tuple[int, ...]:
        """The seeds of a track: its own, or those of the file."""
        return self.tracks[track].seeds or self.seeds

    @property
    def tasks(self) -> dict[str, str]:
        """What each track is: the name of its task."""
        return {name: track.task.name for name, track in self.tracks.items()}

    @model_validator(mode="after")
    def _consistent(self) -> Config:
        for name in self.extensions:
            if name in INITIALISATIONS | DECAYS | TRUNCATIONS | set(METHODS.names()):
                raise ValueError(f"extensions.{name}: {name} is built in: choose another name")
        for name, track in self.tracks.items():
            if track.data.kind != track.task.data:
                fitting = [
                    other
                    for other, family in FAMILIES.items()
                    if TASKS[family.task].data == track.data.kind
                ]
                raise ValueError(
                    f"tracks.{name}: {track.model.family} on {track.data.kind} does not fit: it needs "
                    f"{track.task.data}, and {track.data.kind} one of {', '.join(fitting)}"
                )
            optimizer, cut = track.training.optimizer, self.parallel == "fsdp" and self.devices > 1
            if cut and not OPTIMIZERS[optimizer].sharded:
                raise ValueError(
                    f"tracks.{name}.training.optimizer: {optimizer} needs whole matrices, and parallel: "
                    "fsdp cuts them: use ddp"
                )
            parts = self.devices * track.training.accumulation
            if track.training.batch % parts:
                raise ValueError(
                    f"tracks.{name}.training.batch: {track.training.batch} does not split over "
                    f"{self.devices} devices x {track.training.accumulation} (accumulation): give "
                    f"a multiple of {parts}"
                )
        return self


def parse(values: Any, source: str = "configuration") -> Config:
    """A validated configuration from plain values; LowrankError names the key, the value and what would be right."""
    _expect_section(values, source)
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        raise complaint(error, source, values, Config) from None


def _expect_section(values: Any, source: str) -> None:
    if not isinstance(values, dict):
        raise LowrankError(
            f"{source}: keys such as scale and tracks are expected, not {shown(values)}."
        )


def read_section(path: Path | str) -> dict[str, Any]:
    """The keys and plain values of a configuration file, which may be a part of a configuration."""
    values = read_yaml(path)
    _expect_section(values, str(path))
    return values


def read_config(path: Path | str) -> Config:
    """Read and validate a configuration file, or the one (JSON) that the workflow wrote."""
    values = (
        read_sealed(path, "a configuration") if Path(path).suffix == ".json" else read_yaml(path)
    )
    return parse(values, str(path))
