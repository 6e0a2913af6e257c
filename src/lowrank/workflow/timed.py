"""An experiment trained in one process until a time is over, without Snakemake: for a machine that is lent.

Cells come in the order of how many comparisons of the claims need them. Everything lies where the workflow
puts it; it goes on from there, and so does a second call.
"""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Literal

import pandas as pd

from lowrank.analysis.ledger import ClaimTest, Ledger
from lowrank.analysis.matching import NotRun, members
from lowrank.data import originals
from lowrank.data.images import prepare_images
from lowrank.data.text import prepare_text
from lowrank.errors import LowrankError
from lowrank.experiment.cell import RunSpec
from lowrank.experiment.experiment import Experiment
from lowrank.experiment.extensions import load_extensions
from lowrank.experiment.ground import prepared
from lowrank.experiment.study import writers
from lowrank.jobs import train as jobs
from lowrank.parquet import read_table
from lowrank.train import trackers
from lowrank.train.parallel import held
from lowrank.train.run import ensure_run
from lowrank.workflow.partial import gather, measure, not_here, to_do
from lowrank.workflow.scale import Scale


class TimeOver(BaseException):
    """The time is over: whatever is under way ends, as by an interrupt."""


def in_order(experiment: Experiment, ledger: Ledger) -> list[str]:
    """The trained cells, those first that most comparisons of the claims need, controls counted after what decides;
    of as many in the order of the grid. A pre-trained cell comes after the dense one that it forks from."""
    decide: Counter[str] = Counter()
    control: Counter[str] = Counter()
    facts = pd.DataFrame([cell.facts() for cell in experiment.grid.cells.values()]).assign(seed=0)
    for claim in ledger.claims:
        for test in claim.tests:
            for track, task in experiment.config.tasks.items():
                if task in test.tasks:
                    counts = control if test.control else decide
                    counts.update(_needed(experiment, test, track, facts))
    names = experiment.trained
    place = {name: (-decide[name], -control[name], names.index(name)) for name in names}
    ordered: dict[str, None] = {}
    for name in sorted(names, key=lambda name: place[name]):
        trunk = experiment.trunk(name)
        ordered |= dict.fromkeys([*([trunk] if trunk in names else []), name])
    return list(ordered)


def _needed(
    experiment: Experiment, test: ClaimTest, track: str, facts: pd.DataFrame
) -> Iterator[str]:
    """The cells of each comparison of a test, and those whose models the studies read that measure for it."""
    for table in {test.arm.table, test.reference.table if test.reference else ""}:
        study = writers().get(table, "")
        if track in experiment.grid.jobs.get(study, {}):
            yield from (cell.name for cell in experiment.cells_of_study(study, track))
    with suppress(NotRun):
        for found in members(test, track, {"runs": facts.assign(**{test.metric: 1.0})}):
            yield from (f"{track}/{side.name}" for side in found.sides)


def train_for(
    scale: Scale,
    ledger: Ledger,
    minutes: float,
    say: Callable[[str], None],
    tracks: Collection[str] = (),
) -> Path | None:
    """Train cells, all seeds of each, read their test sets, and measure what is measured on their models, until
    the minutes are over; `say` gets a line for each. With `tracks`, those alone. Returns the folder of the
    tables of all finished cells, None if there are none.

    What a cell needs is made first: data, sweeps, and the dense runs that it forks from. After the last cell come
    those that are published but whose models are read by what is not. Calls side by side each take the next run
    that no other is at, so that they finish a cell together. A run that is under way at the end goes on from its
    last checkpoint in the next call.
    """
    experiment = scale.experiment
    for track in tracks:
        experiment.track(track)
    names = [
        name
        for name in dict.fromkeys([*in_order(experiment, ledger), *experiment.again])
        if not tracks or experiment.cell(name).track in tracks
    ]
    started, done = time.monotonic(), []
    swept: set[str] = set()
    try:
        followed = trackers.session(experiment.config.trackers, Path(scale.results))
        with _over_after(60 * minutes), followed:
            scale.expect_originals(dict.fromkeys(experiment.cell(name).track for name in names))
            scale.begin()
            load_extensions(experiment.grid.extensions)
            for name in _trained(scale, names, swept):
                done.append(name)
                spent = (time.monotonic() - started) / 60
                say(
                    f"{len(done)} of {len(names)} cells, {spent:.1f} of {minutes:g} minutes: {name}"
                )
                measure(scale, {n for n in names if n in done or _finished(scale, n)}, say)
            _train_what_is_read(scale, {experiment.cell(name).track for name in names})
            measure(scale, set(names), say)
    except TimeOver:
        say(
            f"The time is over: {len(done)} of {len(names)} cells are done. The same command goes on."
        )
    with held(Path(scale.results) / "study/slice.lock", wait=True):
        here = dict.fromkeys([*experiment.trained, *experiment.again])
        finished = [name for name in here if _finished(scale, name)]
        return gather(scale, ledger, finished) if finished else None


