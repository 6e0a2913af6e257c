"""Published methods of training under one protocol, against dense and against U V^T.

All arms of a rank share the order of the data, the dense draw, the layers and the rank; each has its learning
rate from a sweep of its own over the same rates. Two budgets: as many steps as the track has, and as many
FLOPs as the dense model's run takes, where an arm trains longer or shorter at the rate of its equal-steps
arm. FLOPs are those of the layers' passes: decompositions and projections of gradients are not among them.
Where a method decides on its ranks during the run, the most that they may cost is counted.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

from pydantic import Field, model_validator

from lowrank.experiment.sections import (
    DecaySpec,
    Fraction,
    MethodSpec,
    Name,
    Positive,
    PretrainingSpec,
    Strict,
)
from lowrank.experiment.study import STUDIES, Figure, Study
from lowrank.experiment.track import Arm, Track, arm_name

PLAIN = ("factored", "pretrained")
"""Methods that follow from other keys than their name."""


class MethodEntry(Strict):
    """One method of the study, and in what its arm differs from the track's factor section."""

    name: Name = Field(description="One that `lowrank methods` lists, or an extension.")
    options: dict[str, Any] = Field({}, max_length=100, description="The method's own settings.")
    ranks: tuple[Fraction, ...] | None = Field(
        None, min_length=1, description="Its rank fractions; null: the study's."
    )
    init: Name | None = Field(None, description="Its initialisation; null: the track's.")
    decay: DecaySpec | None = Field(None, description="Its decay; null: the track's.")
    pretraining: PretrainingSpec | None = Field(
        None, description="A dense start; such an arm is trained at equal steps alone."
    )

    @model_validator(mode="after")
    def _consistent(self) -> MethodEntry:
        if self.name == "dense":
            raise ValueError("name: dense is there anyway: leave it out")
        if self.name in PLAIN and self.options:
            raise ValueError(f"options: {self.name} has none: leave them out")
        if self.name == "pretrained" and self.pretraining is None:
            raise ValueError("pretraining is missing: the method pretrained needs it")
        if self.name == "factored" and self.pretraining is not None:
            raise ValueError("name: factored has no dense start: use pretrained")
        return self


class MethodsStudy(Strict):
    """Methods against dense and against U V^T, at equal steps and at equal FLOPs."""

    methods: tuple[MethodEntry, ...] = Field(
        min_length=1, description="The methods: a section each, as below."
    )
    ranks: tuple[Fraction, ...] = Field(min_length=1, description="Rank fractions.")
    flops_ranks: tuple[Fraction, ...] = Field(
        (), description="Those at which arms are also trained for the dense model's FLOPs."
    )
    lengths: dict[str, Positive] = Field(
        {},
        max_length=1000,
        description="Of each arm, by its name, the steps that take the dense model's FLOPs, over the "
        "track's; counted where they are left out.",
    )

    @model_validator(mode="after")
    def _ranks_of_both_budgets(self) -> MethodsStudy:
        if missing := sorted(set(self.flops_ranks) - set(self.ranks)):
            raise ValueError(
                f"flops_ranks: {missing[0]:g} is none of ranks {list(self.ranks)}: add it"
            )
        return self


def _steps(section: MethodsStudy, track: Track) -> Iterator[Arm]:
    """The arms of equal steps but dense: U V^T and each method at its ranks."""
    for rank in section.ranks:
        yield Arm(factors=track.with_factors(rank_fraction=rank, method=None))
        for entry in section.methods:
            if rank in (entry.ranks or section.ranks):
                yield _arm(entry, rank, track)


def _arm(entry: MethodEntry, rank: float, track: Track) -> Arm:
    method = None
    if entry.name not in PLAIN:
        method = MethodSpec(name=entry.name, options=entry.options)
    changes = {"init": entry.init, "decay": entry.decay}
    given = {key: value for key, value in changes.items() if value is not None}
    factors = track.with_factors(rank_fraction=rank, method=method, **given)
    return Arm(factors=factors, pretraining=entry.pretraining)


def _of_flops(section: MethodsStudy, track: Track) -> Iterator[Arm]:
    """The arms of equal steps that are trained at equal FLOPs, too."""
    for arm in _steps(section, track):
        assert arm.factors is not None
        if arm.factors.rank_fraction in section.flops_ranks and not arm.pretraining:
            yield arm


def arms(section: MethodsStudy, track: Track) -> Iterator[Arm]:
    """Dense, and U V^T and each method at each rank, at equal steps and at equal FLOPs."""
    yield Arm()
    yield from _steps(section, track)
    for arm in _of_flops(section, track):
        if length := section.lengths.get(arm_name(arm, track)):
            yield arm.model_copy(update={"budget": "flops", "length": length})


def contrasts(section: MethodsStudy, track: Track) -> Iterator[tuple[Arm, Arm]]:
    """Each arm against dense, whose run sets both budgets."""
    for arm in arms(section, track):
        if arm.factors:
            yield arm, Arm()


def settle(section: MethodsStudy, track: Track) -> MethodsStudy:
    """The section with the lengths of all arms of equal FLOPs."""
    missing = {arm_name(a, track): a for a in _of_flops(section, track)}
    missing = {name: arm for name, arm in missing.items() if name not in section.lengths}
    if not missing:
        return section
    from lowrank.experiment.cost import shape, training_flops  # they import torch

    def flops(arm: Arm) -> float:
        from lowrank.experiment.cell import RunSpec

        spec = RunSpec(
            track="", model=track.model, training=track.training, factors=arm.factors, seed=0
        )
        return training_flops(spec, seen)

    seen = shape(track)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="At their rank")  # plan and table say it
        dense = flops(Arm())
        found = {name: float(f"{dense / flops(arm):.6g}") for name, arm in missing.items()}
    return section.model_copy(update={"lengths": {**section.lengths, **found}})


def problem(section: MethodsStudy, track: Track) -> str | None:
    """Arms have names of their own."""
    names: dict[str, str] = {}
    for entry in section.methods:
        for rank in entry.ranks or section.ranks:
            name = arm_name(_arm(entry, rank, track), track)
            if name in names:
                return (
                    f"studies.methods.methods: {entry.name} and {names[name]} would both be called "
                    f"{name}: options alone do not tell arms apart, leave one out"
                )
            names[name] = entry.name
            if rank not in section.ranks:
                return (
                    f"studies.methods.methods: {entry.name} at the rank {rank:g}, which is none of ranks "
                    f"{list(section.ranks)}: add it there"
                )
    return None


STUDIES.add(
    "methods",
    Study(
        place=10,
        title="Published methods",
        section=MethodsStudy,
        arms=arms,
        contrasts=contrasts,
        problem=problem,
        settle=settle,
        figures=(Figure("leaderboard", ("runs", "contrasts")),),
    ),
)
