"""The command line: the only thing that rules and people call.

Every command reads a configuration file, does one job and writes named files. What a user got wrong
is reported in one sentence, with exit status 2.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from lowrank.command import DEVICE, FILE, FOLDER, STEP, Commands, FiniteRange, NamedPath
from lowrank.errors import LowrankError

SPECS = {
    "TextSpec": "data/<track>.json",
    "ImageSpec": "data/<track>.json",
    "SweepGroup": "sweeps/<cell>.json",
    "Cell": "cells/<cell>.json",
    "InterpolationStudy": "interpolation/<track>.json",
    "PostHocJob": "posthoc/<track>.json",
}
"""Where in specs/ the workflow writes the file of each kind."""


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="lowrank")
def main() -> None:
    """Low-rank training of deep networks: data, runs, evaluations, tables."""


def _expected(kind: Any) -> str:
    return f"a JSON file that the workflow writes, results/<scale>/specs/{SPECS[kind.__name__]}"


def _spec(path: Path, kind: Any) -> Any:
    """A spec file the workflow wrote, validated; one of a cell or sweep lies at a path that ends in
    the name it gives. The extensions it names are loaded."""
    from pydantic import ValidationError

    from lowrank.experiment.complaints import complaint
    from lowrank.files import damaged, read_sealed, written_here

    what = _expected(kind)
    values = read_sealed(path, what)
    try:
        spec = kind.model_validate(values)
    except ValidationError as error:
        sentence = complaint(error, str(path), values, kind)
        raise (damaged(path, sentence) if written_here(path) else sentence) from None
    name = getattr(spec, "name", None) if "track" in kind.model_fields else None
    if name is not None and not path.absolute().as_posix().endswith(f"/{name}.json"):
        raise damaged(path, f"it describes {name}", what=what)
    if getattr(spec, "extensions", None):
        from lowrank.experiment.extensions import load_extensions

        load_extensions(spec.extensions)
    return spec


def _common(command: Any) -> Any:
    for option in (
        click.option("--data", type=FOLDER, required=True, help="Prepared data folder."),
        click.option("--cache", type=FOLDER, required=True, help="Folder of all runs."),
        click.option(
            "--device", type=DEVICE, default="auto", show_default=True, help="Where to compute."
        ),
    ):
        command = option(command)
    return command


PARALLEL = click.option(
    "--parallel",
    "mode",
    type=click.Choice(["ddp", "fsdp"]),
    default="ddp",
    show_default=True,
    help="Under torchrun: what each device holds, the whole model or a slice.",
)


@main.command()
@click.option("--spec", type=FILE, required=True, help="The data section, as JSON.")
@click.option("--output", type=FOLDER, required=True, help="Folder to write.")
@click.option("--state", help="A word for the present state of your files, which is recorded.")
def prepare(spec: Path, output: Path, state: str | None) -> None:
    """Tokenise text or decode images into a prepared data folder."""
    from lowrank.data.images_spec import ImageSpec
    from lowrank.data.spec import TextSpec
    from lowrank.files import read_json

    values = read_json(spec, _expected(TextSpec))
    if isinstance(values, dict) and values.get("kind") == "text":
        from lowrank.data.text import prepare_text

        prepare_text(_spec(spec, TextSpec), output, state=state)
    else:
        from lowrank.data.images import prepare_images

        prepare_images(_spec(spec, ImageSpec), output, state=state)


@main.command()
@click.option("--spec", type=FILE, required=True, help="The sweep's spec file.")
@click.option("--keep", type=STEP, multiple=True, help="Steps whose checkpoints are kept.")
@click.option("--output", type=FILE, required=True, help="JSON file to write.")
@PARALLEL
@_common
def sweep(
    spec: Path, keep: tuple[int, ...], output: Path, mode: str, data: Path, cache: Path, device: str
) -> None:
    """Find an arm's best learning rate on validation data."""
    from lowrank.experiment.cell import SweepGroup
    from lowrank.jobs import train as jobs
    from lowrank.train import parallel

    with parallel.session(device):
        jobs.sweep(_spec(spec, SweepGroup), data, cache, output, device, keep, mode)


