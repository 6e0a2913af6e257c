"""The learning-rate sweeps, of every track that has them: what they found."""

from lowrank.experiment.study import STUDIES, Figure, Study

STUDIES.add(
    "learning_rate",
    Study(
        place=8,
        title="Learning rates",
        figures=(Figure("learning_rate", ("rates", "runs")),),
        wanted=lambda track: track.swept,
    ),
)
