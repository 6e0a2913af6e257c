"""The command line: the only thing that rules and people call.

Every command reads a configuration file, does one job and writes named files. What a user got wrong
is reported in one sentence, with exit status 2.
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import click

from lowrank.command import FILE, FOLDER, Commands, FiniteRange, NamedPath, configuration
from lowrank.errors import LowrankError, unknown
from lowrank.job_commands import JOBS
from lowrank.model_commands import MODEL_COMMANDS


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="lowrank")
def main() -> None:
    """Low-rank training of deep networks: data, runs, evaluations, tables."""


for command in (*JOBS, *MODEL_COMMANDS):
    main.add_command(command)


@main.command()
@click.option("--config", type=FILE, required=True, help="The whole configuration.")
@click.option("--cell", "cells", type=FOLDER, multiple=True, help="A cell's folder of tables.")
@click.option("--evaluation", "evaluations", type=FILE, multiple=True, help="Test metrics.")
@click.option("--rates", type=FILE, multiple=True, help="A sweep's result.")
@click.option(
    "--other",
    "others",
    type=NamedPath(),
    multiple=True,
    help="A table of a study's job, as name=path.",
)
@click.option("--published", type=FOLDER, help="Published tables to start from.")
@click.option(
    "--data",
    type=FOLDER,
    help="Folder of the tracks' prepared data: of the published runs those are taken that are of this "
    "configuration and of these data.",
)
@click.option("--output", type=FOLDER, required=True, help="Folder of tables to write.")
def tables(
    config: Path,
    cells: tuple[Path, ...],
    evaluations: tuple[Path, ...],
    rates: tuple[Path, ...],
    others: tuple[tuple[str, Path], ...],
    published: Path | None,
    data: Path | None,
    output: Path,
) -> None:
    """Gather the tables of single jobs into those that notebooks and the paper read."""
    from lowrank.analysis.tables import collect
    from lowrank.experiment.config import read_config
    from lowrank.experiment.study import writers

    settings = read_config(config)  # which may bring studies of one's own
    named: dict[str, list[Path]] = {}
    for name, path in others:
        if name not in (known := writers()):
            raise unknown("table in --other", name, known)
        named.setdefault(name, []).append(path)
    collect(settings, cells, evaluations, rates, named, output, published, data)


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
    from lowrank.parquet import read_table, write_table

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
@click.option("--output", type=FOLDER, required=True, help="Folder to add to, published/<scale>.")
@click.option(
    "--replace",
    is_flag=True,
    help="Put these runs in the place of published ones that they contradict, and leave out what the "
    "configuration does not have and what is of other data, settings or versions.",
)
def publish(tables: Path, config: Path, ledger: Path, output: Path, replace: bool) -> None:
    """Add a scale's tables, thinned, to a folder of published ones with a SHA-256 manifest."""
    from lowrank.analysis.publish import publish as publish_tables
    from lowrank.jobs.calibrate import calibration_step
    from lowrank.processor import processor
    from lowrank.train.build import choose_device

    calibration = {processor(choose_device("cpu")): calibration_step()}
    said = publish_tables(tables, config, ledger, output, replace=replace, calibration=calibration)
    click.echo(said)


@main.command()
@click.argument("notebook", type=FILE)
@click.option("--tables", type=FOLDER, required=True, help="Folder of tables.")
@click.option("--track", required=True, help="The track that the figure is of; all: of all.")
@click.option("--executed", type=FILE, required=True, help="The executed notebook to write.")
@click.option("--output", type=FOLDER, required=True, help="Folder of figures to write in.")
def render(notebook: Path, tables: Path, track: str, executed: Path, output: Path) -> None:
    """Run a figure's NOTEBOOK; its executed copy is kept, also when a cell fails."""
    from lowrank.reports.render import render as render_notebook

    render_notebook(notebook, tables, track, output, executed)


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
    """Write the replication report of a scale."""
    from lowrank.analysis.ledger import read_ledger
    from lowrank.experiment.config import read_config
    from lowrank.reports.paper import compile_paper, export

    export(read_config(config), read_ledger(ledger), folder, figures, data, published)
    compile_paper(source, data, figures, output)


@main.command()
@click.option("--scale", default="laptop", show_default=True, help="Reads config/<scale>.yaml.")
@click.option("--config", type=FILE, help="A configuration file, instead of a scale.")
@click.option(
    "--published", type=FOLDER, help="Folder of published scales, whose measured speeds are used."
)
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
    from lowrank.reports.plan import make_plan, show
    from lowrank.reports.speeds import published_speeds

    if output and not output.parent.is_dir():
        raise LowrankError(f"--output: there is no folder {output.parent} to write a file in.")
    settings = read_config(configuration(scale, config))
    speed = peak * utilisation if peak else published_speeds(published or Path("published"))
    table = make_plan(settings, speed)
    click.echo(show(table))
    if output:
        with atomic(output) as temporary:
            table.to_csv(temporary, index=False)


@main.command()
@click.option("--scale", default="laptop", show_default=True, help="Reads config/<scale>.yaml.")
@click.option("--config", type=FILE, help="A configuration file, instead of a scale.")
@click.option("--ledger", type=FILE, help="The claims, instead of the configuration's ledger.")
@click.option("--published", type=FOLDER, help="Folder of the scale's published results.")
@click.option("--seeds", type=click.IntRange(2, 10_000), help="Instead of the configuration's.")
@click.option(
    "--sd",
    "spreads",
    type=(str, FiniteRange(0, 1e9, min_open=True)),
    multiple=True,
    help="METRIC and standard deviation of its paired differences, where none is published.",
)
def power(
    scale: str,
    config: Path | None,
    ledger: Path | None,
    published: Path | None,
    seeds: int | None,
    spreads: tuple[tuple[str, float], ...],
) -> None:
    """Print what each test of the claims can settle with the planned seeds, before anything is launched."""
    from lowrank.analysis.ledger import read_ledger
    from lowrank.experiment.config import read_config
    from lowrank.reports.power import power_table, show
    from lowrank.reports.scales import judged_now

    settings = read_config(configuration(scale, config))
    claims = read_ledger(ledger or Path("config") / f"{settings.ledger}.yaml")
    known = judged_now(published or Path("published") / settings.scale, claims, settings.ledger)
    click.echo(show(power_table(claims, settings, known, dict(spreads), seeds)))


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
@click.argument("folder", type=FOLDER)
def init(folder: Path) -> None:
    """Write a FOLDER in which the studies run: workflow, configurations, notebooks, published tables."""
    from lowrank.workflow.project import init as write

    count = len(write(folder))
    click.echo(
        f"{count} files in {folder}; now: cd {shlex.quote(str(folder))} && "
        "snakemake --cores all figures --config scale=smoke"
    )


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
    """Write config/README.md and the JSON schema, and the README's verdicts (published/) and advice (bench/advice/)."""
    from lowrank.reports.reference import write_reference

    readme = Path("README.md")  # a folder of one's own need have none
    stale = write_reference(output, check, readme if readme.is_file() else None, Path("published"))
    if stale:
        click.echo(f"Out of date: {', '.join(map(str, stale))}; run lowrank reference.", err=True)
        sys.exit(1)
