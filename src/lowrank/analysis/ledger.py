"""The ledger of claims: what the paper says, and by which tests and margins it is judged.

Typed, frozen and strict, read from a YAML file before any result is looked at. Arms and references
are templates such as `spectral-r{rank}`: a test is one family over all the values that its
placeholders take among the results.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from lowrank.errors import LowrankError, unknown
from lowrank.experiment.complaints import shown
from lowrank.experiment.metrics import DIRECTED, PAPER_METRICS
from lowrank.strict_yaml import read_yaml

TaskName = Literal["language", "images"]
Kind = Literal["equivalence", "better", "not_worse", "lower", "higher", "ratio_at_least"]

PLACEHOLDER = re.compile(r"\{(\w+)\}")
NUMBER = r"\d+(?:\.\d+)?(?:e-?\d+)?"
# Parts of a name that may be absent; a contrast keeps them equal on both sides.
OPTIONAL = {"mode": r"(?:-coupled)?", "wide": r"(?:-w\d+)?"}

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

    @model_validator(mode="after")
    def _factor_above_one(self) -> Margin:
        if self.unit == "factor" and self.value <= 1:
            raise ValueError(f"a margin that is a factor lies above 1, not {self.value:g}")
        return self


class Rows(_Section):
    """Which rows of which table one side of a contrast is."""

    table: str = "runs"
    arm: str | None = None
    """Template for the arm's name: see `pattern`."""
    filters: dict[str, str | float] = {}
    """Column: value, or column: "{placeholder}" for every value that the column takes."""

    @model_validator(mode="after")
    def _placeholders_apart(self) -> Rows:
        names = PLACEHOLDER.findall(self.arm or "")
        if len(set(names)) != len(names) or not all(name.isidentifier() for name in names):
            raise ValueError(f"'{self.arm}' needs placeholders of different names, letters first")
        return self

    @property
    def pattern(self) -> re.Pattern[str]:
        """The template as an expression: placeholders are numbers, or what `OPTIONAL` says."""
        parts = PLACEHOLDER.split(self.arm or "")
        names = [f"(?P<{name}>{OPTIONAL.get(name, NUMBER)})" for name in parts[1::2]]
        texts = [re.escape(text) for text in parts[::2]]
        return re.compile(
            "".join(text + name for text, name in zip(texts, [*names, ""], strict=True))
        )

    def __str__(self) -> str:
        filters = ", ".join(
            f"{key} {value if isinstance(value, str) else format(value, 'g')}"
            for key, value in self.filters.items()
        )
        arm = f"{self.table}: {filters}" if self.arm is None else self.arm
        return f"{arm} ({filters})" if self.arm and filters else arm


class ClaimTest(_Section):
    """One family of contrasts, evaluated on every track of its tasks. A plain string for a side is its arm."""

    tasks: tuple[TaskName, ...] = Field(min_length=1)
    """What the tracks are that it is evaluated on: names of `metrics.TASKS`."""
    table: str = "runs"
    metric: str
    kind: Kind
    arm: Rows
    reference: Rows
    margin: str | None = None
    """Name of an entry of the ledger's margins."""
    better_counts: bool = True
    """Equivalence: whether being significantly better supports it ("at least as well as")."""
    aggregate: Literal["every", "any"] = "every"
    """Whether the claim is about every member of the family or about the existence of one."""
    exact: bool = False
    """The metric is no random draw (FLOPs): differences without variance are decided by sign."""
    why: str = ""

    @model_validator(mode="before")
    @classmethod
    def _arms_by_name(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        sides = {
            side: {"table": values.get("table", "runs"), "arm": values[side]}
            for side in ("arm", "reference")
            if isinstance(values.get(side), str)
        }
        return {**values, **sides}

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