@main.command()
@click.option("--spec", type=FILE, required=True, help="The cell's spec file.")
@click.option("--rates", type=FOLDER, required=True, help="Folder of sweep results.")
@click.option("--keep", type=STEP, multiple=True, help="Steps whose checkpoints are kept.")
@click.option("--output", type=FOLDER, required=True, help="Folder of the cell's tables.")
@PARALLEL
@_common
def train(
    spec: Path,
    rates: Path,
    keep: tuple[int, ...],
    output: Path,
    mode: str,
    data: Path,
    cache: Path,
    device: str,
) -> None:
    """Train one cell, all its seeds."""
    from lowrank.experiment.cell import Cell
    from lowrank.jobs import train as jobs
    from lowrank.train import parallel

    cell = _spec(spec, Cell)
    with parallel.session(device):
        jobs.train(cell, jobs.read_rates(rates, [cell]), data, cache, output, device, keep, mode)


@main.command()
@click.argument("specs", type=FILE, nargs=-1, required=True)
@click.option("--rates", type=FOLDER, required=True, help="Folder of sweep results.")
@click.option("--output", type=FILE, required=True, help="Parquet file to write.")
@_common
def evaluate(
    specs: tuple[Path, ...], rates: Path, output: Path, data: Path, cache: Path, device: str
) -> None:
    """Read the test set for every run of the cells with these SPECS."""
    from lowrank.experiment.cell import Cell
    from lowrank.jobs import train as jobs

    cells = [_spec(path, Cell) for path in specs]
    jobs.evaluate(cells, jobs.read_rates(rates, cells), data, cache, output, device)


@main.command()
@click.argument("dense", type=FILE)
@click.argument("others", type=FILE, nargs=-1, required=True)
@click.option("--study", type=FILE, required=True, help="The interpolation section, as JSON.")
@click.option("--rates", type=FOLDER, required=True, help="Folder of sweep results.")
@click.option("--points", type=FILE, required=True, help="Parquet file of losses on the lines.")
@click.option("--summary", type=FILE, required=True, help="Parquet file of barriers, distances.")
@_common
def interpolate(
    dense: Path,
    others: tuple[Path, ...],
    study: Path,
    rates: Path,
    points: Path,
    summary: Path,
    data: Path,
    cache: Path,
    device: str,
) -> None:
    """Measure losses between the solution of cell spec DENSE and those of OTHERS."""
    from lowrank.experiment.cell import Cell
    from lowrank.experiment.config import InterpolationStudy
    from lowrank.files import write_table
    from lowrank.jobs import interpolate as interpolation
    from lowrank.jobs import train as jobs

    start, ends = _spec(dense, Cell), [_spec(path, Cell) for path in others]
    best = jobs.read_rates(rates, [start, *ends])
    section = _spec(study, InterpolationStudy)
    lines, facts = interpolation.interpolate(section, start, ends, best, data, cache, device)
    write_table(points, lines)
    write_table(summary, facts)


@main.command()
@click.argument("dense", type=FILE)
@click.option("--study", type=FILE, required=True, help="The post-hoc study's spec file.")
@click.option("--rates", type=FOLDER, required=True, help="Folder of sweep results.")
@click.option("--output", type=FILE, required=True, help="Parquet file to write.")
@_common
def posthoc(
    dense: Path,
    study: Path,
    rates: Path,
    output: Path,
    data: Path,
    cache: Path,
    device: str,
) -> None:
    """Truncate the trained models of cell spec DENSE and evaluate them."""
    from lowrank.experiment.cell import Cell, PostHocJob
    from lowrank.files import write_table
    from lowrank.jobs import posthoc as method
    from lowrank.jobs import train as jobs

    cell, job = _spec(dense, Cell), _spec(study, PostHocJob)
    best = jobs.read_rates(rates, [cell])
    table = method.posthoc(job.study, job.factors, cell, best, data, cache, device)
    write_table(output, table)


@main.command()
@click.option("--data", type=FOLDER, required=True, help="Prepared text folder.")
@click.option("--output", type=FILE, required=True, help="Parquet file to write.")
def baselines(data: Path, output: Path) -> None:
    """Losses of n-gram models of a prepared text."""
    from lowrank.files import write_table
    from lowrank.jobs.baselines import ngram_losses

    write_table(output, ngram_losses(data))


