"""Commands about a model itself: whether factors pay, and a trained one for transformers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from lowrank.command import DEVICE_OPTION, FILE, FOLDER, FiniteRange
from lowrank.errors import LowrankError, unknown

if TYPE_CHECKING:
    from torch import Tensor

    from lowrank.jobs.advise import Advised


@click.command()
@click.argument("model", type=click.Path(exists=True, path_type=Path))
@click.option("--track", help="One track of a configuration; left out: all.")
@click.option(
    "--batch",
    type=click.IntRange(1, 65536),
    default=8,
    show_default=True,
    help="Of a folder's model: examples in a batch.",
)
@click.option(
    "--length",
    type=click.IntRange(1, 65536),
    default=128,
    show_default=True,
    help="Of a folder's model: tokens, or the side of images.",
)
@DEVICE_OPTION
@click.option(
    "--turns",
    type=click.IntRange(1, 1000),
    default=9,
    show_default=True,
    help="How often each is timed; medians are shown.",
)
@click.option(
    "--size",
    type=click.IntRange(16, 65536),
    default=2048,
    show_default=True,
    help="Side of the matrices whose product and copy tell how fast the device is at best.",
)
@click.option("--json", "output", type=FILE, help="Also write all of it as JSON.")
def advise(
    model: Path,
    track: str | None,
    batch: int,
    length: int,
    device: str,
    turns: int,
    size: int,
    output: Path | None,
) -> None:
    """Time MODEL, dense against factorised, and say up to which rank factors pay.

    MODEL is a configuration, whose tracks are timed at their batch, or a folder that transformers'
    save_pretrained wrote; any other module: lowrank.api.advise in Python. First its layers, one by one, then
    the whole: training steps, memory, and how fast it writes tokens, if it does; last what follows. Quiet
    machines tell most: whatever else runs blurs the ratios.
    """
    from lowrank.jobs.advise import measure
    from lowrank.train.build import choose_device

    found = _of_folder(model, batch, length) if model.is_dir() else _of_config(model, track)
    measure(found, choose_device(device), turns, size, click.echo, output)


def _of_config(path: Path, track: str | None) -> Iterator[Advised]:
    import torch

    from lowrank.experiment.config import read_config
    from lowrank.experiment.cost import shape
    from lowrank.models import family

    config = read_config(path)
    if track is not None and track not in config.tracks:
        raise unknown("track", track, config.tracks)
    for name, section in config.tracks.items():
        if track not in (None, name):
            continue
        spec, count = section.model, section.training.batch
        outputs, side = shape(section)
        inputs = (
            torch.zeros((count, int(spec.context or 0)), dtype=torch.long)
            if section.task.language
            else torch.zeros((count, spec.channels, side, side))
        )
        torch.manual_seed(0)
        record, writer = family(spec.family), None
        if section.task.language and record.transformers is not None:
            writer = record.transformers(spec, outputs)
        yield _title(f"{name}: {spec.family}", inputs), record.build(spec, outputs), inputs, writer


def _of_folder(folder: Path, batch: int, length: int) -> Iterator[Advised]:
    import torch

    import lowrank

    model = lowrank.from_pretrained(folder)
    lowrank.to_dense(model)
    dummy = {name: value[:1] for name, value in model.dummy_inputs.items()}
    if "input_ids" in dummy:
        inputs = {
            name: torch.zeros((batch, length), dtype=torch.long)
            for name in dummy
            if name in ("input_ids", "decoder_input_ids")
        }
    elif "pixel_values" in dummy:
        channels = dummy["pixel_values"].shape[1]
        inputs = {"pixel_values": torch.zeros(batch, channels, length, length)}
    else:
        raise LowrankError(
            f"{folder}: {type(model).__name__} takes {', '.join(dummy)}, and inputs are made up here for "
            "tokens and images only: call lowrank.api.advise.advise(model, batch)."
        )
    title = _title(f"{folder.name}: {type(model).__name__}", next(iter(inputs.values())))
    yield title, model, inputs, None


def _title(name: str, inputs: Tensor) -> str:
    return f"{name}, batch of {' x '.join(map(str, inputs.shape))}"


@click.command()
@click.argument("cell", type=FOLDER)
@click.argument("output", type=FOLDER)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**63 - 1),
    help="Which run of the cell; left out: its first seed.",
)
@click.option(
    "--to",
    type=click.Choice(["factorised", "dense"]),
    default="factorised",
    show_default=True,
    help="Keep U and V, or multiply them out.",
)
def export(cell: Path, output: Path, seed: int | None, to: str) -> None:
    """Write a trained run of CELL, results/<scale>/cells/<track>/<arm>, as a folder for transformers.

    OUTPUT loads with transformers' from_pretrained where it is dense, with lowrank.from_pretrained in
    any case; language models bring their tokeniser along.
    """
    from lowrank.jobs.export import export_run

    export_run(cell, output, seed, dense=to == "dense")


@click.command()
@DEVICE_OPTION
@click.option(
    "--width",
    "widths",
    type=click.IntRange(16, 65536),
    multiple=True,
    default=(768, 1600, 4096),
    show_default=True,
    help="Of GPT-2; several times for several.",
)
@click.option("--depth", type=click.IntRange(1, 1000), default=12, show_default=True)
@click.option("--context", type=click.IntRange(1, 65536), default=1024, show_default=True)
@click.option("--batch", type=click.IntRange(1, 65536), default=8, show_default=True)
@click.option("--tokens", type=click.IntRange(2, 10**6), default=50_304, show_default=True)
@click.option(
    "--mode",
    "modes",
    type=click.Choice(["eager", "compile", "graphs"]),
    multiple=True,
    default=("eager", "compile", "graphs"),
    show_default=True,
    help="As written, by torch.compile, or by it in CUDA graphs.",
)
@click.option("--size", type=click.IntRange(16, 65536), default=8192, help="Of the peak's product.")
@click.option("--turns", type=click.IntRange(1, 1000), default=9, show_default=True)
@click.option("--output", type=FOLDER, help="Also write device.json, layers.csv and steps.csv.")
@click.option(
    "--calibrate",
    is_flag=True,
    help="Time only the step by which the cost of published results is said.",
)
def bench(device: str, output: Path | None, turns: int, calibrate: bool, **sizes: Any) -> None:
    """Measure a device: its peak, layers by rank up to break-even, and training steps of GPT-2 with MFU."""
    from lowrank.train.build import choose_device

    if calibrate:
        from lowrank.jobs.calibrate import WORDS, calibration_step
        from lowrank.processor import processor

        seconds, on = calibration_step(), processor(choose_device("cpu"))
        click.echo(f"{1000 * seconds:.2f} ms on {on}: {WORDS}.")
        return
    from lowrank.jobs.bench import bench as measure
    from lowrank.jobs.bench import show, write

    found = measure(choose_device(device), turns=turns, **sizes)
    click.echo(show(found))
    if output:
        write(found, output)


@click.command()
@click.option("--config", type=FILE, required=True, help="The configuration, config/<scale>.yaml.")
@click.option("--ledger", type=FILE, default=Path("config/claims.yaml"), show_default=True)
@click.option("--minutes", type=FiniteRange(0, 1e6, min_open=True), required=True)
@click.option(
    "--track", "tracks", multiple=True, help="Only this track; several times for several."
)
def study(config: Path, ledger: Path, minutes: float, tracks: tuple[str, ...]) -> None:
    """Train a configuration's cells for so many minutes, those first that its claims need most.

    In one process, without Snakemake, into the same files: a second call goes on, and so does the workflow.
    Calls side by side use several cores: each takes the next run that no other is at. Tables of the finished
    cells are written at the end, for `lowrank publish`; with `results_from: published` what is published is built on.
    """
    from lowrank.analysis.ledger import read_ledger
    from lowrank.experiment.config import read_config
    from lowrank.workflow.scale import Scale
    from lowrank.workflow.timed import train_for

    scale = Scale(read_config(config))
    if scale.said:
        click.echo(scale.said, err=True)
    tables = train_for(scale, read_ledger(ledger), minutes, click.echo, tracks)
    if tables:
        click.echo(
            f"Tables of what is finished are in {tables}. To publish them: lowrank publish --config "
            f"{scale.config_file} --ledger {ledger} --tables {tables} --output published/{scale.name}"
        )


MODEL_COMMANDS = (advise, bench, export, study)
