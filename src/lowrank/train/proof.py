"""Whether a finished run says of itself what its own history, layers, spectra, weights and spec say."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd
from torch import Tensor

from lowrank.experiment.agreement import disagreement, lacking
from lowrank.experiment.cell import RunSpec
from lowrank.experiment.shares import spread
from lowrank.factor import spectrum
from lowrank.files import MANIFEST, read_json, stamps
from lowrank.frames import concat
from lowrank.methods import IMPLIED, begin
from lowrank.methods.base import Life
from lowrank.train import checkpoint
from lowrank.train.result import costs_of_any_seed
from lowrank.train.schedule import learning_rate

if TYPE_CHECKING:
    from lowrank.train.run import FinishedRun
    from lowrank.train.task import Task

TOLERANCE = 1e-4
"""Norms of singular values that an SVD in float32 gave, against norms in float64."""


def contradiction(runs: Sequence[tuple[FinishedRun, Task]]) -> tuple[FinishedRun, str] | None:
    """The first run whose folder contradicts itself or its spec, and what does in half a sentence; None if none.

    A run that this process found sound is looked at again only if a file of it has been written since. Tables are
    compared for all runs at once, which takes a fraction of the time that they take one by one.
    What the test set gave, times and memory follow from nothing that is kept: they are not proved.
    """
    new = {known: of for of in runs if (known := _known_by(*of)) not in _SOUND}
    wrong = _contradiction(list(new.values())) if new else None
    if wrong is None:
        _SOUND.update(new)
    return wrong


_SOUND: set[tuple[str, ...]] = set()


def _known_by(run: FinishedRun, task: Task) -> tuple[str, ...]:
    """A run's folder, what it is to be the run of, and when each file that is compared was written."""
    names = [MANIFEST, "spec.json", *read_json(run.folder / MANIFEST)["files"]]
    written = stamps(run.folder / name for name in names)
    return (os.path.abspath(run.folder), run.spec.identity(task.digest), *written)


def _contradiction(runs: Sequence[tuple[FinishedRun, Task]]) -> tuple[FinishedRun, str] | None:
    found: list[dict[str, pd.DataFrame]] = []
    for run, task in runs:
        if wrong := next(_unlike_its_spec(run, task), None):
            return run, wrong
        found.append(_tables(run))
        if wrong := lacking(found[-1]):
            return run, wrong
    if disagreement({name: concat(tables[name] for tables in found) for name in found[0]}):
        for (run, _), tables in zip(runs, found, strict=True):
            if wrong := disagreement(tables):
                return run, wrong
    for (run, task), tables in zip(runs, found, strict=True):
        if wrong := next(_unlike_its_tables(run, task, tables), None):
            return run, wrong
    return None


def _unlike_its_spec(run: FinishedRun, task: Task) -> Iterator[str]:
    row = run.result
    if row.get("digest") != run.folder.name:
        yield f"it holds the run {row.get('digest')}"
    if not isinstance(row.get("diverged"), bool):
        yield f"diverged is {row.get('diverged')} in result.json"
    kept = RunSpec.model_validate(read_json(run.folder / "spec.json"))
    if kept.identity(task.digest) != run.folder.name:
        yield "spec.json describes another run"
    for name, expected in _expected(run, task).items():
        if row.get(name) != expected:
            yield f"{name} is {row.get(name)} in result.json, and {expected} by its spec"


def _tables(run: FinishedRun) -> dict[str, pd.DataFrame]:
    """What the run kept, as the tables of a cell that has no other."""
    facts = _facts(run)
    key = {"cell": facts["cell"], "seed": run.spec.seed}
    others = {name: run.table(name).assign(**key) for name in ("history", "layers", "spectra")}
    return {"runs": pd.DataFrame([{**run.result, **facts}]), **others}


