"""What a device makes of factors: its rooflines, layers by rank, and training steps of GPT-2 with their MFU.

Peak FLOPs and bandwidth are measured first, by a large product and a large copy, in the precision of
training; every other number stands beside what they allow. A layer's bound is the larger of FLOPs over peak
and bytes over bandwidth, summed over its bare products, forward and backward.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from lowrank import models
from lowrank.api.timing import Device, measure_device, take_turns
from lowrank.experiment.sections import ModelSpec, TrainingSpec
from lowrank.factor.convert import factorize_model
from lowrank.factor.flops import forward_flops
from lowrank.factor.layers import FactorizedLinear
from lowrank.files import atomic, make_folder, write_json
from lowrank.optimizers.base import standard_groups
from lowrank.train.optimizer import Optimizer
from lowrank.train.result import provenance
from lowrank.train.step import train_step


def ranks_to_break_even(inputs: int, outputs: int) -> list[int]:
    """16, doubled as long as factors are smaller than the matrix, and the last multiple of 16 that is."""
    even = inputs * outputs // (inputs + outputs) // 16 * 16
    ranks = [16 * 2**power for power in range(20) if 16 * 2**power < even]
    return [*ranks, even] if even else []


def layers(
    on: Device, widths: Iterable[int], rows: int, turns: int, seconds: float
) -> Iterator[dict[str, Any]]:
    """One row a layer of GPT-2's shapes and rank: dense first, forward and backward."""
    for width in widths:
        for inputs, outputs in ((width, width), (width, 4 * width)):
            x = torch.randn(rows, inputs, device=on.device, dtype=on.dtype, requires_grad=True)
            place: Any = {"device": on.device, "dtype": on.dtype}
            timed: dict[int, Callable[[], Any]] = {
                0: _both_passes(nn.Linear(inputs, outputs, **place), x)
            }
            for rank in ranks_to_break_even(inputs, outputs):
                low = FactorizedLinear(inputs, outputs, rank, **place)
                low.set_factors(torch.randn(outputs, rank), torch.randn(inputs, rank))
                timed[rank] = _both_passes(low, x)
            taken = take_turns(timed, turns, seconds, on.device)
            for rank, found in taken.items():
                sizes = (inputs, rank, outputs) if rank else (inputs, outputs)
                flops = sum(6 * rows * a * b for a, b in pairwise(sizes))
                middle = statistics.median(found)
                yield {
                    "inputs": inputs,
                    "outputs": outputs,
                    "rank": rank or None,
                    "milliseconds": 1e3 * middle,
                    "speed": statistics.median(d / s for d, s in zip(taken[0], found, strict=True)),
                    "kept_flops": flops / (6 * rows * inputs * outputs),
                    "utilisation": flops / middle / on.flops,
                    "of_bound": on.bound(rows, sizes) / middle,
                }


def _both_passes(layer: nn.Module, x: Tensor) -> Callable[[], Any]:
    gradient = torch.randn_like(layer(x))
    parameters = [x, *layer.parameters()]
    return lambda: torch.autograd.grad(layer(x), parameters, gradient)


class _Tokens:
    """A task of random tokens that lie on the device."""

    def __init__(self, device: torch.device, spec: ModelSpec, tokens: int, batch: int) -> None:
        self.device, self.cuda = device, device.type == "cuda"
        self.tokens = torch.randint(tokens, (batch, int(spec.context or 0) + 1), device=device)

    def loss(self, model: nn.Module, batch: Tensor) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.cuda):
            return model(batch[:, :-1], batch[:, 1:])


