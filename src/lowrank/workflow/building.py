"""What is built on published results, and what that takes in words, before anything is trained."""

from __future__ import annotations

from pathlib import Path

from lowrank.errors import LowrankError
from lowrank.experiment.config import Config
from lowrank.experiment.experiment import Experiment
from lowrank.experiment.ground import read_ground
from lowrank.experiment.study import jobs
from lowrank.files import MANIFEST
from lowrank.versions import VERSIONS


def manifest_of(scale: str, root: Path) -> Path:
    """The manifest of a scale's published tables: those made here, else those beside the workflow."""
    file = Path(f"published/{scale}/manifest.json")
    for found in (file, root / file):
        if found.is_file():
            return found
    known = sorted(
        {f.parent.name for r in (Path(), root) for f in r.glob(f"published/*/{MANIFEST}")}
    )
    raise LowrankError(
        f"results_from: {file} is missing: the scale {scale} has no published tables here; "
        "train it, run `snakemake --cores 1 publish` where it was"
        + (
            f", or keep `scale: {'` or `'.join(known)}` in your configuration to build on its runs."
            if known
            else "."
        )
    )


def build(config: Config, published: Path, results: Path) -> tuple[Experiment, str]:
    """The experiment that trains what is missing in `published`, and a sentence on what that is; empty where
    nothing is. Where none of the published runs is one of this configuration, such as after a change of
    version, the tables are taken as they are, and nothing is trained."""
    ground = read_ground(published, results / "data", config.tracks)
    experiment = Experiment(config, ground)
    assert experiment.ground is not None
    if not experiment.ground.runs:
        runs = ground.tables["runs"]
        column = runs.get("training_version", runs.get("method_version", []))
        made, now = sorted({int(version) for version in column}), VERSIONS["training"]
        why = f" (version {', '.join(map(str, made))} of training made them, and this is {now})"
        return Experiment(config), (
            f"None of the {len(runs)} runs in {published} is one of this configuration"
            f"{why if made != [now] else ''}: the published tables are shown as they are, and nothing is "
            "trained. Leave results_from out to train."
        )
    return experiment, _in_words(experiment, published, results / "runs")


def _in_words(experiment: Experiment, published: Path, cache: Path) -> str:
    ground = experiment.ground
    assert ground is not None
    cells = experiment.grid.cells
    total, found = sum(len(cell.seeds) for cell in cells.values()), len(ground.runs)
    groups = {group for name in experiment.trained for group in cells[name].groups}
    sweeps = len(groups - ground.rates.keys())
    again, readers = _trained_again(experiment, cache)
    parts = []
    if total > found:
        parts.append(f"{total - found} in {len(experiment.trained)} cells are trained here")
    if sweeps:
        parts.append(f"{sweeps} sweeps made")
    if again:
        parts.append(
            f"{again} published ones trained again because {' and '.join(readers)} {'reads' if len(readers) == 1 else 'read'} their models"
        )
    if not parts:
        return ""
    return (
        f"{published} holds {found} of the {total} runs of this configuration: {', '.join(parts)}."
    )


def _trained_again(experiment: Experiment, cache: Path) -> tuple[int, list[str]]:
    """How many published runs have to be trained again because their models are read and are not here, and by
    which studies."""
    ground, again = experiment.ground, set[str]()
    assert ground is not None
    readers: dict[str, None] = {}
    for study in (name for name, job in jobs().items() if job.arms):
        for track in experiment.grid.jobs.get(study, {}):
            if not experiment.lacks(study, track):
                continue
            for cell in experiment.read_by(study, track):
                found = {
                    digest
                    for seed, digest in ground.digests(cell).items()
                    if (cell.name, seed) in ground.runs
                    and not (cache / digest / MANIFEST).is_file()
                }
                again |= found
                readers |= dict.fromkeys([study] if found else [])
    return len(again), list(readers)
