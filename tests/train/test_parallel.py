"""Runs on two processes (gloo, on the processor) end where one process ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from parallel_worker import CASES, DIVERGED, PLAIN, RESUMED, STOP, WHOLE, data_of
from runs import language_run, write_config
from safetensors.torch import load_file

from lowrank.errors import LowrankError
from lowrank.experiment.build import build_model
from lowrank.models import blocks, family
from lowrank.train import checkpoint
from lowrank.train.build import choose_device
from lowrank.train.run import ensure_run
from lowrank.train.task import make_task

MODES = ("ddp", "fsdp")
FORK = f"fork-{STOP:09d}"


def torchrun(*arguments: object) -> subprocess.CompletedProcess:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("WORLD_SIZE", None)
    command = [*launcher, *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


def in_parts(spec, parts: int):
    """The run in one process that computes each batch in so many parts."""
    training = spec.training.model_copy(update={"accumulation": parts})
    return spec.model_copy(update={"training": training})


def name_of(spec, data: Path) -> str:
    return spec.identity(make_task(spec, data, choose_device("cpu")).digest)


def difference(left: dict, right: dict) -> float:
    """The largest difference between two sets of tensors, in norm, relative to each tensor's norm: where one
    entry's gradient is zero but for rounding, which differs between processors, Adam still moves it.

    Left out are running statistics, which one process updates once a part, and the bias of
    attention: softmax does not see a bias of keys, so Adam makes steps out of its rounding errors.
    """
    assert left.keys() == right.keys()
    odd = ("running_", "num_batches", "c_attn.bias")
    return max(
        float(
            (left[name] - right[name]).double().norm() / left[name].double().norm().clamp_min(1e-30)
        )
        for name in left
        if not any(word in name for word in odd)
    )


@pytest.fixture(scope="module")
def pairs(text_folder, digits_folder, tmp_path_factory):
    """The folder in which two processes have trained every case in both modes."""
    folder = tmp_path_factory.mktemp("pairs")
    for mode in MODES:
        ensure_run(RESUMED, text_folder, folder / mode / "one-to-two", "cpu", until=STOP)
    worker = Path(__file__).with_name("parallel_worker.py")
    done = torchrun(worker, text_folder, digits_folder, folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def singles(text_folder, digits_folder, tmp_path_factory):
    """A function from a case to its run in one process, in the same parts as on two."""
    folder = tmp_path_factory.mktemp("singles")

    def train(case: str):
        spec = in_parts(CASES[case], 2 * CASES[case].training.accumulation)
        return ensure_run(spec, data_of(spec, text_folder, digits_folder), folder, "cpu")

    return train


@pytest.mark.parametrize(
    ("case", "mode"), [(c, m) for c in CASES for m in MODES if m == "ddp" or c not in WHOLE]
)
def test_two_processes_train_what_one_does(
    case, mode, pairs, singles, text_folder, digits_folder, record_property
):
    """Losses, gradient norms, probes, spectra and weights, to float tolerance. Running statistics
    of batch norm are left out: one process updates them once a part."""
    one = singles(case)
    data = data_of(CASES[case], text_folder, digits_folder)
    two = ensure_run(CASES[case], data, pairs / mode, "cpu")  # found, not trained
    left, right = one.table("history"), two.table("history")
    for column in ("train_loss", "gradient_norm"):
        np.testing.assert_allclose(left[column], right[column], rtol=2e-5)
    if "wrn" not in case and "resnet" not in case:
        np.testing.assert_allclose(left["validation_loss"], right["validation_loss"], rtol=2e-5)
    for table, columns in (
        ("layers", ["product_norm", "update_norm", "effective_rank"]),
        ("spectra", ["singular_value"]),
    ):
        left, right = one.table(table), two.table(table)
        assert left["layer"].tolist() == right["layer"].tolist()
        numbers = (side[columns].to_numpy(float) for side in (left, right))
        np.testing.assert_allclose(*numbers, rtol=2e-3)
    relative = difference(*(load_file(run.folder / "model.safetensors") for run in (one, two)))
    losses = [run.table("history")["train_loss"] for run in (one, two)]
    loss_difference = float((losses[0] / losses[1] - 1).abs().max())
    record_property("differences", [loss_difference, relative])
    print(f"{case} {mode}: losses {loss_difference:.1e}, weights {relative:.1e}")
    assert relative < 1e-4
    result = two.result
    assert result["devices"] == 2
    for key in ("parameters", "flops_per_position", "state_bytes", "kept_parameters"):
        assert result[key] == one.result[key]


@pytest.mark.parametrize("mode", MODES)
def test_running_statistics_are_gathered_from_all_processes(mode, pairs, digits_folder, tmp_path):
    """After one step, where batch norm stands first: the mean of both halves' means is the whole
    batch's."""
    ensure_run(PLAIN, digits_folder, tmp_path, "cpu", until=1)
    one, two = (
        load_file(cache / name_of(PLAIN, digits_folder) / f"fork-{1:09d}" / "model.safetensors")
        for cache in (tmp_path, pairs / mode / "plain")
    )
    name = "blocks.0.bn1.running_mean"
    np.testing.assert_allclose(one[name], two[name], rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("mode", MODES)
def test_checkpoints_of_two_processes_are_the_files_that_one_writes(
    mode, pairs, text_folder, tmp_path
):
    ensure_run(RESUMED, text_folder, tmp_path, "cpu", until=STOP)
    name = name_of(RESUMED, text_folder)
    one, two = tmp_path / name / FORK, pairs / mode / "stopped" / name / FORK
    assert {path.name for path in one.iterdir()} == {path.name for path in two.iterdir()}
    for file in ("model.safetensors", "optimizer.safetensors"):
        left, right = (load_file(folder / file) for folder in (one, two))
        assert list(left) == list(right)
        described = [{k: (v.shape, v.dtype) for k, v in side.items()} for side in (left, right)]
        assert described[0] == described[1]
        left, right = ({k: v.float() for k, v in side.items()} for side in (left, right))
        assert difference(left, right) < 1e-4


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("way", ["two-to-one", "one-to-two"])
def test_a_run_goes_on_with_another_number_of_processes(way, mode, pairs, text_folder, tmp_path):
    """Stopped after the switch to factors, so that carried moments and the decay go on too."""
    unbroken = ensure_run(RESUMED, text_folder, tmp_path, "cpu")
    cache = pairs / mode / ("stopped" if way == "two-to-one" else way)
    # In the cache of one-to-two the run is finished; in the other it goes on here, with one process.
    assert (cache / name_of(RESUMED, text_folder) / "manifest.json").is_file() == (
        way == "one-to-two"
    )
    resumed = ensure_run(RESUMED, text_folder, cache, "cpu")
    left, right = (load_file(run.folder / "model.safetensors") for run in (unbroken, resumed))
    assert difference(left, right) < 1e-4
    losses = [run.table("history")["train_loss"] for run in (unbroken, resumed)]
    np.testing.assert_allclose(*losses, rtol=2e-5)
    assert len(losses[1]) == 6


def test_sharded_devices_hold_slices_and_others_the_whole(pairs):
    facts = {
        mode: [
            json.loads((pairs / f"{mode}-{rank}.json").read_text(encoding="utf-8"))
            for rank in (0, 1)
        ]
        for mode in MODES
    }
    assert all(fact["held"] == fact["rows"] for fact in facts["ddp"])
    assert sum(fact["held"] for fact in facts["fsdp"]) == facts["fsdp"][0]["rows"]
    assert all(fact["held"] < fact["rows"] for fact in facts["fsdp"])


def test_all_processes_see_what_one_finds_in_its_weights(pairs):
    """A weight that is not finite in one process or slice stops all, or they would wait for ever."""
    for mode in MODES:
        for rank in (0, 1):
            facts = json.loads((pairs / f"{mode}-{rank}.json").read_text(encoding="utf-8"))
            assert (facts["finite"], facts["finite_after"]) == (True, False)


@pytest.mark.parametrize("mode", MODES)
def test_a_run_that_diverges_is_the_same_result(mode, pairs, text_folder, tmp_path):
    one = ensure_run(in_parts(DIVERGED, 2), text_folder, tmp_path, "cpu").result
    two = ensure_run(DIVERGED, text_folder, pairs / mode, "cpu").result
    assert one["diverged"] and two["diverged"]
    assert one["diverged_at"] == two["diverged_at"]


def test_only_whole_folders_remain_and_nothing_temporary(pairs):
    assert not [path for path in pairs.rglob("*") if path.name.endswith(".part")]
    assert not list(pairs.rglob("checkpoint-*"))


def test_the_command_trains_a_cell_under_torchrun(text_folder, tmp_path):
    """The line that the workflow's rules run, but for paths."""
    run = CASES["l2-clipped"]
    config = tmp_path / "config.yaml"
    cell = write_config(run, config)
    arguments = ["--config", config, "--cell", cell, "--rates", tmp_path, "--data", text_folder]
    arguments += ["--output", tmp_path / "cell", "--cache", tmp_path / "runs", "--device", "cpu"]
    done = torchrun("-m", "lowrank", "train", "--parallel", "fsdp", *arguments)
    assert done.returncode == 0, done.stderr
    tables = sorted(path.name for path in (tmp_path / "cell").iterdir())
    assert tables == ["history.parquet", "layers.parquet", "runs.parquet", "spectra.parquet"]
    row = pd.read_parquet(tmp_path / "cell" / "runs.parquet").iloc[0]
    assert row["devices"] == 2
    assert row["digest"] == name_of(run, text_folder)


def test_a_mistake_is_one_sentence_and_a_status(tmp_path, text_folder):
    arguments = ["--config", tmp_path / "config.json", "--cell", "language/dense"]
    arguments += ["--rates", tmp_path, "--output", tmp_path / "rates.json"]
    arguments += ["--data", text_folder, "--cache", tmp_path / "runs", "--device", "cpu"]
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    done = torchrun("-m", "lowrank", "sweep", *arguments)
    assert done.returncode != 0
    said = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert said and all("config.json" in line for line in said)
    assert not (tmp_path / "rates.json").exists()


def test_parts_of_a_batch_are_the_same_whichever_process_computes_them(folder_of):
    """Two devices with two parts each see what one device with four parts sees."""
    spec = CASES["wrn"]
    task = make_task(spec, folder_of(spec), choose_device("cpu"))
    whole = [task.batch(3, part, 4) for part in range(4)]
    shares = [task.batch(3, rank * 2 + part, 2 * 2) for rank in (0, 1) for part in (0, 1)]
    for (images, labels), (others, their_labels) in zip(whole, shares, strict=True):
        assert images.equal(others) and labels.equal(their_labels)
    assert sum(len(labels) for _, labels in whole) == spec.training.batch
    with pytest.raises(LowrankError, match=r"training\.batch: 16 examples do not split in 3"):
        task.batch(0, 0, 3)


@pytest.mark.parametrize("case", ["dense", "wrn", "resnet"])
def test_blocks_hold_every_target(case, folder_of):
    spec = CASES[case]
    model = build_model(spec, 10)
    targets = family(spec.model.family).targets(model)
    names = blocks(targets)
    assert len(names) == len({target.block for target in targets})
    assert all(any(t.name.startswith(f"{name}.") for name in names) for t in targets)
    assert all(model.get_submodule(name) is not model for name in names)


def test_a_model_of_one_process_is_left_alone():
    from lowrank.train import parallel

    spec = language_run()
    model = build_model(spec, 300)
    assert parallel.wrap(model, [], choose_device("cpu")) is model
    assert checkpoint.model_tensors(model).keys() == {
        name for name in model.state_dict() if name != "lm_head.weight"
    }
