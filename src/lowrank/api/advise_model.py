"""Does it pay for a whole model? Training steps, memory and the writing of tokens, dense against factorised."""

from __future__ import annotations

import copy
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lowrank.api.advise_words import NONE, markdown
from lowrank.api.timing import Timed, take_turns
from lowrank.api.training import parameter_groups
from lowrank.api.transform import factorize, moved, run
from lowrank.factor.convert import evaluating, parameter_count

FRACTIONS = (0.125, 0.25, 0.5)
TOKENS = 8
"""Written in one call that is timed, after a prompt of one."""


@dataclass(frozen=True)
class Whole:
    """A model with its layers at one rank fraction, beside the dense one."""

    fraction: float | None
    """None: dense."""
    parameters: int
    seconds: float
    """Of a training step: forward, backward, AdamW; median over the turns."""
    speed: float
    """Times the dense model's; median over the turns."""
    state_bytes: int
    """Weights, gradients and AdamW's moments."""
    peak_bytes: int | None
    """What a step allocates at most (CUDA alone)."""
    token_seconds: float | None = None
    """Of a token written greedily at batch size 1, keys and values cached; None: it writes none."""
    token_speed: float | None = None
    """Times the dense model's."""


def advise_model(
    model: nn.Module,
    batch: Any,
    *,
    writer: nn.Module | None = None,
    layers: Iterable[str] | None = None,
    exclude: Iterable[str] = (),
    fractions: Sequence[float] = FRACTIONS,
    turns: int = 9,
    seconds: float = 0.02,
) -> list[Whole]:
    """Time whole training steps on `batch`, of the dense model and then at each rank fraction.

    The loss is the output's own where it has one, else the mean square of its first tensor. `writer` is the
    model of transformers that writes tokens, if that is another one than `model`, with the same layers. Dense
    and factorised take turns; no more than two copies are there at once. The model is not changed.
    """
    batch = moved(batch, model)
    device = next(model.parameters()).device
    writes = getattr(model, "can_generate", lambda: False)()
    writer = writer or (model if writes else None)
    dense = _step(copy.deepcopy(model), batch)
    found = []
    for fraction in (None, *fractions):
        low = copy.deepcopy(model)
        if fraction is not None:
            factorize(low, fraction, layers=layers, exclude=exclude, init="he")
        timed = {"low": _step(low, batch), **({"dense": dense} if fraction else {})}
        peak = _peak(timed["low"], device)
        taken = take_turns(timed, turns, seconds, device)
        state = sum(4 * p.numel() * p.element_size() for p in low.parameters() if p.requires_grad)
        token: tuple[float, float] | tuple[None, None] = (None, None)
        if writer is not None:
            other = copy.deepcopy(writer)
            if fraction is not None:
                factorize(other, fraction, layers=layers, exclude=exclude, init="he")
            pair = {"low": _writing(other), **({"dense": _writing(writer)} if fraction else {})}
            whole, speed = _middle(take_turns(pair, turns, seconds, device))
            token = whole / TOKENS, speed
        found.append(Whole(fraction, parameter_count(low), *_middle(taken), state, peak, *token))
    return found


def _middle(taken: dict[str, list[float]]) -> tuple[float, float]:
    """Seconds and times the dense one's speed: medians over the turns."""
    low = taken["low"]
    ratios = [dense / own for dense, own in zip(taken.get("dense", low), low, strict=True)]
    return statistics.median(low), statistics.median(ratios)


def _step(model: nn.Module, batch: Any) -> Timed:
    model.train()
    optimizer = torch.optim.AdamW(parameter_groups(model), lr=1e-6)

    def step() -> None:
        _loss(run(model, batch)).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def _loss(output: Any) -> Tensor:
    own = getattr(output, "loss", None)
    if isinstance(own, Tensor):
        return own
    first = output if isinstance(output, Tensor) else next(iter(output.values()))
    return first.float().square().mean()


def _peak(step: Timed, device: torch.device) -> int | None:
    if device.type != "cuda":
        return None
    step()
    torch.cuda.reset_peak_memory_stats(device)
    step()
    return torch.cuda.max_memory_allocated(device)


def _writing(model: Any) -> Timed:
    prompt = torch.ones((1, 1), dtype=torch.long, device=next(model.parameters()).device)
    options: dict[str, Any] = {
        "max_new_tokens": TOKENS,
        "min_new_tokens": TOKENS,
        "do_sample": False,
    }
    options |= {"attention_mask": torch.ones_like(prompt), "pad_token_id": 0}

    def write() -> None:
        with torch.no_grad(), evaluating(model):
            model.generate(prompt, **options)

    return write


def table(found: Iterable[Whole]) -> str:
    """As Markdown: a row a rank, as a share of each layer's smaller side. A speed of 2 is half the dense time."""
    head = ["rank", "parameters", "step, ms", "speed, times dense", "weights, gradients, AdamW, MB"]
    head += ["peak, MB", "token, ms", "speed of tokens"]
    rows = []
    for one in found:
        rank = "dense" if one.fraction is None else f"{one.fraction:g}"
        peak = NONE if one.peak_bytes is None else f"{one.peak_bytes / 1e6:.0f}"
        token, speed = NONE, NONE
        if one.token_seconds is not None and one.token_speed is not None:
            token, speed = f"{one.token_seconds * 1e3:.2f}", f"{one.token_speed:.2f}"
        row = (rank, f"{one.parameters:,}", f"{one.seconds * 1e3:.2f}", f"{one.speed:.2f}")
        rows.append((*row, f"{one.state_bytes / 1e6:.3g}", peak, token, speed))
    return markdown(head, rows)
