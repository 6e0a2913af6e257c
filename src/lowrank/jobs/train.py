"""What each job of the workflow does: sweep a rate or a strength, train a cell, evaluate a track."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from lowrank.errors import LowrankError
from lowrank.experiment.cell import Cell, RunSpec, SweepGroup
from lowrank.experiment.rates import mean_losses, read_sweep
from lowrank.experiment.sections import EvaluationSpec
from lowrank.files import write_sealed
from lowrank.frames import concat
from lowrank.jobs.kept import kept
from lowrank.parquet import write_table
from lowrank.train import parallel
from lowrank.train.build import choose_device
from lowrank.train.proof import metrics_of
from lowrank.train.run import TABLES, FinishedRun, ensure_run, finished_runs
from lowrank.train.task import make_task
from lowrank.versions import VERSIONS


def sweep(
    group: SweepGroup,
    rates: Mapping[str, float],
    data: Path,
    cache: Path,
    output: Path,
    device: str,
    keep: Iterable[int] = (),
    mode: str = "ddp",
) -> None:
    """Train the arm at each value of what is swept with each of the sweep's seeds, and write the value of the
    least mean loss on validation data.

    `rates` is what the groups that it needs found. While the best value is at an edge, the sweep continues
    beyond that edge by the ratio of its outermost two, at most `extend` times; `at_edge` says if it still
    does at the end. `keep` are steps at which pre-trained cells fork, should they fork from one of these
    runs.
    """
    rows: list[dict[str, Any]] = []

    def measure(value: float) -> None:
        what = "rate" if group.choice == "learning_rate" else group.choice.replace("_", " ")
        for spec in group.runs(value, rates):
            result = _finished(spec, data, cache, device, keep, mode).result
            _say_if_diverged(f"{group.name} seed {spec.seed} at the {what} {value:g}", result)
            rows.append(
                {
                    "learning_rate": spec.training.learning_rate,
                    group.choice: value,
                    "seed": spec.seed,
                    "validation_loss": result["validation_loss"],
                    "digest": result["digest"],
                }
            )

    for value in group.values:
        measure(value)
    for _ in range(group.extend):
        further = _beyond(mean_losses(rows, group.choice))
        if further is not None:
            measure(further)
    losses = mean_losses(rows, group.choice)
    best = min(losses, key=lambda value: losses[value])
    if math.isinf(losses[best]):
        raise LowrankError(
            f"{group.name}: every {group.choice.replace('_', ' ')} of the sweep diverged; lower sweep.rates."
        )
    if not parallel.is_main():
        return
    write_sealed(
        output,
        {
            "group": group.name,
            "track": group.track,
            "choice": group.choice,
            group.choice: best,
            "at_edge": _beyond(losses) is not None,
            "rates": sorted(rows, key=lambda row: row[group.choice]),
        },
    )


def _beyond(losses: dict[float, float]) -> float | None:
    """The next value beyond the edge at which the best one stands, rounded to three digits."""
    rates = sorted(losses)
    best = min(losses, key=lambda rate: losses[rate])
    if len(rates) < 2 or best not in (rates[0], rates[-1]):
        return None
    if best == rates[-1]:
        return float(f"{rates[-1] ** 2 / rates[-2]:.3g}")
    return float(f"{rates[0] ** 2 / rates[1]:.3g}")


def read_rates(
    folder: Path, needing: Iterable[Cell | SweepGroup], known: Mapping[str, float] | None = None
) -> dict[str, float]:
    """What every sweep group found best that the cells or groups name: a known value, else that in
    `folder/<group>.json`."""
    found = dict(known or {})
    for group in {group for one in needing for group in one.groups} - found.keys():
        swept = read_sweep(folder / f"{group}.json")
        found[group] = swept[swept["choice"]]
    return found


def train(
    cell: Cell,
    rates: dict[str, float],
    data: Path,
    cache: Path,
    output: Path,
    device: str,
    keep: Iterable[int] = (),
    mode: str = "ddp",
) -> None:
    """Train a cell, all seeds, and write its runs, history, layers and spectra tables.

    Finished seeds are found in the cache. `keep` are the steps at which pre-trained cells fork. The table of runs,
    which stands for all, is written last.
    """
    parts: dict[str, list[pd.DataFrame]] = {name: [] for name in (*TABLES, "runs")}
    for spec in cell.runs(rates):
        run = _finished(spec, data, cache, device, keep, mode)
        _say_if_diverged(f"{cell.name} seed {spec.seed}", run.result)
        parts["runs"].append(pd.DataFrame([{**cell.facts(rates), **run.result}]))
        for name in TABLES:
            parts[name].append(run.table(name).assign(cell=cell.name, seed=spec.seed))
    if not parallel.is_main():
        return
    for name, tables in parts.items():
        write_table(output / f"{name}.parquet", concat(tables))


def _say_if_diverged(name: str, result: dict[str, Any]) -> None:
    if result.get("diverged") and parallel.is_main():
        step = result["diverged_at"]
        print(f"{name} diverged at step {step}: loss or weights are not finite.", flush=True)


def _finished(
    spec: RunSpec,
    data: Path,
    cache: Path,
    device: str,
    keep: Iterable[int] = (),
    mode: str = "ddp",
) -> FinishedRun:
    run = ensure_run(spec, data, cache, device, keep=keep, mode=mode)
    assert run is not None
    return run


def runs_of(
    cell: Cell, rates: dict[str, float], data: Path, cache: Path, device: str
) -> list[FinishedRun]:
    """The finished runs of a cell, one a seed."""
    return finished_runs(cell.runs(rates), data, cache, device)


def evaluate(
    cells: list[Cell],
    rates: dict[str, float],
    data: Path,
    cache: Path,
    output: Path,
    device: str,
) -> None:
    """Read the test set for every run of the cells: one row a run, kept beside the run."""
    specs = [(cell, spec) for cell in cells for spec in cell.runs(rates)]
    runs = finished_runs((spec for _, spec in specs), data, cache, device)
    rows: list[dict[str, Any]] = []
    for (cell, _), run in zip(specs, runs, strict=True):
        metrics = test_metrics(run, cell.evaluation, data, device)
        key = {"cell": cell.name, "seed": run.spec.seed}
        how = {
            "evaluation_version": VERSIONS["evaluation"],
            "test_examples": cell.evaluation.test_examples,
        }
        rows.append({**key, **how, **metrics})
    write_table(output, pd.DataFrame(rows))


def test_metrics(
    run: FinishedRun, evaluation: EvaluationSpec, data: Path, device: str
) -> dict[str, float | None]:
    """A run's test metrics, computed once and kept in its folder, if that can be written; a diverged run
    has none."""
    where = choose_device(device)
    task = make_task(run.spec, data, where)
    diverged = run.result["diverged"]

    def find() -> dict[str, float | None]:
        if diverged:
            return {}
        model = run.model(task.outputs).to(where)
        found = task.evaluate(model, "test", evaluation.test_examples, evaluation.batch)
        return {f"test_{name}": v if math.isfinite(v) else None for name, v in found.items()}

    def possible(metrics: Any) -> bool:
        known = metrics_of(metrics, "test_") if isinstance(metrics, dict) else {}
        return task.possible(known, "test", evaluation.test_examples) or (diverged and not known)

    key = {"examples": evaluation.test_examples, "version": VERSIONS["evaluation"]}
    return kept(run, "test", key, find, possible)
