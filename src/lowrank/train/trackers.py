"""Histories as they grow, for TensorBoard and Weights & Biases beside the run's own tables.

Nothing is imported unless a configuration asks for it, and whatever a tracker does wrong costs the run nothing:
the tracker is left out from there on, in one line.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from lowrank.errors import cause
from lowrank.experiment.cell import RunSpec
from lowrank.train import parallel

Row = Mapping[str, Any]


class Tracker(Protocol):
    """What a tracker is told of one run."""

    def log(self, row: Row) -> None:
        """A row of the history."""

    def close(self) -> None:
        """There are no more."""


class TensorBoard:
    """Scalars in an event file."""

    def __init__(self, spec: RunSpec, digest: str, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer: Any = SummaryWriter(str(folder / spec.track / name_of(spec, digest)))  # type: ignore[no-untyped-call]
        self.writer.add_text("spec", f"```json\n{spec.model_dump_json(indent=2)}\n```")

    def log(self, row: Row) -> None:
        """One scalar a column."""
        for key, value in row.items():
            if key != "step":
                self.writer.add_scalar(key, value, row["step"])

    def close(self) -> None:
        """Write what is left."""
        self.writer.close()


class WeightsAndBiases:
    """A run of Weights & Biases, in the mode that its own variables say (WANDB_MODE=offline)."""

    def __init__(self, spec: RunSpec, digest: str, folder: Path) -> None:
        import wandb

        folder.mkdir(parents=True, exist_ok=True)
        self.run = wandb.init(
            project="lowrank",
            id=digest,
            name=name_of(spec, digest),
            group=spec.track,
            config=spec.model_dump(mode="json"),
            dir=str(folder),
            resume="allow",
            settings=wandb.Settings(silent=True, console="off"),
        )

    def log(self, row: Row) -> None:
        """The row at its step."""
        self.run.log({k: v for k, v in row.items() if k != "step"}, step=row["step"])

    def close(self) -> None:
        """Send what is left."""
        self.run.finish()


TRACKERS: dict[str, Callable[[RunSpec, str, Path], Tracker]] = {
    "tensorboard": TensorBoard,
    "wandb": WeightsAndBiases,
}


def name_of(spec: RunSpec, digest: str) -> str:
    """`factored-spectral-r0.5-rate0.01-seed0-1f3a5c`: what tells runs of a track apart."""
    factors = spec.factors
    arm = f"-{factors.init}-r{factors.rank_fraction:g}" if factors else ""
    rate = spec.training.learning_rate or 0.0
    return f"{spec.method}{arm}-rate{rate:g}-seed{spec.seed}-{digest[:6]}"


@dataclass
class _Session:
    names: tuple[str, ...] = ()
    folder: Path = Path()
    left_out: set[str] = field(default_factory=set)


_session = _Session()


@contextmanager
def session(names: Iterable[str], folder: Path) -> Iterator[None]:
    """Runs within are followed by these trackers, which keep their files in `folder/<name>`."""
    global _session
    before, _session = _session, _Session(tuple(names), folder)
    try:
        yield
    finally:
        _session = before


@contextmanager
def following(spec: RunSpec, digest: str) -> Iterator[Callable[[Row], None]]:
    """A function to be told each row of a run's history."""
    own = _session
    names = own.names if parallel.is_main() else ()
    opened: dict[str, Tracker] = {}

    def each(act: Callable[[str], None], among: Iterable[str]) -> None:
        for name in [name for name in among if name not in own.left_out]:
            try:
                act(name)
            except Exception as error:
                own.left_out.add(name)
                print(f"The tracker {name} is left out: {cause(error)}.", flush=True)

    def begin(name: str) -> None:
        opened[name] = TRACKERS[name](spec, digest, own.folder / name)

    each(begin, names)
    try:
        yield lambda row: each(lambda name: opened[name].log(row), opened)
    finally:
        each(lambda name: opened[name].close(), opened)