def _unlike_its_tables(
    run: FinishedRun, task: Task, tables: dict[str, pd.DataFrame]
) -> Iterator[str]:
    spec, row = run.spec, run.result
    for logged in tables["history"].to_dict("records"):
        metrics = metrics_of(logged, "validation_")
        examples = spec.evaluation.validation_examples
        if metrics and not task.possible(metrics, "validation", examples):
            yield f"no model has the validation metrics of step {logged['step']} in history"
    yield from _schedule(spec, row, tables["history"])
    if not row["diverged"] and spec.method in IMPLIED:
        yield from _weights(run, tables["spectra"])


def metrics_of(row: Mapping[str, Any], prefix: str) -> dict[str, float]:
    """The metrics of a split, as `evaluate` names them; what JSON has no word for is infinite."""
    found = {
        str(name).removeprefix(prefix): math.inf if value is None else float(value)
        for name, value in row.items()
        if str(name).startswith(prefix)
    }
    return {} if math.isnan(found.get("loss", 0.0)) else found


def _facts(run: FinishedRun) -> dict[str, Any]:
    """The columns of a run table that its row lacks."""
    spec = run.spec
    return {
        "cell": f"{spec.track}/{run.folder.name[:6]}",
        "track": spec.track,
        "arm": run.folder.name,
        "family": spec.model.family,
        "width": spec.model.width,
        "method": None if spec.method in IMPLIED else spec.method,
        "pretraining": spec.switch_step / spec.training.steps,
        "steps": spec.training.steps,
    }


def _expected(run: FinishedRun, task: Task) -> dict[str, Any]:
    """The entries of a row that spec and data determine."""
    spec = run.spec
    known = {
        "seed": spec.seed,
        "learning_rate": spec.training.learning_rate,
        "data_digest": task.digest,
    }
    return known | costs_of_any_seed(
        spec, task, checkpoint.recorded(begin(spec), read_json(run.folder / MANIFEST))
    )


def _schedule(spec: RunSpec, row: dict[str, Any], history: pd.DataFrame) -> Iterator[str]:
    """The history has the steps that are logged, each with its learning rate."""
    until = row["diverged_at"] if row["diverged"] else spec.training.steps
    logged = sorted(spread(spec.training.steps, spec.training.log_points))
    steps = [int(step) for step in history["step"]] if len(history) else []
    expected = [step for step in logged if step <= until]
    if steps != (expected[: len(steps)] if row["diverged"] else expected):
        yield "history does not hold the steps that are logged"
    life = begin(spec)
    if type(life).rate is not Life.rate:  # a method that has rates of its own
        return
    trunk, switch = life.trunk() or (spec, 0)
    for step, found in zip(steps, history.get("learning_rate", ()), strict=True):
        rate = learning_rate(step - 1, (trunk if step <= switch else spec).training)
        if not math.isclose(found, rate, rel_tol=1e-9):
            yield (
                f"the learning rate of step {step} is {found:g} in history, and {rate:g} by the spec"
            )


def _weights(run: FinishedRun, spectra: pd.DataFrame) -> Iterator[str]:
    """The norm of every layer's singular values is that of its weights."""
    weights = checkpoint.load_weights(run.folder / "model.safetensors")
    squares = (spectra["singular_value"] ** 2).groupby(spectra["layer"], sort=False).sum()
    for layer, square in squares.items():
        norm = _norm(weights, str(layer))
        if not math.isclose(math.sqrt(square), norm, rel_tol=TOLERANCE, abs_tol=1e-12):
            yield f"the norm of {layer} is {math.sqrt(square):.6g} in spectra, and {norm:.6g} in the weights"


def _norm(weights: dict[str, Tensor], layer: str) -> float:
    if f"{layer}.weight" in weights:
        return float(weights[f"{layer}.weight"].double().norm())
    factors = [weights.get(f"{layer}.{factor}") for factor in "UV"]
    if factors[0] is None or factors[1] is None:
        return math.nan
    return float(spectrum.product_norm(factors[0], factors[1]).norm())
