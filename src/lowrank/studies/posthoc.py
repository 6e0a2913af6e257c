"""Truncation of the trained dense model, against training in low rank at the same ranks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from lowrank.experiment.cell import Extension
from lowrank.experiment.sections import Count, FactorSpec, Fraction, Name, Positive, Strict
from lowrank.experiment.study import STUDIES, Figure, Given, Job, Study
from lowrank.experiment.track import Arm, Track

if TYPE_CHECKING:
    import pandas as pd


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


def arms(section: PostHocStudy, track: Track) -> Iterator[Arm]:
    """The dense model that is truncated, and training in low rank at the same ranks."""
    yield Arm()
    for rank in section.ranks:
        yield Arm(factors=track.with_factors(rank_fraction=rank))


class PostHocJob(Strict):
    """The truncations of a track's dense model."""

    study: PostHocStudy
    factors: FactorSpec
    """Which layers are truncated, and the decay of fine-tuning."""
    extensions: dict[str, Extension] = {}


def spec(section: PostHocStudy, track: Track, extensions: Mapping[str, Extension]) -> PostHocJob:
    """A track's truncations, and the extensions that they and their fine-tuning use."""
    decays = (track.factors.decay.kind,) if any(section.fine_tune_steps) else ()
    used = {n: extensions[n] for n in (*section.methods, *decays) if n in extensions}
    return PostHocJob(study=section, factors=track.factors, extensions=used)


def run(given: Given) -> dict[str, pd.DataFrame]:
    """The truncated models' test metrics and cost."""
    from lowrank.jobs.posthoc import posthoc

    (dense,), job = given.cells, given.told
    place = given.data, given.cache, given.device
    made_by = [given.version, {name: own.sha256 for name, own in job.extensions.items()}]
    return {"posthoc": posthoc(job.study, job.factors, dense, given.rates, *place, made_by)}


def problem(section: PostHocStudy, track: Track) -> str | None:
    """Inputs are whitened as the channels of a kernel."""
    if "whitened" in section.methods and track.factors.matricisation == "spatial":
        return (
            "studies.posthoc.methods: whitened needs the matricisation channel, not spatial: leave it "
            "out or set factors.matricisation"
        )
    return None


STUDIES.add(
    "posthoc",
    Study(
        place=7,
        title="Truncation after training",
        section=PostHocStudy,
        arms=arms,
        problem=problem,
        truncations=lambda section: section.methods,
        job=Job(
            doing="Truncating the dense models",
            tables=("posthoc",),
            run=run,
            version=2,
            arms=lambda section, track: [Arm()],
            spec=spec,
        ),
        figures=(Figure("posthoc", ("runs", "posthoc")),),
    ),
)
