"""The sections that describe one arm: model, training, factors, evaluation, sweep.

All are typed, frozen, and strict about unknown keys. They enter the digests of runs.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from lowrank.experiment.complaints import shown
from lowrank.experiment.pretrained import content
from lowrank.models import FAMILIES
from lowrank.optimizers import OPTIMIZERS

# Bounds that no model or run comes near, so that a slip of some zeros is found before hours of work;
# float32 ends at 3e38.
LARGEST = 1e38
MANY = {"seeds": 1000, "retrain": 10_000}
"""Entries of a list, 100 where it is not named."""
LONGEST_TEXT = 1000
Size = Annotated[int, Field(gt=0, le=1_000_000)]
Count = Annotated[int, Field(gt=0, le=1_000_000_000)]
Few = Annotated[int, Field(gt=0, le=10_000)]
Positive = Annotated[float, Field(gt=0, le=LARGEST)]
NotNegative = Annotated[float, Field(ge=0, le=LARGEST)]
Fraction = Annotated[float, Field(gt=0, le=1)]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=60)]
# The names the method's registries know: listed here too, so that a configuration is read and checked
# without importing torch. A test holds both in step.
INITIALISATIONS = {"he", "he_scaled", "random_spectral", "spectral", "spectral_ones"}
DECAYS = {"none", "l2", "frobenius"}
TRUNCATIONS = {"plain", "whitened", "fisher"}
LARGEST_SEED = 2**63
SWEPT: Literal["swept"] = "swept"
"""In place of a number: chosen on validation data, as the section `sweep` says."""


def _distinct_seeds(seeds: tuple[int, ...]) -> tuple[int, ...]:
    if len(set(seeds)) != len(seeds):
        raise ValueError(f"{list(seeds)} repeat a seed: give each once")
    if max(seeds) >= LARGEST_SEED:
        raise ValueError(f"{max(seeds)} must be below 2 ** 63")
    return seeds


Seeds = Annotated[
    tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1), AfterValidator(_distinct_seeds)
]
if TYPE_CHECKING:
    FamilyName = str
    OptimizerName = str
else:
    FamilyName, OptimizerName = Literal[tuple(FAMILIES)], Literal[tuple(OPTIMIZERS)]
TrackName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]*$", max_length=60)]


class Strict(BaseModel):
    """Base of every section: immutable, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _plausible(cls, value: Any, info: ValidationInfo) -> Any:
        """Lists and texts are not endless; and Python takes true for 1, but a configuration that says so has the
        wrong key or value."""
        most = MANY.get(str(info.field_name), 100)
        if isinstance(value, list | tuple) and len(value) > most:
            raise ValueError(f"{shown(value)} of {len(value):,} entries must have at most {most:,}")
        given = value if isinstance(value, list | tuple) else [value]
        for one in given:
            if isinstance(one, str) and len(one) > LONGEST_TEXT:
                raise ValueError(f"{shown(one)} must have at most {LONGEST_TEXT:,} characters")
        if any(isinstance(one, bool) for one in given) and not cls._takes_bool(info):
            raise ValueError(f"{shown(value)} is neither a number nor a name: give one")
        return value

    @classmethod
    def _takes_bool(cls, info: ValidationInfo) -> bool:
        return "bool" in str(cls.model_fields[str(info.field_name)].annotation)


class Pretrained(Strict):
    """A folder of transformers' save_pretrained: a configuration gives its path, what jobs read its digest too."""

    folder: str = Field(description="The folder's path.")
    sha256: str = Field(
        description="The SHA-256 of its config.json and *.safetensors, names and all."
    )

    @model_validator(mode="before")
    @classmethod
    def _read(cls, value: Any) -> Any:
        return (
            {"folder": value, "sha256": content(Path(value))} if isinstance(value, str) else value
        )


