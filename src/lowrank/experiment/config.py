"""What a configuration file may say: the tracks, and the studies of each.

Everything that determines a result is described here, in `track`, in `sections` and in each study once. `config/README.md` and the
JSON schema are generated from these classes, and a test holds them in step.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, ValidationError, create_model, model_validator

from lowrank.errors import LowrankError
from lowrank.experiment.complaints import complaint, shown
from lowrank.experiment.extensions import declared, load_extensions
from lowrank.experiment.metrics import TASKS
from lowrank.experiment.sections import (
    DECAYS,
    INITIALISATIONS,
    SWEPT,
    TRUNCATIONS,
    Few,
    Name,
    Seeds,
    Strict,
    TrackName,
)
from lowrank.experiment.study import STUDIES, Figure, Study, studies
from lowrank.experiment.track import Arm, Track, arm_name, swept
from lowrank.files import read_sealed
from lowrank.methods import METHODS
from lowrank.models import FAMILIES
from lowrank.optimizers import OPTIMIZERS
from lowrank.strict_yaml import read_yaml


class _Studies(Strict):
    """The experiments of a track; one left out is not run."""

    def asked(self) -> dict[str, Any]:
        """The section of each study that is there, by its name."""
        return {name: section for name, section in self if section is not None}


def _optional(found: Mapping[str, Study]) -> dict[str, Any]:
    """The sections of studies as fields that may be left out."""
    sections: dict[str, Any] = {name: study.section for name, study in found.items()}
    return {name: (section | None, None) for name, section in sections.items() if section}


if TYPE_CHECKING:

    class Studies(_Studies):
        def __getattr__(self, name: str) -> Any: ...
else:
    Studies = create_model(
        "Studies",
        __base__=_Studies,
        __doc__=_Studies.__doc__,
        **_optional(studies()),
    )


class TrackConfig(Track):
    """One model on one data set, and what is asked of it."""

    studies: Studies = Field(Studies(), description="The experiments.")

    def arms(self) -> list[tuple[str, Arm]]:
        """What is trained: (study, arm), in the order of the studies."""
        return [
            (name, arm)
            for name, section in self.studies.asked().items()
            for arm in STUDIES[name].arms(section, self)
        ]

    def timed(self) -> list[Arm]:
        """The arms whose steps are timed: those that cost differently, not those that begin otherwise."""
        arms = [
            arm
            for name, section in self.studies.asked().items()
            for arm in STUDIES[name].timed(section, self)
        ]
        own = self.factors.init
        return [a for a in arms if not a.pretraining and (not a.factors or a.factors.init == own)]

    def figures(self) -> dict[str, tuple[Figure, tuple[str, ...]]]:
        """The figures that the track has something to show in, each with the studies that it shows."""
        asked, found = self.studies.asked(), {}
        for name, study in studies().items():
            for figure in study.figures:
                shown = tuple(s for s in (name, *figure.beside) if s in asked)
                if shown or study.wanted(self):
                    found[figure.name] = figure, shown
        return found

    @model_validator(mode="after")
    def _studies_fit(self) -> TrackConfig:
        for name, section in self.studies.asked().items():
            if problem := STUDIES[name].problem(section, self):
                raise ValueError(problem)
        for _, arm in self.arms():
            if problem := self._not_swept(arm):
                raise ValueError(problem)
        steps = self.training.steps
        if steps < 2 and any(arm.pretraining for _, arm in self.arms()):
            raise ValueError(
                f"training.steps: {steps} cannot be parted into dense and low-rank steps: give 2 or "
                "more, or leave pre-training out"
            )
        return self

    def _not_swept(self, arm: Arm) -> str | None:
        """What an arm would choose on validation data of which the sweep has nothing to try."""
        for choice in swept(arm):
            key = {"decay_strength": "decay_strengths", "switch_rate": "switch_rates"}[choice]
            if not getattr(self.sweep, key):
                return f"sweep.{key}: [] has no value to try, and {arm_name(arm, self)} is swept: give some"
        decay = arm.factors.decay if arm.factors else None
        if decay and decay.strength == SWEPT and not decay.usual(self.training):
            return (
                "training.weight_decay: strengths of decay are swept over the usual one, and that is 0: "
                "give one above 0"
            )
        return None


class Config(Strict):
    """A whole configuration file."""

    scale: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]*$")] = Field(
        max_length=60, description="Name of the scale; results lie in results/<scale>."
    )
    setting: Literal["paper", "reduced"] = Field(
        "reduced",
        description="Whether models, data and training are the paper's own: elsewhere a claim that fails is "
        "not reproduced at that scale, not refuted.",
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
        "train",
        description="Train all cells, or use the published runs of this configuration and train those that "
        "are missing.",
    )
    retrain: tuple[str, ...] | None = Field(
        None,
        description="With `results_from: published`, the cells that are trained; all else is what the published "
        "tables say, whatever made them. Null: what is missing is trained; []: nothing.",
    )
    trackers: tuple[Literal["tensorboard", "wandb"], ...] = Field(
        (),
        description="What is also told of histories while runs train: `tensorboard` writes to "
        "results/<scale>/tensorboard, `wandb` (Weights & Biases) as its own variables say. Both come with the "
        "extra `trackers`.",
    )
    ledger: Name = Field(
        "claims", description="The claims that are judged: a file of config/, without its ending."
    )
    extensions: dict[Name, str] = Field(
        {},
        max_length=100,
        description="Names of further initialisations, decays, truncations, methods or studies, each with "
        "the Python file that registers it.",
    )
    tracks: dict[TrackName, TrackConfig] = Field(
        min_length=1, max_length=100, description="The tracks, by names of your own."
    )

    def seeds_of(self, track: str) -> tuple[int, ...]:
        """The seeds of a track: its own, or those of the file."""
        return self.tracks[track].seeds or self.seeds

    @property
    def cut(self) -> bool:
        """Whether each device holds but a slice of a model."""
        return self.parallel == "fsdp" and self.devices > 1

    @property
    def quick(self) -> bool:
        """Whether the scale is there to be quick: its times mean nothing."""
        return self.scale == "smoke"

    @property
    def tasks(self) -> dict[str, str]:
        """What each track is: the name of its task."""
        return {name: track.task.name for name, track in self.tracks.items()}

    @model_validator(mode="after")
    def _consistent(self) -> Config:
        for name in self.extensions:
            if name in INITIALISATIONS | DECAYS | TRUNCATIONS | METHODS.built_in | STUDIES.built_in:
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
            optimizer = track.training.optimizer
            if self.cut and not OPTIMIZERS[optimizer].sharded:
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
    model = _with_own_studies(values)
    try:
        return _settled(model.model_validate(values))
    except ValidationError as error:
        raise complaint(error, source, values, model) from None


def _settled(config: Config) -> Config:
    """The configuration whose studies have found out what takes long; its extensions, of which they may
    name some, are then imported."""
    tracks = {}
    for name, track in config.tracks.items():
        sections = {}
        for study, section in track.studies.asked().items():
            if (settle := STUDIES[study].settle) is None:
                continue
            load_extensions({n: declared(n, Path(f)) for n, f in config.extensions.items()})
            settled = settle(section, track)
            if settled is not section:
                sections[study] = settled
        if sections:
            studies_ = track.studies.model_copy(update=sections)
            tracks[name] = track.model_copy(update={"studies": studies_})
    if not tracks:
        return config
    return config.model_copy(update={"tracks": {**config.tracks, **tracks}})


def _with_own_studies(values: dict[str, Any]) -> type[Config]:
    """The model of a configuration some of whose studies are extensions; their files are imported."""
    files, tracks = (_section(values, key) for key in ("extensions", "tracks"))
    asked = [key for name in tracks for key in _section(_section(tracks, name), "studies")]
    own = {key: files[key] for key in asked if key in files and key not in Studies.model_fields}
    if not own:
        return Config
    load_extensions({name: declared(name, Path(str(file))) for name, file in own.items()})
    fields = _optional({name: study for name, study in studies().items() if name in own})
    studies_: Any = create_model("Studies", __base__=Studies, **fields)
    track: Any = create_model("TrackConfig", __base__=TrackConfig, studies=(studies_, studies_()))
    field = Config.model_fields["tracks"]
    return create_model("Config", __base__=Config, tracks=(dict[TrackName, track], field))


def _section(values: dict[str, Any], key: str) -> dict[str, Any]:
    found = values.get(key)
    return found if isinstance(found, dict) else {}


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
