"""Which jobs go first: those with the longest chain of work behind them, so that no core is idle at the end."""

from __future__ import annotations

from collections import defaultdict

from lowrank.experiment.experiment import Experiment


def behind(experiment: Experiment) -> dict[str, float]:
    """For each sweep and each cell by name, and for each track's evaluation, about how many training steps
    the longest chain that begins with it takes; a step counts alike whatever the model."""
    grid = experiment.grid
    found: dict[str, float] = defaultdict(float)
    for cell in grid.cells.values():
        # A forward pass is a third of a step.
        found[cell.track] += (
            len(cell.seeds) * cell.evaluation.test_examples / cell.training.batch / 3
        )
    forked: dict[str, float] = {}
    # A pre-trained cell waits for its trunk, which is dense.
    for cell in sorted(grid.cells.values(), key=lambda cell: cell.trunk is None):
        last = max(found[cell.track], forked.get(cell.name, 0.0))
        own = len(cell.seeds) * (cell.training.steps - cell.fork_step)
        found[f"train {cell.name}"] = own + last
        if cell.trunk:
            forked[cell.trunk] = max(forked.get(cell.trunk, 0.0), own + last)
    waiting: dict[str, float] = defaultdict(float)
    for cell in grid.cells.values():
        for group in cell.groups:
            waiting[group] = max(waiting[group], found[f"train {cell.name}"])
    for sweep in sorted(grid.sweeps.values(), key=lambda sweep: -len(sweep.groups)):
        runs = (len(sweep.values) + bool(sweep.extend)) * len(sweep.cell.seeds)
        longest = runs * sweep.cell.training.steps + waiting[sweep.name]
        found[f"sweep {sweep.name}"] = longest
        for group in sweep.groups:
            waiting[group] = max(waiting[group], longest)
    return dict(found)
