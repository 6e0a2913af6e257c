"""From a call of Snakemake to the scale that it is about; what is wrong with the call is one sentence."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import snakemake_logger_plugin_lowrank
from lowrank import interrupt
from lowrank.errors import LowrankError, one_sentence
from lowrank.experiment import config as settings
from lowrank.experiment.config import Config
from lowrank.experiment.targets import check_targets
from lowrank.workflow.own_method import with_own_method
from lowrank.workflow.scale import Scale

HERE = Path("config")
"""The folder of configurations, in the working folder and beside the workflow."""
ALL_FIGURES = {"figures", "methods"}
"""The rules that stand for every figure."""


def open_scale(workflow: Any, config: dict[str, Any]) -> Scale:
    """The scale that a call is about; `workflow` and `config` are Snakemake's own.

    As a module of another workflow, `config` is what that one gives: the keys of a configuration, or of
    those that differ from the file of its `scale`.
    """
    root = _root(workflow)
    with one_sentence():
        if workflow.modifier.is_main_snakefile():
            interrupt.on_signals()
            overrides = dict(workflow.config_settings.config)
            usual = "methods" if "methods" in _asked_for() else "laptop"
            found = read_config(workflow.configfiles, overrides, root, usual)
        else:
            found = read_config([], config, root)
        scale = Scale(found, root, workflow)
        if not Path(ledger_of(scale)).is_file():
            raise LowrankError(
                f"ledger: {ledger_of(scale)} is missing: name another, such as claims."
            )
        scale.check_memory()
        scale.announce()
    return scale


def ledger_of(scale: Scale) -> str:
    """The file of the claims that are judged; it comes with the workflow."""
    return scale.source(f"config/{scale.config.ledger}.yaml")


def _root(workflow: Any) -> Path:
    """The folder that holds workflow, notebooks and configurations: relative if one works in it, so
    that it can be moved without anything being made again."""
    root = Path(workflow.current_basedir.get_path_or_uri(secret_free=True)).parents[1]
    return Path() if root.resolve() == Path.cwd().resolve() else root


def read_config(
    files: Sequence[str | Path], overrides: dict[str, Any], root: Path, usual: str = "laptop"
) -> Config:
    """The configuration of these files (--configfile), or of the scale's, with its overrides (--config);
    `usual` is the scale where none is given. The override `try` names the file of a method of one's own.

    The files are read anew: Snakemake's own reader takes the last of two equal keys, and 1:30 for 90.
    """
    from snakemake.utils import update_config

    values: dict[str, Any] = {}
    overrides = dict(overrides)
    for path in files:
        update_config(values, settings.read_section(path))
    if "tracks" in {**values, **overrides}:
        source = str(files[-1]) if files else "config"
    else:
        scale = overrides.pop("scale", values.pop("scale", usual))
        file = HERE / f"{scale}.yaml"
        source = str(file if file.is_file() else root / file)
        values = {**settings.read_section(source), **values}
    own = overrides.pop("try", None)
    update_config(values, overrides)
    found = settings.parse(values, source)
    if own is None:
        return found
    return with_own_method(found, str(own), overrides.get("results_from", "published"))


def check_call(workflow: Any, scale: Scale) -> None:
    """Look at what a call asks for before Snakemake does, whose words for a misspelt path are a
    traceback. Another workflow's targets are its own."""
    if not workflow.modifier.is_main_snakefile():
        return

    snakemake_logger_plugin_lowrank.places = partial(_places, workflow, scale)
    with one_sentence():
        check_targets(
            _asked_for(),
            rules=[rule.name for rule in workflow.rules if not rule.has_wildcards()],
            files=scale.products,
            grid=scale.experiment.grid,
            scale=scale.name,
            scales=[
                path.stem for folder in {HERE, scale.root / HERE} for path in folder.glob("*.yaml")
            ],
        )


def closing(workflow: Any, scale: Scale) -> str:
    """The last lines of a call that made all figures or the report: where they are and what figures say.

    Empty of one that was about something else, left some of them out (`--until`, `--omit-from`, `--batch`) or
    only touched files: what lies there may be of other runs.
    """
    from lowrank.reports.closing import closing

    asked, lines = _made(workflow), []
    if asked & ALL_FIGURES:
        runs = map(Path, scale.runs())
        lines.append(closing(Path(scale.results) / "tables", Path(scale.figures.folder), runs))
    if "paper" in asked:
        lines.append(f"The report is {scale.paper}.")
    return "\n".join(lines)


def _made(workflow: Any) -> set[str]:
    """What is left of a call's targets; nothing if it only touches files."""
    return set() if workflow.touch else {job.rule.name for job in workflow.dag.targetjobs}


def _places(workflow: Any, scale: Scale) -> str:
    """Where that is which a call asked for, said where nothing is left to do."""
    asked = _made(workflow)
    figures = [f"The figures are in {scale.figures.folder}."] if asked & ALL_FIGURES else []
    return " ".join([*figures, *([f"The report is {scale.paper}."] if "paper" in asked else [])])


def _asked_for() -> list[str]:
    """The targets of this call. Snakemake knows them, but tells the workflow only after reading it."""
    frame = sys._getframe()
    while frame is not None:
        dag_settings = getattr(frame.f_locals.get("self"), "dag_settings", None)
        if dag_settings is not None:
            return list(dag_settings.targets)
        frame = frame.f_back  # type: ignore[assignment]
    return []
