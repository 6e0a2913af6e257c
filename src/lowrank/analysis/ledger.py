"""The ledger of claims: what the paper says, and by which tests and margins it is judged.

Typed, frozen and strict, read from a YAML file before any result is looked at. Arms and references
are chosen by facts such as `{init: spectral, rank_fraction: "{rank}"}`: a test is one family over all the
values that its placeholders take among the results. Facts that are not given are the track's own.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from lowrank.errors import LowrankError, unknown
from lowrank.experiment.complaints import shown
from lowrank.experiment.facts import FACTS
from lowrank.experiment.metrics import DIRECTED, PAPER_METRICS
from lowrank.strict_yaml import read_yaml

TaskName = Literal["language", "images"]
Kind = Literal["equivalence", "better", "not_worse", "lower", "higher", "ratio_at_least"]

PLACEHOLDER = re.compile(r"\{(\w+)\}")
OF_CELLS = ("runs", "barriers", "speed")
"""Tables whose rows are of cells, and chosen by their facts; those of others by their columns."""
BESIDE = {"speed": ("processor",)}
"""Columns of such tables that rows are chosen by as well."""

NEEDS_DIRECTION = ("better", "not_worse", "ratio_at_least")
NEEDS_MARGIN = ("equivalence", "not_worse", "ratio_at_least")


class _Section(BaseModel):
    """Immutable, and an unknown key is an error that names the nearest known one."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, values: Any) -> Any:
        if isinstance(values, dict):
            for key in values:
                if key not in cls.model_fields:
                    raise ValueError(str(unknown("key", str(key), cls.model_fields)))
        return values


class Margin(_Section):
    """The smallest difference that counts, fixed before the run."""

    value: float = Field(gt=0)
    unit: Literal["absolute", "relative", "factor"]
    """absolute: the metric's unit; relative: a part of the reference; factor: a ratio."""
    reason: str = Field(min_length=1)

    @property
    def threshold(self) -> float:
        """On the scale of the test: logarithms, unless it is absolute."""
        scales = {"relative": math.log1p, "factor": math.log}
        return scales.get(self.unit, float)(self.value)

    @model_validator(mode="after")
    def _factor_above_one(self) -> Margin:
        if self.unit == "factor" and self.value <= 1:
            raise ValueError(f"a margin that is a factor lies above 1, not {self.value:g}")
        return self


class Rows(_Section):
    """Which rows of which table one side of a contrast is; in YAML its facts, and `table` among them."""

    table: str = "runs"
    facts: dict[str, bool | float | str] = Field(min_length=1)
    """Column: value, or column: "{placeholder}" for every value that the column takes."""

    @model_validator(mode="before")
    @classmethod
    def _flat(cls, values: Any) -> Any:
        if isinstance(values, dict) and "facts" not in values:
            facts = {str(key): value for key, value in values.items() if key != "table"}
            return {"facts": facts, **({"table": values["table"]} if "table" in values else {})}
        return values

    @model_validator(mode="after")
    def _sensible(self) -> Rows:
        known = (*FACTS, *BESIDE.get(self.table, ()))
        for fact in self.facts if self.table in OF_CELLS else ():
            if fact not in known:
                raise ValueError(str(unknown("fact", fact, known)))
        names = list(self.free.values())
        if len(set(names)) != len(names):
            raise ValueError(f"'{self}' needs placeholders of different names")
        return self

    @property
    def free(self) -> dict[str, str]:
        """Column: the name of its placeholder."""
        found = {c: PLACEHOLDER.fullmatch(v) for c, v in self.facts.items() if isinstance(v, str)}
        return {column: match[1] for column, match in found.items() if match}

    @property
    def given(self) -> dict[str, bool | float | str]:
        """Column: the value it must have."""
        return {column: value for column, value in self.facts.items() if column not in self.free}

    def __str__(self) -> str:
        facts = ", ".join(
            f"{key} {value:g}" if type(value) is float else f"{key} {value}"
            for key, value in self.facts.items()
        )
        return facts if self.table in OF_CELLS else f"{self.table}: {facts}"


class Against(_Section):
    """The difference that a test's own is compared with."""

    arm: Rows
    reference: Rows
    premise: bool = False
    """Whether there is nothing to compare unless its arm is better than its reference by more than the margin."""