def steps(
    on: Device,
    widths: Iterable[int],
    *,
    depth: int,
    context: int,
    batch: int,
    tokens: int,
    fractions: Sequence[float],
    modes: Sequence[str],
    turns: int,
    seconds: float,
) -> Iterator[dict[str, Any]]:
    """One row a GPT-2 and mode: whole training steps, dense first, with AdamW and clipping; as
    written (`eager`), by torch.compile (`compile`), or by it within CUDA graphs (`graphs`).

    `mfu` is the FLOPs of three forward passes over time and peak; `peak_memory_bytes` what the step
    allocates at most (CUDA alone), `state_bytes` weights, gradients and moments.
    """
    for width in widths:
        spec = ModelSpec(
            family="gpt2", width=width, depth=depth, heads=max(1, width // 64), context=context
        )
        for mode in modes:
            dense: list[float] = []
            for fraction in (None, *fractions):
                run, flops, state = training_step(on, spec, tokens, batch, fraction, mode)
                run()
                if on.device.type == "cuda":
                    torch.cuda.reset_peak_memory_stats()
                taken = take_turns({0: run}, turns, seconds, on.device)[0]
                dense = dense or taken
                middle = statistics.median(taken)
                yield {
                    "width": width,
                    "mode": mode,
                    "rank_fraction": fraction,
                    "milliseconds": 1e3 * middle,
                    "tokens_per_second": batch * context / middle,
                    "speed": statistics.median(dense) / middle,
                    "mfu": 3 * batch * flops / middle / on.flops,
                    "state_bytes": state,
                    "peak_memory_bytes": (
                        torch.cuda.max_memory_allocated() if on.device.type == "cuda" else None
                    ),
                }


def training_step(
    on: Device, spec: ModelSpec, tokens: int, batch: int, fraction: float | None, mode: str
) -> tuple[Callable[[], Any], int, int]:
    """A training step, the forward FLOPs of one example, and the bytes of training state."""
    torch.manual_seed(0)
    family = models.family(spec.family)
    model = family.build(spec, tokens).to(on.device)
    if fraction is not None:
        names = {target.name: target.scale for target in family.targets(model)}
        factorize_model(model, names, rank_fraction=fraction)
    task: Any = _Tokens(on.device, spec, tokens, batch)
    flops = forward_flops(model, task.tokens[:1, :-1])
    training = TrainingSpec(steps=1, batch=batch)
    optimizer = Optimizer(model, training, None, standard_groups(model, training))
    forward: Any = model
    if mode != "eager":
        forward = torch.compile(model, mode="reduce-overhead" if mode == "graphs" else None)

    def run() -> None:
        train_step(forward, task, [task.tokens], optimizer, 1e-4)

    run()
    return run, flops, optimizer.state_bytes()


@dataclass(frozen=True)
class Bench:
    """What was measured: the device, a table of layers and one of training steps."""

    device: Device
    layers: pd.DataFrame
    steps: pd.DataFrame


def bench(
    device: torch.device,
    widths: Sequence[int],
    *,
    depth: int,
    context: int,
    batch: int,
    tokens: int,
    modes: Sequence[str],
    size: int,
    turns: int,
    fractions: Sequence[float] = (0.25, 0.5, 0.62),
    seconds: float = 0.05,
) -> Bench:
    """Measure a device. `size` is of the product that tells its peak, layers see batch x context rows,
    `seconds` is how long each contestant runs in a turn."""
    on = measure_device(device, size, turns, seconds)
    rows = layers(on, widths, batch * context, turns, seconds)
    whole = steps(
        on,
        widths,
        depth=depth,
        context=context,
        batch=batch,
        tokens=tokens,
        fractions=fractions,
        modes=modes,
        turns=turns,
        seconds=seconds,
    )
    return Bench(on, pd.DataFrame(rows), pd.DataFrame(whole))


def show(found: Bench) -> str:
    """The device in a line, and both tables."""
    on = found.device
    name = torch.cuda.get_device_name() if on.device.type == "cuda" else "CPU"
    precision = str(on.dtype).removeprefix("torch.")
    line = (
        f"{name}, {precision}: {on.flops / 1e12:.3g} TFLOP/s, {on.bandwidth / 1e9:.3g} GB/s; "
        f"a product of fewer than {on.flops / on.bandwidth:.0f} FLOPs a byte waits for memory."
    )
    tables = (
        table.to_string(index=False, float_format="%.3g") for table in (found.layers, found.steps)
    )
    return "\n\n".join([line, *tables])


def write(found: Bench, folder: Path) -> None:
    """device.json, layers.csv and steps.csv."""
    make_folder(folder)
    facts = {"flops": found.device.flops, "bandwidth": found.device.bandwidth}
    write_json(folder / "device.json", {**provenance(found.device.device), **facts})
    for name in ("layers", "steps"):
        with atomic(folder / f"{name}.csv") as temporary:
            getattr(found, name).to_csv(temporary, index=False)
