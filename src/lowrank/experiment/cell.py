"""What a run is: the frozen description that, with its data, determines a result.

A *cell* is one point of the grid, everything but the seed. A *run* is a cell with a seed and with
its learning rate resolved. A run's digest names its folder in the cache, so two cells that ask for
the same run share it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import Field

from lowrank.errors import LowrankError
from lowrank.experiment.facts import FACTS, facts_of, method_of
from lowrank.experiment.sections import (
    EvaluationSpec,
    FactorSpec,
    ModelSpec,
    Positive,
    PretrainingSpec,
    Strict,
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

OF_SWEEPS = (
    *("family", "width", "method", "init", "rank_fraction"),
    *("decay", "decay_coupled", "pretraining", "varied"),
)
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
    strength_from: str | None = None
    """The sweep group whose best decay strength is used; None: the factors say it."""
    switch_from: str | None = None
    """The sweep group whose best rate after the switch, over the arm's, is used; None: `pretraining` says it."""
    length: float = 1.0
    """Steps over the track's steps."""
    budget: Literal["steps", "flops"] = "steps"
    """As of an arm."""
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
        """The sweep groups whose choices this cell needs; each needs but those before it."""
        rates = (self.rate_from, self.trunk) if self.rate_from else ()
        return tuple(g for g in (*rates, self.strength_from, self.switch_from) if g)

    @property
    def fork_step(self) -> int:
        """Dense steps before the switch to factors."""
        return switch_step(
            self.pretraining.fraction if self.pretraining else 0.0, self.training.steps
        )

    def runs(self, rates: Mapping[str, float]) -> list[RunSpec]:
        """The cell's runs, one a seed, given what each sweep group that it names found best."""
        missing = [group for group in self.groups if group not in rates]
        if missing:
            raise LowrankError(f"{self.name} needs what was swept of {', '.join(missing)}.")
        rate = rates[self.rate_from] if self.rate_from else self.training.learning_rate
        assert rate is not None
        factors, pretraining, factor = self.factors, self.pretraining, self.rate_factor
        if factors and self.strength_from:
            decay = factors.decay.with_strength(rates[self.strength_from], self.training)
            factors = factors.model_copy(update={"decay": decay})
        update: dict[str, float] = {}
        if pretraining and pretraining.dense_learning_rate is None and self.trunk:
            update["dense_learning_rate"] = rates[self.trunk]
        if self.switch_from:
            factor *= rates[self.switch_from]
            update["rate_factor"] = rates[self.switch_from]
        if pretraining:
            pretraining = pretraining.model_copy(update=update)
        training = self.training.model_copy(update={"learning_rate": rate * factor})
        return [
            RunSpec(
                track=self.track,
                model=self.model,
                training=training,
                factors=factors,
                pretraining=pretraining,
                evaluation=self.evaluation,
                seed=seed,
                extensions=self.extensions,
            )
            for seed in self.seeds
        ]

    def facts(self, rates: Mapping[str, float] | None = None) -> dict[str, Any]:
        """The columns by which tables and notebooks tell cells apart: `FACTS`. What is swept is missing
        without `rates`, what the sweep groups found best."""
        own = {
            "cell": self.name,
            "track": self.track,
            "arm": self.arm,
            "studies": ",".join(self.studies),
            **facts_of(self.model, self.training, self.factors, self.pretraining),
            "rate_factor": self.pretraining.rate_factor if self.pretraining else self.rate_factor,
            "length": self.length,
            "budget": self.budget,
            "sweep": self.rate_from,
            "swept": ",".join(self.swept),
            "varied": ",".join(self.varied),
        }
        if self.strength_from:
            own["decay_strength"] = (rates or {}).get(self.strength_from)
        if self.switch_from:
            own["rate_factor"] = (rates or {}).get(self.switch_from)
        return {name: own[name] for name in FACTS}

    @property
    def swept(self) -> tuple[str, ...]:
        """What is chosen on validation data beside the learning rate."""
        found = {"decay_strength": self.strength_from, "switch_rate": self.switch_from}
        return tuple(name for name, group in found.items() if group)


class SweepGroup(Strict):
    """One choice of an arm on validation data; what is found serves every cell that names it."""

    name: str = Field(pattern=f"^{CELL_NAME}$")
    choice: Literal["learning_rate", "decay_strength", "switch_rate"]
    values: tuple[Positive, ...]
    """What is tried."""
    extend: int = 0
    """How often the sweep may go on beyond an edge at which its best value stands."""
    cell: Cell
    """The arm, with the sweep's seeds."""

    @property
    def track(self) -> str:
        """The arm's track."""
        return self.cell.track

    @property
    def extensions(self) -> dict[str, Extension]:
        """The files that the arm uses."""
        return self.cell.extensions

    @property
    def groups(self) -> tuple[str, ...]:
        """The other sweep groups whose choices are needed first."""
        return tuple(group for group in self.cell.groups if group != self.name)

    def facts(self) -> dict[str, Any]:
        """What tells sweeps apart, as columns."""
        own = self.cell.facts()
        return {"choice": self.choice} | {name: own[name] for name in OF_SWEEPS}

    def runs(self, value: float, rates: Mapping[str, float] | None = None) -> list[RunSpec]:
        """The runs of this sweep at one value, one a seed, given what the groups that it needs found best."""
        return self.cell.runs({**(rates or {}), self.name: value})