class ModelSpec(Strict):
    """The dense model of a track."""

    family: FamilyName = Field(description="Which model is built.")
    width: Size = Field(
        description="GPT-2, Llama, ViT: size of the hidden vectors. Wide ResNet: width factor. "
        "ResNet: base hidden size (ResNet-50: 256)."
    )
    depth: Few | None = Field(
        None,
        description="GPT-2, Llama, ViT: blocks. Wide ResNet: 6n + 4 layers. ResNet: see `depths`.",
    )
    heads: Few | None = Field(None, description="GPT-2, Llama, ViT: attention heads.")
    kv_heads: Few | None = Field(
        None,
        description="Llama: heads of keys and values, each shared by heads / kv_heads queries; null: "
        "as many as heads.",
    )
    mlp_width: Size | None = Field(
        None,
        description="Llama, ViT: hidden size of the MLP; null: Llama 8/3 of the width, rounded up to a "
        "multiple of 16, ViT 4 times the width.",
    )
    context: Size | None = Field(None, description="GPT-2, Llama: tokens in an example.")
    tied_head: bool | None = Field(
        None,
        description="GPT-2, Llama: whether the head is the embedding; null: GPT-2 yes, Llama no.",
    )
    depths: tuple[Few, ...] | None = Field(
        None, description="ResNet: bottleneck blocks in each stage (ResNet-50: [3, 4, 6, 3])."
    )
    patch: Few | None = Field(None, description="ViT: side of a patch, in pixels.")
    image_size: Few | None = Field(
        None, description="ViT: side of the images the model sees, a multiple of `patch`."
    )
    init_std: Positive = Field(
        0.02,
        description="GPT-2, Llama, ViT: standard deviation of initial weights and embeddings.",
    )
    pretrained: Annotated[Pretrained, WithJsonSchema({"type": "string"})] | None = Field(
        None,
        description="GPT-2, Llama, ResNet, ViT: a folder of transformers' save_pretrained whose weights "
        "the model begins with; null: it is drawn at random. Its content is part of a run's identity.",
    )
    channels: Few = Field(3, description="Image models: input channels.")
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout probability.")

    @model_validator(mode="after")
    def _complete(self) -> ModelSpec:
        family = FAMILIES[self.family]
        for key in family.needs:
            if getattr(self, key) is None:
                raise ValueError(f"{key} is missing: the family {self.family} needs it")
        known = {"family", "width", *family.needs, *family.takes}
        for key, field in type(self).model_fields.items():
            value = getattr(self, key)
            if key not in known and value != field.default:
                raise ValueError(
                    f"{key}: {shown(value)} is not supported by the family {self.family}: remove it"
                )
        if problem := family.problem(self):
            raise ValueError(problem)
        return self


class TrainingSpec(Strict):
    """How a model is trained."""

    optimizer: OptimizerName = Field(
        "adamw",
        description="The optimiser. muon: for the matrices between embedding and head, factors among "
        "them, AdamW for the rest; both at AdamW's rate.",
    )
    learning_rate: Positive | None = Field(
        None,
        description="Peak learning rate. Left out, it is the best of the arm's sweep on validation "
        "data.",
    )
    betas: tuple[float, float] = Field(
        (0.9, 0.95), description="AdamW, also within muon: decay of both moments."
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="SGD: momentum.")
    nesterov: bool = Field(False, description="SGD: Nesterov's momentum.")
    weight_decay: NotNegative = Field(
        0.1, description="Decay of the dense matrices (AdamW, Muon: decoupled, SGD: coupled)."
    )
    coupled_decay: NotNegative | None = Field(
        None,
        description="Strength of factor decays that are added to the gradient; null: `weight_decay`. "
        "Adam rescales such a decay by the second moment, so it needs a strength of its own.",
    )
    steps: Count = Field(description="Optimiser steps.")
    batch: Size = Field(description="Examples in a step, over all devices.")
    accumulation: Size = Field(
        1, description="Parts a step's batch is computed in, one after the other."
    )
    warmup: float = Field(0.05, ge=0, lt=1, description="Share of the steps that warm up linearly.")
    schedule: Literal["cosine", "step"] = Field("cosine", description="Learning-rate schedule.")
    final: float = Field(0.1, ge=0, le=1, description="Cosine: last rate over the peak rate.")
    milestones: tuple[float, ...] = Field(
        (0.3, 0.6, 0.8), description="Step schedule: where the rate drops, as shares of the steps."
    )
    drop: Fraction = Field(0.2, description="Step schedule: what each drop multiplies the rate by.")
    clip: Positive | None = Field(1.0, description="Largest gradient norm; null: no clipping.")
    label_smoothing: float = Field(0.0, ge=0, lt=1, description="Image tracks: label smoothing.")
    pad: int = Field(0, ge=0, le=10_000, description="Image tracks: padding before a random crop.")
    flip: bool = Field(False, description="Image tracks: random horizontal flip.")
    random_resized_crop: bool = Field(False, description="Image tracks: random resized crop.")
    crop: Few | None = Field(
        None, description="Image tracks: side the model sees; null: that of the stored images."
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "float32", description="Forward precision; auto: bfloat16 autocast where it is native."
    )
    channels_last: bool = Field(
        True, description="Image tracks: NHWC memory layout, in which convolutions are faster."
    )
    compile: bool = Field(False, description="torch.compile (does not pay on a CPU).")
    log_points: Few = Field(40, description="Rows of the training history of a run.")
    probe_points: Few = Field(
        8, description="Times at which ranks, norms and update sizes are measured."
    )
    validation_points: Few = Field(4, description="Times the validation loss is measured.")
    checkpoint_every: Count = Field(
        1000, description="Steps between two checkpoints. Does not influence results."
    )

    @model_validator(mode="after")
    def _in_order(self) -> TrainingSpec:
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas: {list(self.betas)} must lie in 0 to 1, 1 left out")
        marks = self.milestones
        if list(marks) != sorted(set(marks)) or not all(0 < mark < 1 for mark in marks):
            raise ValueError(
                f"milestones: {list(marks)} must be rising shares of the steps between 0 and 1"
            )
        if self.batch % self.accumulation:
            raise ValueError(
                f"accumulation: {self.accumulation} does not divide the batch {self.batch}: give a "
                "divisor of it"
            )
        return self


