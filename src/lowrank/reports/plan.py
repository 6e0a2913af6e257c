"""What a configuration would cost, before anything is launched.

Every cell's model is built on the meta device, where it has shapes and no values, so a wrong shape
shows in seconds and a model of any size fits.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from lowrank.analysis.publish import read_published
from lowrank.experiment.cell import Cell, RunSpec
from lowrank.experiment.config import Config, TrackConfig
from lowrank.experiment.cost import shape, sizes, training_flops
from lowrank.experiment.expand import expand
from lowrank.experiment.extensions import load_extensions
from lowrank.methods import begin
from lowrank.reports.closing import larger_than_dense


def make_plan(config: Config, flops_per_second: float | None = None) -> pd.DataFrame:
    """One row a cell: parameters, forward FLOPs, training FLOPs of all seeds, hours, bytes of state.

    `hours` is training FLOPs over `flops_per_second` (of all devices); missing without it. Sweeps have rows
    of their own, without what they may add beyond their edges. `state_bytes` holds weights, gradients and optimiser moments, not activations.
    """
    grid = expand(config)
    load_extensions(grid.extensions)
    rows = []
    for cell in grid.cells.values():
        rows.append(_row(cell, config.tracks[cell.track], len(cell.seeds), flops_per_second))  # type: ignore[index]
    for sweep in grid.sweeps.values():
        cell = sweep.cell.model_copy(update={"name": f"{sweep.name}-sweep"})
        track = config.tracks[cell.track]  # type: ignore[index]
        # The run at the best value is a cell's own where it has one of the runs' seeds.
        own = bool(set(cell.seeds) & set(config.seeds_of(cell.track)))
        if runs := len(sweep.values) - own:
            rows.append(_row(cell, track, runs, flops_per_second))
    return pd.DataFrame(rows)


def _row(cell: Cell, track: TrackConfig, runs: int, speed: float | None) -> dict[str, Any]:
    outputs_and_side = shape(track)
    spec = RunSpec(
        track=cell.track,
        model=cell.model,
        training=cell.training,
        factors=cell.factors,
        pretraining=cell.pretraining,
        seed=0,
    )
    plain = spec.model_copy(update={"factors": None, "pretraining": None})
    (_, dense), *_ = sizes(plain.model_dump_json(), outputs_and_side)
    phases = sizes(spec.model_dump_json(), outputs_and_side)
    own, training = phases[-1][1], cell.training
    _, start = begin(spec).trunk() or (None, 0)  # what runs before is another cell's
    total = training_flops(spec, outputs_and_side) * runs
    return {
        "cell": cell.name,
        "runs": runs,
        "steps": training.steps,
        "parameters": own.parameters,
        "kept_parameters": own.parameters / dense.parameters,
        "smallest_rank": own.smallest_rank,
        "largest_rank": own.largest_rank,
        "forward_flops": own.flops,
        "kept_flops": own.flops / dense.flops,
        "training_flops": total,
        "hours": total / speed / 3600 if speed else None,
        "state_bytes": max(size.state_bytes for first, size in phases if first >= start),
    }


def measured_speed(published: Path) -> float | None:
    """Training FLOPs a second that published runs reached (median), if there are any."""
    speeds = []
    for folder in sorted(published.glob("*")) if published.is_dir() else []:
        runs = read_published(folder)["runs"]
        speeds += list(runs["training_flops"] / runs["train_seconds"])
    return float(pd.Series(speeds).median()) if speeds else None


def show(table: pd.DataFrame) -> str:
    """The plan as aligned text, with its total."""
    shown = pd.DataFrame(
        {
            "cell": table["cell"],
            "runs": table["runs"],
            "parameters": table["parameters"].map("{:,}".format),
            "kept": table["kept_parameters"].map("{:.2f}".format),
            "ranks": [
                "" if pd.isna(low) else f"{low:.0f}-{high:.0f}"
                for low, high in zip(table["smallest_rank"], table["largest_rank"], strict=True)
            ],
            "forward FLOPs": table["forward_flops"].map("{:.3g}".format),
            "training FLOPs": table["training_flops"].map("{:.3g}".format),
            "hours": table["hours"].map(lambda hours: "" if pd.isna(hours) else f"{hours:.3g}"),
            "state (MB)": (table["state_bytes"] / 1e6).map("{:,.1f}".format),
        }
    )
    total = f"{int(table['runs'].sum())} runs, {table['training_flops'].sum():.3g} training FLOPs"
    if table["hours"].notna().all():
        total += f", {table['hours'].sum():.3g} device-hours"
    else:
        total += "; for hours give --peak, or publish measured runs"
    lines = [shown.to_string(index=False), total, *larger_than_dense(table)]
    return "\n".join(lines)