def _trained(scale: Scale, names: list[str], swept: set[str]) -> Iterator[str]:
    """The cells as they are finished. Again and again the first run in their order is trained that can be, and
    that no other process of the same command is at."""
    left = list(names)
    while left:
        for name in left:
            if scale.experiment.trunk(name) in left:
                continue
            state = _advance(scale, name, swept)
            if state == "done":
                left.remove(name)
                yield name
            if state != "held":
                break
        else:
            time.sleep(1)


def _train_what_is_read(scale: Scale, tracks: set[str]) -> None:
    """Train the published seeds, of cells of which others were missing, whose models are read."""
    experiment = scale.experiment
    for study, track, _ in to_do(scale):
        data, cache = Path(scale.data(track)), Path(scale.results) / "runs"
        for cell in experiment.read_by(study, track) if track in tracks else ():
            best = jobs.read_rates(Path(scale.results) / "rates", [cell], experiment.known)
            specs, forks = cell.runs(best), experiment.forks(cell.name)
            while (state := _next(scale, specs, data, cache, forks)) != "done":
                if state == "held":
                    time.sleep(1)


def _finished(scale: Scale, name: str) -> bool:
    """Whether a cell's tables hold the runs that it has now, all seeds."""
    paths, cell = [Path(path) for path in scale.cell_tables(name)], scale.experiment.here(name)
    data = prepared(Path(scale.results) / "data", [cell.track]).get(cell.track)
    if data is None or not all(path.is_file() for path in paths):
        return False
    try:
        best = jobs.read_rates(Path(scale.results) / "rates", [cell], scale.experiment.known)
    except LowrankError:
        return False
    digests = [spec.identity(data) for spec in cell.runs(best)]
    return read_table(paths[0])["digest"].tolist() == digests


State = Literal["done", "trained", "held"]
"""What became of runs that are needed: all are there, one more is, or other processes are at those that are not."""


def _advance(scale: Scale, name: str, swept: set[str]) -> State:
    """Train a run that a cell needs, or one of its sweeps, or write its tables once all are there. Where a cell's
    tables were made from something else, its finished runs are found by what they are."""
    experiment, config = scale.experiment, scale.experiment.config
    cell = experiment.here(name)
    data, cache, device = Path(scale.data(cell.track)), Path(scale.results) / "runs", config.device
    section = experiment.track(cell.track).data
    with held(Path(scale.results) / f"study/{cell.track}.data.lock", wait=True):
        if not originals.current(section, data):
            if section.kind == "text":
                prepare_text(section, data)
            else:
                prepare_images(section, data)
    _expect_the_published(scale, cell.track)
    for group in cell.groups:
        if group not in swept and group not in experiment.known:
            if (state := _sweep(scale, group, data, cache)) != "done":
                return state
            swept.add(group)
    best = jobs.read_rates(Path(scale.results) / "rates", [cell], experiment.known)
    forks = experiment.forks(name)
    if (state := _next(scale, cell.runs(best), data, cache, forks)) != "done":
        return state
    with held(Path(scale.results) / f"study/{name}.lock", wait=True):
        if not _finished(scale, name):
            tables = Path(scale.cell_tables(name)[0]).parent
            jobs.train(cell, best, data, cache, tables, device, forks)
        for run in jobs.runs_of(cell, best, data, cache, device):
            jobs.test_metrics(run, cell.evaluation, data, device)
    return "done"


def _expect_the_published(scale: Scale, track: str) -> None:
    """Refuse to go on with data that are not those that published runs are of."""
    ground, found = scale.experiment.ground, prepared(Path(scale.results) / "data", [track])[track]
    if ground and ground.data.get(track, found) != found:
        raise LowrankError(
            f"The data of {track} that were prepared here are not those of the published runs: give the files "
            "that these are of, or set `results_from: train` to train everything on yours."
        )


def _sweep(scale: Scale, group: str, data: Path, cache: Path) -> State:
    """Train a run of a sweep; the values beyond an edge, which follow from one another, by one process."""
    experiment, rates = scale.experiment, Path(scale.results) / "rates"
    sweep, forks = experiment.sweep(group), experiment.forks(group)
    found = jobs.read_rates(rates, [sweep], experiment.known)
    specs = [spec for value in sweep.values for spec in sweep.runs(value, found)]
    if (state := _next(scale, specs, data, cache, forks)) != "done":
        return state
    with held(Path(scale.results) / f"study/{group}.sweep.lock") as mine:
        if not mine:
            return "held"
        output = rates / f"{group}.json"
        jobs.sweep(sweep, found, data, cache, output, experiment.config.device, forks)
    return "done"


def _next(
    scale: Scale, specs: list[RunSpec], data: Path, cache: Path, forks: Iterable[int]
) -> State:
    """Train the first of these runs that is not there and that no other process is at."""
    left = not_here(scale, data.name, specs)
    for digest, spec in left.items():
        with held(Path(scale.results) / f"study/{digest}.lock") as mine:
            if mine:
                ensure_run(spec, data, cache, scale.config.device, keep=forks)
                return "trained"
    return "held" if left else "done"


@contextmanager
def _over_after(seconds: float) -> Iterator[None]:
    """Raise TimeOver inside after so many seconds."""

    def over(number: int, frame: FrameType | None) -> None:
        raise TimeOver

    before = signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-6))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