class DecaySpec(Strict):
    """What penalises the factors. Factors are in exactly one decay group."""

    kind: Name = Field(
        "l2", description="none, l2 (on each factor), frobenius, or a registered one."
    )
    coupled: bool = Field(
        False,
        description="Added to the gradient (rescaled by Adam's second moment) instead of subtracted "
        "from the weights.",
    )
    strength: NotNegative | Literal["swept"] | None = Field(
        None,
        description="Lambda; null: the training section's weight_decay or coupled_decay; swept (in the "
        "decays of a study): the best of `sweep.decay_strengths`.",
    )

    def usual(self, training: TrainingSpec) -> float:
        """Lambda where no strength is given."""
        if self.coupled and training.coupled_decay is not None:
            return training.coupled_decay
        return training.weight_decay

    def with_strength(self, strength: float, training: TrainingSpec) -> DecaySpec:
        """The same decay with a strength; the usual one is left out, so that it is the same run."""
        given = None if strength == self.usual(training) else strength
        return self.model_copy(update={"strength": given})


class MethodSpec(Strict):
    """What is done with the layers of a factor section other than training U V^T."""

    name: Name = Field(
        description="One that `lowrank methods` lists, or an extension; dense, factored and pretrained "
        "follow from the other sections and are not named."
    )
    options: dict[str, Any] = Field(
        {},
        max_length=100,
        description="The method's own settings; `lowrank methods` lists them too.",
    )


class FactorSpec(Strict):
    """Which layers are trained in low rank, and how."""

    rank_fraction: Fraction = Field(description="Rank over the smaller side of a layer's matrix.")
    rank_multiple: Few = Field(16, description="Ranks are rounded to a multiple of this.")
    init: Name = Field("spectral", description="Initialisation of the factors.")
    matricisation: Literal["channel", "spatial"] = Field(
        "channel", description="Convolutions: how the kernel is read as a matrix."
    )
    layers: tuple[str, ...] = Field(
        ("*",), description="Patterns of layer names or groups that are factorised."
    )
    dense_layers: tuple[str, ...] = Field((), description="Patterns of layers that stay dense.")
    decay: DecaySpec = Field(DecaySpec(), description="What penalises the factors.")
    method: MethodSpec | None = Field(
        None, description="Another method of training than U V^T from the first step."
    )

    @model_validator(mode="after")
    def _some_layer(self) -> FactorSpec:
        if not self.layers:
            raise ValueError("layers: [] names no layer to factorise: give a pattern such as '*'")
        return self


class PretrainingSpec(Strict):
    """A run that begins dense and is factorised on the way."""

    fraction: Fraction = Field(description="Share of the steps that are dense.")
    moments: Literal["carry", "reset"] = Field(
        "carry", description="Optimiser moments at the switch: projected into the factors, or zero."
    )
    rate_factor: Positive | Literal["swept"] = Field(
        0.5,
        description="What the arm's learning rate is multiplied by after the switch; swept: the best of "
        "`sweep.switch_rates`.",
    )
    dense_learning_rate: Positive | None = Field(
        None, description="Peak rate of the dense part; null: the dense arm's best."
    )


class EvaluationSpec(Strict):
    """How many held-out examples are read."""

    validation_examples: Count = Field(512, description="Validation examples at most.")
    test_examples: Count = Field(2048, description="Test examples at most.")
    batch: Size = Field(64, description="Examples in an evaluation batch.")


class SweepSpec(Strict):
    """What each arm chooses on validation data: its learning rate, then at that rate what else is swept."""

    rates: tuple[Positive, ...] = Field(min_length=1, description="Learning rates tried.")
    extend: int = Field(
        2,
        ge=0,
        le=100,
        description="How often a sweep of rates is widened while its best rate is at an edge.",
    )
    extend_others: int = Field(
        0,
        ge=0,
        le=100,
        description="The same of decay strengths and of rates after the switch.",
    )
    decay_strengths: tuple[Positive, ...] = Field(
        (),
        description="Strengths tried of decays whose strength is `swept`, over the training section's "
        "weight_decay or coupled_decay.",
    )
    switch_rates: tuple[Positive, ...] = Field(
        (),
        description="What the learning rate after the switch from dense to factors is tried at, over the "
        "arm's own rate; none: pre-trained arms go on at half their rate.",
    )
    seeds: Seeds = Field(
        (1000,),
        description="Seeds each value is tried with, the best having the least mean validation loss; none of "
        "the runs' seeds, so that no run is chosen for what it is then compared by.",
    )

    @model_validator(mode="before")
    @classmethod
    def _one_seed(cls, given: Any) -> Any:
        """What was published before there could be several names the one as `seed`."""
        if isinstance(given, dict) and "seed" in given and "seeds" not in given:
            given = {**given, "seeds": [given["seed"]]}
            del given["seed"]
        return given

    @model_validator(mode="after")
    def _different_values(self) -> SweepSpec:
        for name in ("rates", "decay_strengths", "switch_rates"):
            values = getattr(self, name)
            if len(set(values)) != len(values):
                raise ValueError(f"{name}: {list(values)} repeat a value: give each once")
        if max(self.seeds) >= LARGEST_SEED:
            raise ValueError(f"seeds: {max(self.seeds)} must be below 2 ** 63")
        return self
