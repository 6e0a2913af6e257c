"""A checkpoint gives back all that a run needs, and nothing where it does not fit."""

from __future__ import annotations

import math
import os
import stat

import pytest
import torch
from torch import nn

from lowrank.errors import LowrankError
from lowrank.files import check_manifest
from lowrank.methods.base import Life
from lowrank.train import checkpoint


class Tied(nn.Module):
    """An embedding that is the head as well, and a norm with statistics."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.embedding = nn.Embedding(5, 3)
        self.norm = nn.BatchNorm1d(3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embedding.weight
        self.norm.running_mean.fill_(float(seed))


class Learnt(Life):
    """A method with ranks and tensors of its own."""

    def __init__(self, ranks: dict[str, int] | None = None) -> None:
        self.ranks = ranks or {}

    def record(self):
        return {"ranks": self.ranks} if self.ranks else {}

    def load_record(self, record):
        self.ranks = record["ranks"]

    def state(self):
        return {"support": torch.arange(3)} if self.ranks else {}


def saved(folder, step: int = 4, life: Life | None = None, name: str | None = None):
    path = folder / (name or f"checkpoint-{step:09d}")
    state = {"head.weight/exp_avg": torch.ones(5, 3), "head.weight/step": torch.tensor(7.0)}
    checkpoint.save(path, step, Tied(1), state, {"losses": [math.inf, 2.0]}, life or Learnt())
    return path


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "abc123"
    folder.mkdir()
    return folder


def test_a_tied_weight_stands_once_and_tensors_are_contiguous():
    model = Tied()
    model.embedding.weight.data = torch.arange(15.0).view(3, 5).T
    tensors = checkpoint.model_tensors(model)
    assert set(tensors) == {
        "embedding.weight",
        *(f"norm.{leaf}" for leaf in ("weight", "bias", "running_mean", "running_var")),
        "norm.num_batches_tracked",
    }
    assert all(tensor.is_contiguous() for tensor in tensors.values())
    assert tensors["embedding.weight"].equal(model.embedding.weight)


def test_weights_state_record_and_random_numbers_come_back(run):
    path = saved(run)
    expected = torch.rand(3)
    model = Tied(2)
    torch.manual_seed(99)
    step, state, record = checkpoint.load(path, model)
    assert torch.rand(3).equal(expected)
    assert step == 4
    assert {name: tensor.flatten()[0].item() for name, tensor in state.items()} == {
        "head.weight/exp_avg": 1.0,
        "head.weight/step": 7.0,
    }
    assert record == {"losses": [math.inf, 2.0]}
    assert all(tensor.equal(Tied(1).state_dict()[n]) for n, tensor in model.state_dict().items())
    assert model.head.weight is model.embedding.weight


def test_a_methods_record_stands_in_the_manifest_and_its_tensors_beside_the_optimisers(run):
    path = saved(run, life=Learnt({"head": 2}))
    manifest = check_manifest(path)
    assert (manifest["step"], manifest["run"]) == (4, "abc123")
    assert checkpoint.recorded(Learnt(), manifest).ranks == {"head": 2}
    _, state, _ = checkpoint.load(path, Tied())
    assert set(state) == {"head.weight/exp_avg", "head.weight/step", "method/support"}
    own = checkpoint.method_state(state)
    assert {name: tensor.tolist() for name, tensor in own.items()} == {"support": [0, 1, 2]}


def test_a_method_without_a_record_leaves_none(run):
    manifest = check_manifest(saved(run))
    assert "method" not in manifest
    assert checkpoint.recorded(Learnt({"kept": 1}), manifest).ranks == {"kept": 1}


def test_a_checkpoint_of_another_run_or_step_is_not_loaded(run, tmp_path):
    path = saved(run)
    other = tmp_path / "another"
    other.mkdir()
    moved = path.rename(other / path.name)
    with pytest.raises(LowrankError, match="it is step 4 of run abc123"):
        checkpoint.load(moved, Tied())
    renamed = moved.rename(run / "checkpoint-000000005")
    with pytest.raises(LowrankError, match="it is step 4 of run abc123"):
        checkpoint.load(renamed, Tied())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("norm.bias"), "'norm.bias' is on one side only"),
        (lambda t: t.update(extra=torch.ones(1)), "'extra' is on one side only"),
        (lambda t: t.update({"norm.bias": torch.ones(4)}), "size mismatch for norm.bias"),
    ],
)
def test_tensors_that_do_not_fit_the_model_are_named_with_their_source(change, message):
    tensors = checkpoint.model_tensors(Tied())
    change(tensors)
    with pytest.raises(LowrankError, match=f"here does not fit the model: .*{message}"):
        checkpoint.load_model_tensors(Tied(), tensors, "here")


def test_weights_of_a_file_are_those_of_the_model_and_damage_is_named(tmp_path):
    path = tmp_path / "model.safetensors"
    with pytest.raises(LowrankError, match=r"model\.safetensors is missing"):
        checkpoint.load_weights(path)
    checkpoint.save_weights(path, Tied(3))
    found = checkpoint.load_weights(path)
    assert all(found[n].equal(t) for n, t in checkpoint.model_tensors(Tied(3)).items())
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(LowrankError, match=r"model\.safetensors"):
        checkpoint.load_weights(path)


def test_who_may_read_the_files_is_for_the_umask_to_say(run):
    for mask, mode in ((0o022, 0o644), (0o077, 0o600)):
        before = os.umask(mask)
        try:
            path = saved(run, step=mask + 1)
        finally:
            os.umask(before)
        for name in ("model.safetensors", "optimizer.safetensors"):
            assert stat.S_IMODE((path / name).stat().st_mode) == mode


def test_checkpoints_are_found_by_name_earliest_first_and_all_but_forks_and_the_kept_one_go(run):
    assert checkpoint.saved(run / "none") == []
    for step in (12, 3, 100):
        checkpoint.checkpoint_path(run, step).mkdir()
    checkpoint.fork_path(run, 7).mkdir()
    for other in ("checkpoint-12", "fork-000000001x", "lock", "checkpoint-000000004.part"):
        (run / other).mkdir()
    steps = [(step, path.name) for step, path in checkpoint.saved(run)]
    assert steps == [
        (3, "checkpoint-000000003"),
        (7, "fork-000000007"),
        (12, "checkpoint-000000012"),
        (100, "checkpoint-000000100"),
    ]
    checkpoint.prune(run, keep=12)
    assert [step for step, _ in checkpoint.saved(run)] == [7, 12]
    checkpoint.prune(run)
    assert [step for step, _ in checkpoint.saved(run)] == [7]
    assert (run / "lock").is_dir()
