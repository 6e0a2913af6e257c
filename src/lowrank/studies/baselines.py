"""n-gram models of a track's text: the bar that a language model has to clear."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lowrank.experiment.study import STUDIES, Given, Job, Study

if TYPE_CHECKING:
    import pandas as pd


def run(given: Given) -> dict[str, pd.DataFrame]:
    """Their losses."""
    from lowrank.jobs.baselines import ngram_losses

    return {"baselines": ngram_losses(given.data)}


STUDIES.add(
    "baselines",
    Study(
        place=11,
        title="n-gram baselines",
        job=Job(
            doing="Measuring n-gram baselines",
            tables=("baselines",),
            run=run,
            version=2,
            wanted=lambda track: track.task.language,
        ),
    ),
)
