"""What a training step costs, counted, since clocks differ: operators, products and large tensors."""

from __future__ import annotations

import platform
import subprocess
import sys
from collections import Counter
from typing import Any

import pytest
import torch
from runs import FACTORS, image_run, language_run
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lowrank.experiment.build import build_model
from lowrank.experiment.cell import RunSpec
from lowrank.experiment.sections import DecaySpec, FactorSpec
from lowrank.models.networks import head
from lowrank.train.optimizer import Optimizer
from lowrank.train.step import train_step
from lowrank.train.task import make_task

PRODUCTS = ("aten.mm", "aten.addmm", "aten.addmm_", "aten.bmm", "aten.baddbmm")
CONVOLUTIONS = ("aten.convolution", "aten.convolution_backward")


class Counting(TorchDispatchMode):
    """Counts the calls of every operator and notes the elements of the largest tensor that one returned."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        self.calls[str(func._overloadpacket)] += 1
        sizes = [leaf.numel() for leaf in tree_leaves(found) if isinstance(leaf, Tensor)]
        self.largest = max([self.largest, *sizes])
        return found

    def of(self, names: tuple[str, ...]) -> int:
        return sum(self.calls[name] for name in names)


def step_of(spec: RunSpec, folder) -> Counting:
    """The operators of the third step of a run."""
    task = make_task(spec, folder, torch.device("cpu"))
    model = build_model(spec, task.outputs).train()
    if spec.training.channels_last:
        model.to(memory_format=torch.channels_last)
    decay = spec.factors.decay if spec.factors else None
    optimizer = Optimizer(model, spec.training, decay)
    for step in range(2):
        train_step(model, task, [task.batch(step)], optimizer, 0.01)
    batch = task.batch(2)
    with Counting() as counting:
        train_step(model, task, [batch], optimizer, 0.01)
    return counting


LAYERS = 4
"""Matrices of a block of GPT-2, one of which the small run has."""


@pytest.mark.filterwarnings("ignore:At their rank")
@pytest.mark.parametrize(
    ("factors", "products", "operators"),
    [(None, 3 * LAYERS + 3, 190), (FACTORS, 6 * LAYERS + 3, 230)],
)
def test_a_matrix_takes_three_products_a_step_and_a_pair_of_factors_six(
    factors, products, operators, text_folder
):
    """One forward, two backward; the head takes three. No product U V^T is formed."""
    if factors:
        factors = factors.model_copy(update={"decay": DecaySpec(kind="none")})
    counting = step_of(language_run(factors=factors), text_folder)
    assert counting.of(PRODUCTS) == products
    assert sum(counting.calls.values()) <= operators


@pytest.mark.filterwarnings("ignore:At their rank")
@pytest.mark.parametrize(("kind", "products"), [("l2", 0), ("frobenius", 4)])
def test_a_decay_takes_products_of_factors_alone(kind, products, text_folder):
    def count(decay: str) -> int:
        factors = FACTORS.model_copy(update={"decay": DecaySpec(kind=decay)})
        return step_of(language_run(factors=factors), text_folder).of(PRODUCTS)

    assert count(kind) - count("none") == products * LAYERS


def test_no_tensor_of_a_step_is_as_large_as_the_logits_of_a_batch(text_folder, monkeypatch):
    monkeypatch.setattr(head, "FEWEST", 8)
    monkeypatch.setattr(head, "PART", 1)
    counting = step_of(language_run(), text_folder)
    embedding = 300 * 16
    assert embedding <= counting.largest < 4 * 16 * 300


def test_a_whole_batch_takes_as_many_operators_as_two_examples(text_folder):
    two, many = (
        sum(step_of(language_run(training={"batch": batch}), text_folder).calls.values())
        for batch in (2, 8)
    )
    assert two == many


@pytest.mark.filterwarnings("ignore:At their rank")
@pytest.mark.parametrize("family", ["wide_resnet", "resnet"])
def test_a_1_x_1_kernel_is_a_product_and_factors_add_no_convolution(family, digits_folder):
    """The second factor of a kernel read by channels is 1 x 1, so as many convolutions remain."""
    dense = step_of(image_run(family), digits_folder)
    low = step_of(image_run(family, factors=FactorSpec(rank_fraction=0.5)), digits_folder)
    assert dense.of(CONVOLUTIONS) == low.of(CONVOLUTIONS) > 0
    assert dense.of(PRODUCTS) < low.of(PRODUCTS)


@pytest.mark.parametrize("run", [language_run(), image_run()])
def test_nothing_is_read_back_in_a_step_but_whether_its_norm_is_finite(run, folder_of):
    """A GPU would have to be waited for."""
    counting = step_of(run, folder_of(run))
    assert counting.calls["aten._local_scalar_dense"] <= 1


@pytest.mark.parametrize("run", ["spectral", "wrn", "resnet"])
def test_a_run_imports_no_library_that_takes_seconds(run, text_folder, digits_folder, tmp_path):
    folder = text_folder if run == "spectral" else digits_folder
    code = f"""
import sys
from pathlib import Path
sys.path.insert(0, "tests/train")
from runs import RUNS
from lowrank.train.run import ensure_run
ensure_run(RUNS[{run!r}], Path({str(folder)!r}), Path({str(tmp_path)!r}), "cpu")
heavy = {{"transformers", "datasets", "sklearn", "scipy", "matplotlib", "torch._dynamo"}} & set(sys.modules)
assert not heavy, heavy
"""
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="allocates as its own libc does")
def test_a_step_takes_its_memory_from_the_last_one(text_folder):
    """Without it each step gives megabytes back and faults them in again, hundreds of pages."""
    code = f"""
import resource
from pathlib import Path
import torch
from lowrank.experiment.cell import RunSpec
from lowrank.experiment.sections import ModelSpec, TrainingSpec
from lowrank.train.build import choose_device
from lowrank.train.loop import Watch, run_steps
from lowrank.train.task import make_task
from lowrank.train.trainer import Trainer
torch.set_num_threads(1)
model = ModelSpec(family="gpt2", width=64, depth=2, heads=2, context=64)
training = TrainingSpec(steps=100, batch=16, learning_rate=1e-3)
spec = RunSpec(track="language", model=model, training=training, seed=0)
run = Trainer(spec, make_task(spec, Path({str(text_folder)!r}), choose_device("cpu")), Path())
run_steps(run, 10, Watch())
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
run_steps(run, 20, Watch())
print((resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / 10)
"""
    command = [sys.executable, "-W", "ignore", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert float(done.stdout) < 50
