"""What a run is: the frozen description that, with its data, determines a result.

A *cell* is one point of the grid, everything but the seed. A *run* is a cell with a seed and with
its learning rate resolved. A run's digest names its folder in the cache, so two cells that ask for
the same run share it.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from lowrank.errors import LowrankError
from lowrank.experiment.facts import FACTS, facts_of, method_of
from lowrank.experiment.sections import (
    EvaluationSpec,
    FactorSpec,
    ModelSpec,
    PretrainingSpec,
    Strict,
    SweepSpec,
    TrainingSpec,
)
from lowrank.experiment.shares import switch_step
from lowrank.files import digest
from lowrank.versions import VERSIONS

CELL_NAME = r"[a-z][a-z0-9-]*/[A-Za-z0-9._-]+"
"""Names become paths and words of shell commands, so nothing else may be in them."""

NOT_DETERMINING = {"training": {"checkpoint_every"}, "evaluation": {"test_examples", "batch"}}
"""Keys that do not influence what a run computes."""

LEFT_OUT_AT_DEFAULT = {
    "model": {"kv_heads", "mlp_width", "tied_head", "patch", "image_size", "pretrained"},
    "factors": {"method"},
}
"""Keys that came after runs had been made: at their defaults those runs keep their digests."""

SWEPT = ("family", "width", "method", "init", "rank_fraction")
"""Facts that arms of different sweeps differ in."""


class Extension(Strict):
    """A file that registers a method of the user's own."""

    file: str
    sha256: str


class RunSpec(Strict):
    """One training run."""

    track: str
    model: ModelSpec
    training: TrainingSpec
    factors: FactorSpec | None = None
    pretraining: PretrainingSpec | None = None
    evaluation: EvaluationSpec = EvaluationSpec()
    seed: int
    extensions: dict[str, Extension] = {}
    """The files that register the names this run uses; their contents determine the result."""

    def identity(self, data_digest: str) -> str:
        """The digest of all that determines the result: spec, data and the version of training."""
        values = self.model_dump(mode="json")
        for section, keys in NOT_DETERMINING.items():
            for key in keys:
                values[section].pop(key)
        for section, keys in LEFT_OUT_AT_DEFAULT.items():
            for key in keys if values[section] else ():
                if values[section][key] == type(getattr(self, section)).model_fields[key].default:
                    values[section].pop(key)
        if self.model.pretrained is not None:
            values["model"]["pretrained"] = self.model.pretrained.sha256
        values["extensions"] = {name: ext.sha256 for name, ext in self.extensions.items()}
        return digest({"run": values, "data": data_digest, "method": VERSIONS["training"]})

    @property
    def method(self) -> str:
        """The name of the method that trains this run."""
        return method_of(self.factors, self.pretraining)

    @property
    def switch_step(self) -> int:
        """Dense steps before the switch to factors; 0 when factorised from the first step."""
        return self.step_at(self.pretraining.fraction if self.pretraining else 0.0)

    def step_at(self, share: float) -> int:
        """How many steps a share of them are, with at least one step on either side; 0 for none."""
        return switch_step(share, self.training.steps)

    def trunk(self) -> RunSpec:
        """The dense run that this pre-trained one forks from."""
        assert self.pretraining is not None, "only a pre-trained run has a trunk"
        rate = self.pretraining.dense_learning_rate
        training = self.training.model_copy(update={"learning_rate": rate})
        update: dict[str, Any] = {
            "training": training,
            "factors": None,
            "pretraining": None,
            "extensions": {},
        }
        return self.model_copy(update=update)


class SweepGroup(Strict):
    """The arm whose learning rate is swept: its best rate serves every cell that names it."""

    name: str
    track: str
    model: ModelSpec
    training: TrainingSpec
    factors: FactorSpec | None = None
    evaluation: EvaluationSpec = EvaluationSpec()
    sweep: SweepSpec
    varied: tuple[str, ...] = ()
    """As of a cell."""
    extensions: dict[str, Extension] = {}

    def facts(self) -> dict[str, Any]:
        """What tells sweeps apart, as columns."""
        own = facts_of(self.model, self.training, self.factors)
        return {name: own[name] for name in SWEPT} | {"varied": ",".join(self.varied)}

    def run(self, rate: float) -> RunSpec:
        """The run of this sweep at one learning rate."""
        return RunSpec(
            track=self.track,
            model=self.model,
            training=self.training.model_copy(update={"learning_rate": rate}),
            factors=self.factors,
            evaluation=self.evaluation,
            seed=self.sweep.seed,
            extensions=self.extensions,
        )


class Cell(Strict):
    """One point of the grid: a named arm with its seeds."""

    name: str = Field(pattern=f"^{CELL_NAME}$")
    track: str
    studies: tuple[str, ...]
    model: ModelSpec
    training: TrainingSpec
    factors: FactorSpec | None = None
    pretraining: PretrainingSpec | None = None
    evaluation: EvaluationSpec = EvaluationSpec()
    rate_from: str | None = None
    """The sweep group whose best rate is used; None: the training section gives the rate."""
    rate_factor: float = 1.0
    length: float = 1.0
    """Steps over the track's steps."""
    varied: tuple[str, ...] = ()
    """The facts in which it differs from its track's plain arm."""
    trunk: str | None = None
    """The dense cell that a pre-trained one forks from, and whose sweep gives the dense rate."""
    seeds: tuple[int, ...]
    extensions: dict[str, Extension] = {}

    @property
    def arm(self) -> str:
        """The name within the track."""
        return self.name.split("/", 1)[1]

    @property
    def groups(self) -> tuple[str, ...]:
        """The sweep groups whose rates this cell needs."""
        if self.rate_from is None:
            return ()
        return (self.rate_from,) if self.trunk is None else (self.rate_from, self.trunk)

    @property
    def fork_step(self) -> int:
        """Dense steps before the switch to factors."""
        return switch_step(
            self.pretraining.fraction if self.pretraining else 0.0, self.training.steps
        )

    def runs(self, rates: dict[str, float]) -> list[RunSpec]:
        """The cell's runs, one a seed, given the best rate of each sweep group it names."""
        missing = [group for group in self.groups if group not in rates]
        if missing:
            raise LowrankError(f"{self.name} needs the learning rate of {', '.join(missing)}.")
        rate = rates[self.rate_from] if self.rate_from else self.training.learning_rate
        assert rate is not None
        training = self.training.model_copy(update={"learning_rate": rate * self.rate_factor})
        pretraining = self.pretraining
        if pretraining and pretraining.dense_learning_rate is None and self.trunk:
            update = {"dense_learning_rate": rates[self.trunk]}
            pretraining = pretraining.model_copy(update=update)
        return [
            RunSpec(
                track=self.track,
                model=self.model,
                training=training,
                factors=self.factors,
                pretraining=pretraining,
                evaluation=self.evaluation,
                seed=seed,
                extensions=self.extensions,
            )
            for seed in self.seeds
        ]

    def facts(self) -> dict[str, Any]:
        """The columns by which tables and notebooks tell cells apart: `FACTS`."""
        own = {
            "cell": self.name,
            "track": self.track,
            "arm": self.arm,
            "studies": ",".join(self.studies),
            **facts_of(self.model, self.training, self.factors, self.pretraining),
            "rate_factor": self.pretraining.rate_factor if self.pretraining else self.rate_factor,
            "length": self.length,
            "sweep": self.rate_from,
            "varied": ",".join(self.varied),
        }
        return {name: own[name] for name in FACTS}