class ClaimTest(_Section):
    """One family of contrasts, evaluated on every track of its tasks."""

    tasks: tuple[TaskName, ...] = Field(min_length=1)
    """What the tracks are that it is evaluated on: names of `metrics.TASKS`."""
    table: str = "runs"
    """Of a side that names none."""
    metric: str
    kind: Kind
    arm: Rows
    reference: Rows
    against: Against | None = None
    """An interaction: the difference of arm and reference less this one, of the same seeds."""
    margin: str | None = None
    """Name of an entry of the ledger's margins."""
    better_counts: bool = True
    """Equivalence: whether being significantly better supports it ("at least as well as")."""
    aggregate: Literal["every", "any"] = "every"
    """Whether the claim is about every member of the family or about the existence of one."""
    compressed: bool = True
    """Leave out contrasts with a factorised side that keeps as many parameters as dense, or more."""
    control: bool = False
    """Reported beside the claim's verdict, which it does not decide."""
    exact: bool = False
    """The metric is no random draw (FLOPs): differences without variance are decided by sign."""
    why: str = ""

    @model_validator(mode="before")
    @classmethod
    def _of_its_table(cls, values: Any) -> Any:
        if not isinstance(values, dict) or "table" not in values:
            return values

        def with_table(values_: Any) -> dict[str, Any]:
            return {
                side: {"table": values["table"], **values_[side]}
                for side in ("arm", "reference")
                if isinstance(values_.get(side), dict)
            }

        other = values.get("against")
        against = {"against": other | with_table(other)} if isinstance(other, dict) else {}
        return {**values, **with_table(values), **against}

    @property
    def sides(self) -> tuple[Rows, ...]:
        """Arm and reference, and those of the difference that it is compared with."""
        other = (self.against.arm, self.against.reference) if self.against else ()
        return self.arm, self.reference, *other

    @model_validator(mode="after")
    def _consistent(self) -> ClaimTest:
        if self.kind in NEEDS_MARGIN and self.margin is None:
            raise ValueError(f"a test of kind '{self.kind}' on {self.metric} needs a margin")
        directed = self.kind in NEEDS_DIRECTION or (
            self.kind == "equivalence" and self.better_counts
        )
        if directed and self.metric not in DIRECTED:
            error = unknown("metric with a better side", self.metric, DIRECTED)
            raise ValueError(f"{error} Use the kind 'lower' or 'higher'")
        return self


class Claim(_Section):
    """A claim of the paper; `verified` if it was read in a public source that quotes it."""

    id: str
    statement: str
    verified: bool
    tests: tuple[ClaimTest, ...] = Field(min_length=1)

    @property
    def sentence(self) -> str:
        """The statement on one line, without its full stop."""
        return " ".join(self.statement.split()).rstrip(".")


class PaperNumber(_Section):
    """A number that is verified to be the paper's."""

    track: str
    arm: str
    metric: str
    value: float

    @model_validator(mode="after")
    def _known_metric(self) -> PaperNumber:
        if self.metric not in PAPER_METRICS:
            raise ValueError(str(unknown("metric of the paper", self.metric, PAPER_METRICS)))
        return self

    def __str__(self) -> str:
        return f"{self.arm}: {self.metric} {self.value:g}"


class Ledger(_Section):
    """All claims, the margins they are judged by, and the paper's verified numbers."""

    margins: dict[str, Margin]
    paper: tuple[PaperNumber, ...]
    claims: tuple[Claim, ...] = Field(min_length=1)
    chosen_after_looking: str = ""
    """What of earlier results was chosen after they were seen, in words for their readers."""

    @model_validator(mode="after")
    def _consistent(self) -> Ledger:
        ids = [claim.id for claim in self.claims]
        for id_ in ids:
            if ids.count(id_) > 1:
                raise ValueError(f"the claim '{id_}' is there twice")
        for claim in self.claims:
            for test in claim.tests:
                if test.margin is not None and test.margin not in self.margins:
                    error = unknown("margin", test.margin, self.margins)
                    raise ValueError(f"claim '{claim.id}': {error}")
                margin = self.margin(test)
                factor = margin is not None and margin.unit == "factor"
                if margin is not None and factor != (test.kind == "ratio_at_least"):
                    raise ValueError(
                        f"claim '{claim.id}': the margin '{test.margin}' is "
                        f"{margin.unit}, which a test of kind '{test.kind}' cannot use"
                    )
        return self

    def margin(self, test: ClaimTest) -> Margin | None:
        """The margin a test is judged by, if it has one."""
        return None if test.margin is None else self.margins[test.margin]

    def claim(self, id_: str) -> Claim:
        """A claim by its id; LowrankError names the nearest."""
        for claim in self.claims:
            if claim.id == id_:
                return claim
        raise unknown("claim", id_, [claim.id for claim in self.claims])


def read_ledger(path: Path | str) -> Ledger:
    """Read and validate a ledger; LowrankError says in one sentence what is wrong and where."""
    return validated(read_yaml(path), str(path))


def validated(values: Any, source: str = "ledger") -> Ledger:
    """A ledger from plain values; LowrankError says in one sentence what is wrong and where."""
    if not isinstance(values, dict):
        raise LowrankError(
            f"{source}: expected the keys margins, paper and claims, got {shown(values)}."
        )
    try:
        return Ledger.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        message = first["msg"].removeprefix("Value error, ").removesuffix(".")
        where = _where(first["loc"], values)
        raise LowrankError(f"{source}: {where}{message}.") from None


def _where(location: tuple[int | str, ...], values: Any) -> str:
    """A pydantic location in words, with a claim's id in place of its index."""
    words = ""
    for part in location:
        try:
            values = values[part]
        except (LookupError, TypeError):
            values = None
        name = values.get("id", part) if isinstance(values, dict) else part
        words += f"[{name}]" if isinstance(part, int) else f".{part}"
    return words.removeprefix(".") + ": " if words else ""