@main.command()
@click.option("--config", type=FILE, required=True, help="The whole configuration.")
@click.option("--cell", "cells", type=FOLDER, multiple=True, help="A cell's folder of tables.")
@click.option("--evaluation", "evaluations", type=FILE, multiple=True, help="Test metrics.")
@click.option("--rates", type=FILE, multiple=True, help="A sweep's result.")
@click.option(
    "--other",
    "others",
    type=NamedPath(("interpolation", "barriers", "posthoc", "baselines", "speed")),
    multiple=True,
    help="A further table, as name=path.",
)
@click.option("--published", type=FOLDER, help="Published tables to start from.")
@click.option("--output", type=FOLDER, required=True, help="Folder of tables to write.")
def tables(
    config: Path,
    cells: tuple[Path, ...],
    evaluations: tuple[Path, ...],
    rates: tuple[Path, ...],
    others: tuple[tuple[str, Path], ...],
    published: Path | None,
    output: Path,
) -> None:
    """Gather the tables of single jobs into those that notebooks and the paper read."""
    from lowrank.analysis.tables import collect
    from lowrank.experiment.config import read_config

    named: dict[str, list[Path]] = {}
    for name, path in others:
        named.setdefault(name, []).append(path)
    collect(read_config(config), cells, evaluations, rates, named, output, published)


@main.command()
@click.option("--config", type=FILE, required=True, help="The whole configuration.")
@click.option("--ledger", type=FILE, required=True, help="The claims and their margins.")
@click.option("--tables", "folder", type=FOLDER, required=True, help="Folder of tables.")
@click.option("--output", type=FILE, required=True, help="Parquet file to write.")
def claims(config: Path, ledger: Path, folder: Path, output: Path) -> None:
    """Judge the paper's claims on a scale's tables."""
    from lowrank.analysis.claims import judge_scale
    from lowrank.analysis.ledger import read_ledger
    from lowrank.experiment.config import read_config
    from lowrank.files import read_table, write_table

    settings, claimed = read_config(config), read_ledger(ledger)
    tables = {path.stem: read_table(path) for path in sorted(folder.glob("*.parquet"))}
    tables.pop("claims", None)
    if not tables:
        raise LowrankError(f"{folder} holds no tables: give results/<scale>/tables.")
    write_table(output, judge_scale(claimed, settings, tables))


@main.command()
@click.option("--tables", type=FOLDER, required=True, help="Folder of tables to publish.")
@click.option("--config", type=FILE, required=True, help="The configuration they came from.")
@click.option("--ledger", type=FILE, required=True, help="The claims that they were judged by.")
@click.option("--output", type=FOLDER, required=True, help="Folder to write, published/<scale>.")
def publish(tables: Path, config: Path, ledger: Path, output: Path) -> None:
    """Copy a scale's tables, thinned, into a folder with a SHA-256 manifest."""
    from lowrank.analysis.publish import publish as publish_tables

    publish_tables(tables, config, ledger, output)


@main.command()
@click.option("--config", type=FILE, required=True, help="The whole configuration.")
@click.option("--ledger", type=FILE, required=True, help="The claims and their margins.")
@click.option("--tables", "folder", type=FOLDER, required=True, help="Folder of tables.")
@click.option("--figures", type=FOLDER, required=True, help="Folder of figures.")
@click.option(
    "--published", type=FOLDER, help="Published tables, if the results are based on them."
)
@click.option("--source", type=FILE, required=True, help="Typst source.")
@click.option("--data", type=FOLDER, required=True, help="Folder to write what the report reads.")
@click.option("--output", type=FILE, required=True, help="PDF to write, or PNG with {p} for pages.")
def paper(
    config: Path,
    ledger: Path,
    folder: Path,
    figures: Path,
    published: Path | None,
    source: Path,
    data: Path,
    output: Path,
) -> None:
    """Write the replication report of a scale; its sources lie in the current folder or below."""
    from lowrank.analysis.ledger import read_ledger
    from lowrank.experiment.config import read_config
    from lowrank.report.paper import compile_paper, export

    export(read_config(config), read_ledger(ledger), folder, figures, data, published)
    compile_paper(source, data, figures, output)


