"""What arms chose on validation data, of every track that has such sweeps."""

from typing import Any

from lowrank.experiment.study import STUDIES, Figure, Study
from lowrank.experiment.track import swept


def wanted(track: Any) -> bool:
    """Whether rates, strengths of decay or rates after the switch are swept."""
    return track.swept or any(swept(arm) for _, arm in track.arms())


STUDIES.add(
    "learning_rate",
    Study(
        place=9,
        title="Learning rates and what else is swept",
        figures=(Figure("learning_rate", ("rates", "runs")),),
        wanted=wanted,
    ),
)
