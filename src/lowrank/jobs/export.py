"""A finished run as a folder that transformers reads."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from lowrank.api.exchange import declare, save_pretrained
from lowrank.data.text import TOKENIZER
from lowrank.errors import LowrankError
from lowrank.experiment.cell import RunSpec
from lowrank.factor.convert import effective_weights, factors, low_rank_layers, place
from lowrank.factor.layers import from_dense
from lowrank.files import check_manifest, read_json
from lowrank.models import family
from lowrank.parquet import read_table
from lowrank.train.run import FinishedRun


def export_run(cell: Path, output: Path, seed: int | None = None, dense: bool = False) -> None:
    """Write the model of one run of a cell's folder (`<results>/cells/<track>/<arm>`) to `output`.

    `seed` None is the first. `dense` multiplies factors out. A family that transformers does not have,
    a seed that was not run, a run that diverged, or a method whose layers have no such form raises
    LowrankError, before anything is written.
    """
    results, track = cell.parents[2], cell.parent.name
    runs = read_table(cell / "runs.parquet").sort_values("seed")
    wanted = runs if seed is None else runs[runs["seed"] == seed]
    if wanted.empty:
        seeds = ", ".join(str(value) for value in runs["seed"])
        raise LowrankError(f"{cell}: seed {seed} was not run; there are {seeds}.")
    row = wanted.iloc[0]
    folder = results / "runs" / str(row["digest"])
    check_manifest(folder)
    spec = RunSpec.model_validate(read_json(folder / "spec.json"))
    record = family(spec.model.family)
    if record.transformers is None:
        raise LowrankError(
            f"{cell}: transformers has no {record.label}; its weights are {folder}/model.safetensors."
        )
    prepared = results / "data" / track
    manifest = check_manifest(prepared)
    outputs = manifest["vocabulary"] if record.task == "language" else len(manifest["classes"])
    trained = FinishedRun(folder, spec).model(outputs)
    model = record.transformers(spec.model, outputs)
    _fill(model, trained, dense, cell)
    save_pretrained(model, output) if factors(model) else model.save_pretrained(output)
    if record.task == "language":
        from transformers import PreTrainedTokenizerFast

        tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(prepared / TOKENIZER))
        tokenizer.save_pretrained(output)


def _fill(model: nn.Module, trained: nn.Module, dense: bool, cell: Path) -> None:
    """Give the model the trained one's weights, factorised in the same layers or multiplied out."""
    weights = trained.state_dict()
    others = [name for name in low_rank_layers(trained) if name not in factors(trained)]
    if dense or not factors(trained):
        multiplied = effective_weights(trained)
        if multiplied is None:
            raise LowrankError(
                f"{cell}: its layers have no dense weight, so there is no dense model."
            )
        weights = multiplied
    elif others:
        raise LowrankError(
            f"{cell}: {others[0]} is more than U V^T, which is all that can be saved: use --to dense."
        )
    else:
        for name, layer in factors(trained).items():
            new = from_dense(
                model.get_submodule(name), layer.rank, getattr(layer, "matricisation", "channel")
            )
            new.bias = model.get_submodule(name).bias  # type: ignore[assignment]
            place(model, name, new)
        declare(model)
    model.load_state_dict({name: value.contiguous() for name, value in weights.items()})
