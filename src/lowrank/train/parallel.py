"""One run on several devices: all that the training code knows of them.

torchrun starts one process for each device. Each computes its share of every batch; gradients are
averaged. With "ddp" every process holds the whole model, with "fsdp" (torch's `fully_shard`)
parameters, gradients and optimiser state are cut along their first dimension, and each device holds
one slice. Every process calls the functions here at the same points; files are written by the first.
With one process each function gives back what it was given.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from filelock import FileLock, Timeout
from torch import Tensor, nn

from lowrank.errors import LowrankError
from lowrank.files import make_folder, writing
from lowrank.train.build import choose_device


@contextmanager
def session(device: str) -> Iterator[None]:
    """Join the processes that torchrun started; without torchrun nothing happens.

    More processes than devices are a LowrankError.
    """
    if not dist.is_torchelastic_launched() or int(os.environ["WORLD_SIZE"]) == 1:
        yield
        return
    backend = "gloo"
    if choose_device(device).type == "cuda":
        local, found = int(os.environ["LOCAL_WORLD_SIZE"]), torch.cuda.device_count()
        if local > found:
            raise LowrankError(f"devices: {local} were requested, but torch finds {found}.")
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        backend = "cpu:gloo,cuda:nccl"
    dist.init_process_group(backend)
    if not is_main():
        warnings.simplefilter("ignore")  # the first process says what all would
    yield
    # Only where all went well: with NCCL it waits for processes that may be waiting for this one.
    dist.destroy_process_group()


def world() -> int:
    """The number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """This process's number, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_main() -> bool:
    """Whether this is the process that writes files and shows progress."""
    return rank() == 0


def sharded(mode: str) -> bool:
    """Whether each device holds a slice of the model only, under this mode (ddp or fsdp)."""
    return world() > 1 and mode == "fsdp"


def barrier() -> None:
    """Wait until every process is here."""
    if world() > 1:
        dist.all_reduce(torch.zeros(1))


def wrap(
    model: nn.Module,
    blocks: Iterable[str],
    device: torch.device,
    compiled: bool = False,
    mode: str = "ddp",
) -> nn.Module:
    """The module to train through. With the mode "fsdp" the model is cut in place, and each of the named
    `blocks` is gathered, and compiled, by itself.

    Batch norm takes its statistics from the part at hand, that is batch / (devices x accumulation)
    examples: a run of a network with batch norm depends on how many parts a batch is computed in,
    whichever devices compute them. Nothing in the configuration changes that.
    """
    if not sharded(mode):
        if world() > 1:
            model = nn.parallel.DistributedDataParallel(model, forward_sync_buffers=False)
        return torch.compile(model) if compiled else model  # type: ignore[return-value]
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (world(),))
    for name in blocks:
        block = model.get_submodule(name)
        if compiled:
            block.compile(dynamic=False)  # shapes are fixed; dynamic ones fail in torch 2.13
        fully_shard(block, mesh=mesh)
    # Resharded also at the root, so that parameters are slices whenever no pass is under way.
    fully_shard(model, mesh=mesh, reshard_after_forward=True)
    return model


def communicate(model: nn.Module, now: bool) -> None:
    """Whether the backward pass to come averages gradients: of the parts of a batch only the last
    does. Sharded gradients are always averaged, for whole ones would not fit."""
    model = getattr(model, "_orig_mod", model)  # below torch.compile
    if isinstance(model, nn.parallel.DistributedDataParallel):
        model.require_backward_grad_sync = now


def mean(tensor: Tensor) -> Tensor:
    """The mean over the processes of a tensor each has."""
    if world() == 1:
        return tensor
    total = tensor.detach().clone()
    dist.all_reduce(total)
    return total / world()


def everywhere(answer: bool) -> bool:
    """Whether every process says so."""
    if world() == 1:
        return answer
    agreed = torch.tensor(int(answer))
    dist.all_reduce(agreed, dist.ReduceOp.MIN)
    return bool(agreed)


@torch.no_grad()
def share_(model: nn.Module) -> None:
    """Give every process the first one's model, slices left alone: equal seeds need not give equal
    decompositions. Running statistics are averaged."""
    if world() > 1:
        average_buffers_(model)
        for tensor in (*model.parameters(), *model.buffers()):
            if not _is_sharded(tensor):
                dist.broadcast(tensor, 0)


@torch.no_grad()
def average_buffers_(model: nn.Module) -> None:
    """Average running statistics: each process has gathered those of its share of the batches."""
    if world() > 1:
        for buffer in model.buffers():
            if buffer.is_floating_point():
                buffer.copy_(mean(buffer))


def vary_random_state(*key: int) -> None:
    """Let processes other than the first draw dropout masks of their own."""
    if not is_main():
        torch.manual_seed(hash((*key, rank())) % 2**63)


def full(tensor: Tensor) -> Tensor:
    """The whole of a tensor of which each device may hold a slice."""
    tensor = tensor.detach()
    return tensor.full_tensor() if _is_sharded(tensor) else tensor  # type: ignore[attr-defined]


def local(tensor: Tensor) -> Tensor:
    """The slice of a tensor that this device holds; the whole one if it is not cut."""
    return tensor.to_local() if _is_sharded(tensor) else tensor  # type: ignore[attr-defined]


def on_host(tensor: Tensor) -> Tensor:
    """The whole tensor, contiguous on the host of the first process; others get an empty one."""
    whole = full(tensor)
    return whole.cpu().contiguous() if is_main() else torch.empty(0)


def like(tensor: Tensor, reference: Tensor) -> Tensor:
    """A whole tensor, the same in every process, cut as `reference` is."""
    if not _is_sharded(reference):
        return tensor
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(reference, DTensor)
    tensor = tensor.to(reference.device)
    mesh, placements = reference.device_mesh, reference.placements
    return distribute_tensor(tensor, mesh, placements, src_data_rank=None)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a file lock for all processes. The first takes and releases it; all enter and leave
    together, so that what it wrote inside is there for all."""
    lock = FileLock(path)
    if world() == 1:
        _take(lock, -1)
    else:
        # Another run may hold it for hours: asking each minute keeps below the collectives' timeout.
        while not _as_main_sees(lambda: _take(lock, 60)):
            pass
    try:
        yield
        barrier()
    finally:
        lock.release()


@contextmanager
def held(path: Path, wait: bool = False) -> Iterator[bool]:
    """Hold a file lock if no other process does, or once it does not with `wait`; yields whether it is held."""
    make_folder(path.parent)
    lock = FileLock(path)
    mine = _take(lock, -1 if wait else 0)
    try:
        yield mine
    finally:
        lock.release()


def _take(lock: Any, seconds: float) -> bool:
    """Take the lock if it can be had within so many seconds (below zero: whenever it can be had)."""
    with writing(lock.lock_file):
        try:
            lock.acquire(timeout=seconds)
        except Timeout:
            return False
    return True


def _as_main_sees(question: Callable[[], bool]) -> bool:
    """The first process's answer, told to all."""
    answer = torch.tensor(int(is_main() and question()))
    dist.broadcast(answer, 0)
    return bool(answer)


def _is_sharded(tensor: Tensor) -> bool:
    # Asked by attribute: importing DTensor takes seconds, and a run on one device has none.
    return hasattr(tensor, "full_tensor")