@main.command()
@click.option("--scale", default="laptop", show_default=True, help="Reads config/<scale>.yaml.")
@click.option("--config", type=FILE, help="A configuration file, instead of a scale.")
@click.option("--published", type=FOLDER, help="Tables whose measured speed is used.")
@click.option(
    "--peak",
    type=FiniteRange(0, 1e24, min_open=True),
    help="Peak FLOPs a second of your device, e.g. 989e12.",
)
@click.option(
    "--utilisation",
    type=FiniteRange(0, 1, min_open=True),
    default=0.35,
    show_default=True,
    help="Share of the peak reached.",
)
@click.option("--output", type=FILE, help="Also write the plan as CSV.")
def plan(
    scale: str,
    config: Path | None,
    published: Path | None,
    peak: float | None,
    utilisation: float,
    output: Path | None,
) -> None:
    """Print cells, parameters, FLOPs, time and memory before anything is launched."""
    from lowrank.experiment.config import read_config
    from lowrank.files import atomic
    from lowrank.report.plan import make_plan, measured_speed, show

    if output and not output.parent.is_dir():
        raise LowrankError(f"--output: there is no folder {output.parent} to write a file in.")
    settings = read_config(config or Path("config") / f"{scale}.yaml")
    speed = peak * utilisation if peak else measured_speed(published or Path("published"))
    table = make_plan(settings, speed)
    click.echo(show(table))
    if output:
        with atomic(output) as temporary:
            table.to_csv(temporary, index=False)


@main.command()
@click.argument("file", type=FILE)
def check(file: Path) -> None:
    """Import a FILE of methods of your own and try each on small matrices (status 1 if one fails)."""
    from lowrank.files import expect_file
    from lowrank.jobs.check import check_file, show

    if not file.exists():
        raise LowrankError(f"{file} is missing: give a Python file that registers a method.")
    expect_file(file, "a Python file that registers a method")
    findings = check_file(file)
    click.echo(show(findings))
    failed = sum(finding.failed for finding in findings)
    if failed:
        click.echo(f"{failed} of {len(findings)} trials failed.", err=True)
        sys.exit(1)


@main.command()
def methods() -> None:
    """List the methods of training: name, source, settings and their defaults."""
    from lowrank.methods import METHODS

    for name in METHODS.names():
        method = METHODS[name]
        click.echo(f"{name}: {method.label} ({method.source})\n  {method.summary}")
        for key, field in method.options.model_fields.items():
            click.echo(f"    {key} = {field.default}: {field.description}")


@main.command()
@click.option("--output", type=FOLDER, default="config", show_default=True, help="Folder to write.")
@click.option("--check", is_flag=True, help="Only say if the files are out of date (status 1).")
def reference(output: Path, check: bool) -> None:
    """Write config/README.md and the JSON schema, and the README's verdicts (published/laptop)."""
    from lowrank.report.reference import write_reference

    stale = write_reference(output, check, Path("README.md"), Path("published/laptop"))
    if stale:
        click.echo(f"Out of date: {', '.join(map(str, stale))}; run lowrank reference.", err=True)
        sys.exit(1)


@main.command()
@click.argument("specs", type=FILE, nargs=-1, required=True)
@click.option("--rates", type=FOLDER, required=True, help="Folder of sweep results.")
@click.option("--data", type=FOLDER, required=True, help="Prepared data folder.")
@click.option("--device", type=DEVICE, default="auto", show_default=True, help="Where to compute.")
@click.option(
    "--rounds",
    type=click.IntRange(1, 1000),
    default=5,
    show_default=True,
    help="Turns each model takes.",
)
@click.option("--output", type=FILE, required=True, help="Parquet file to write.")
def speed(
    specs: tuple[Path, ...], rates: Path, data: Path, device: str, rounds: int, output: Path
) -> None:
    """Time training steps of the cells with these SPECS, taking turns."""
    from lowrank.experiment.cell import Cell
    from lowrank.files import write_table
    from lowrank.jobs.speed import measure_speed

    cells = [_spec(path, Cell) for path in specs]
    write_table(output, measure_speed(cells, rates, data, device, rounds))
