"""What a configuration would cost, before anything is launched.

Every cell's model is built on the meta device, where it has shapes and no values, so a wrong shape
shows in seconds and a model of any size fits.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from lowrank.experiment.cell import Cell, RunSpec
from lowrank.experiment.config import Config
from lowrank.experiment.cost import shape, sizes, training_flops
from lowrank.experiment.expand import expand
from lowrank.experiment.extensions import load_extensions
from lowrank.methods import begin
from lowrank.reports.closing import larger_than_dense
from lowrank.reports.speeds import Speed, nearest, stand_in


def make_plan(config: Config, speed: float | list[Speed] | None = None) -> pd.DataFrame:
    """One row a cell: parameters, forward FLOPs, training FLOPs of all seeds, hours, bytes of state.

    `hours` is training FLOPs over those a second: `speed` (of all devices), or what the nearest of published
    cells reached, which stands in `speed_of` with its `processor`, and in `stand_in` the sentence on it if that
    is of another model; missing without either. Sweeps have rows of their own, without what they may add beyond
    their edges. `state_bytes` holds weights, gradients and optimiser moments, not activations.
    """
    grid = expand(config)
    load_extensions(grid.extensions)
    rows = []
    for cell in grid.cells.values():
        rows.append(_row(config, cell, len(cell.seeds), speed))
    for sweep in grid.sweeps.values():
        cell = sweep.cell
        # The run at the best value is a cell's own where it has one of the runs' seeds.
        own = len(set(cell.seeds) & set(config.seeds_of(cell.track)))
        if runs := len(sweep.values) * len(cell.seeds) - own:
            row = _row(config, cell, runs, speed)
            rows.append({**row, "cell": f"{sweep.name}-sweep"})
    return pd.DataFrame(rows)


def _row(
    config: Config, cell: Cell, runs: int, speed: float | list[Speed] | None
) -> dict[str, Any]:
    outputs_and_side = shape(config.tracks[cell.track])  # type: ignore[index]
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
    kept = own.flops / dense.flops
    return {
        "cell": cell.name,
        "runs": runs,
        "steps": training.steps,
        "parameters": own.parameters,
        "kept_parameters": own.parameters / dense.parameters,
        "smallest_rank": own.smallest_rank,
        "largest_rank": own.largest_rank,
        "forward_flops": own.flops,
        "kept_flops": kept,
        "training_flops": total,
        **_hours(config.scale, cell, total, kept, speed),
        "state_bytes": max(size.state_bytes for first, size in phases if first >= start),
    }


def _hours(
    scale: str, cell: Cell, flops: float, kept: float, speed: float | list[Speed] | None
) -> dict[str, Any]:
    if not isinstance(speed, list):
        return {"hours": flops / speed / 3600 if speed else None}
    if not (like := nearest(speed, scale, cell, kept)):
        return {"hours": None}
    return {
        "hours": flops / like.flops_per_second / 3600,
        "speed_of": f"{like.scale}: {like.cell}",
        "processor": like.processor,
        "stand_in": stand_in(like, cell),
    }


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
        if "processor" in table:
            total += f" as on {'; '.join(table['processor'].unique())}"
    else:
        total += "; for hours give --peak, or publish measured runs"
    lines = [shown.to_string(index=False), total]
    if "stand_in" in table:
        lines += filter(None, table["stand_in"].unique())
    return "\n".join([*lines, *larger_than_dense(table)])
