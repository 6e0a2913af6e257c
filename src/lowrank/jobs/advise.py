"""What `lowrank advise` measures, says and writes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lowrank.api import advise_model
from lowrank.api.advise import advise, table
from lowrank.api.advise_words import in_short
from lowrank.api.timing import measure_device
from lowrank.files import write_json
from lowrank.train.result import processor

Advised = tuple[str, nn.Module, Any, nn.Module | None]
"""A title, a model, what it takes, and the model of transformers that writes tokens, if that is another one."""

LAYERS = "Each kind of layer by itself, forward and backward:"
WHOLE = (
    "The whole model, a training step and the writing of tokens; rank as in lowrank.factorize(model, rank=...), "
    "a share of each layer's smaller side:"
)


def measure(
    models: Iterable[Advised],
    device: torch.device,
    turns: int,
    size: int,
    say: Callable[[str], None],
    output: Path | None = None,
) -> None:
    """Time each model, say the tables, and write the JSON. `size` is of the product that tells the peak."""
    models = iter(models)
    first = next(models)  # what is wrong with it is said before anything is timed
    on = measure_device(device, size, turns, 0.05, torch.float32)
    name, threads = processor(device), torch.get_num_threads()
    say(
        f"{name}, {threads} thread{'s' * (threads > 1)}, float32: at best {on.flops / 1e9:.0f} GFLOP/s and "
        f"{on.bandwidth / 1e9:.1f} GB/s, which are the roofline.\n"
    )
    found = []
    for title, model, batch, writer in chain([first], models):
        say(f"{title}\n")
        layers = advise(model.to(device), batch, turns=turns, on=on)
        say(f"{LAYERS}\n\n{table(layers)}\n")
        writer = writer.to(device) if writer is not None else None
        whole = advise_model.advise_model(model, batch, writer=writer, turns=turns)
        words = in_short(layers, whole)
        say(f"{WHOLE}\n\n{advise_model.table(whole)}\n\nIn short: {' '.join(words)}\n")
        rows = [{**dataclasses.asdict(a), "pays_up_to": a.pays_up_to} for a in layers]
        whole_rows = [dataclasses.asdict(one) for one in whole]
        found.append({"title": title, "words": words, "layers": rows, "whole": whole_rows})
    if output is not None:
        facts: dict[str, Any] = {"processor": name, "threads": threads, "torch": torch.__version__}
        facts |= {"flops": on.flops, "bandwidth": on.bandwidth}
        write_json(output, {**facts, "models": found})
