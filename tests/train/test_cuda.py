"""Runs on a GPU: autocast, memory layout and compilation; several GPUs where there are some."""

from __future__ import annotations

import math

import pandas as pd
import pytest
import torch
from runs import FACTORS, PRETRAINING, image_run, language_run, write_config
from test_parallel import torchrun

from lowrank.experiment.sections import DecaySpec
from lowrank.train.run import ensure_run

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA GPU")

FROBENIUS = FACTORS.model_copy(update={"decay": DecaySpec(kind="frobenius")})
FAMILIES = {
    "gpt2": language_run(factors=FROBENIUS),
    "gpt2-pretrained": language_run(factors=FROBENIUS, pretraining=PRETRAINING),
    "wide_resnet": image_run(factors=FACTORS),
    "resnet": image_run("resnet", factors=FACTORS),
}


def fast(spec):
    """The run as large scales train it."""
    fast = {"precision": "auto", "compile": True, "channels_last": spec.track != "language"}
    return spec.model_copy(update={"training": spec.training.model_copy(update=fast)})


def losses(run) -> list[float]:
    return run.table("history")["train_loss"].tolist()


@pytest.mark.parametrize("name", FAMILIES)
def test_a_compiled_bfloat16_run_follows_the_processor(name, folder_of, tmp_path):
    spec = FAMILIES[name]
    host = ensure_run(spec, folder_of(spec), tmp_path, "cpu")
    gpu = ensure_run(fast(spec), folder_of(spec), tmp_path, "cuda")
    assert losses(gpu) == pytest.approx(losses(host), rel=0.03)
    assert not gpu.result["diverged"]
    assert gpu.result["peak_memory_bytes"] > 0


@pytest.mark.parametrize("name", FAMILIES)
def test_a_stopped_run_goes_on_on_the_gpu(name, folder_of, tmp_path):
    spec = FAMILIES[name]
    unbroken = ensure_run(spec, folder_of(spec), tmp_path / "a", "cuda")
    ensure_run(spec, folder_of(spec), tmp_path / "b", "cuda", until=spec.training.steps - 1)
    resumed = ensure_run(spec, folder_of(spec), tmp_path / "b", "cuda")
    assert losses(resumed) == pytest.approx(losses(unbroken), rel=1e-3)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="torch sees fewer than two GPUs")
@pytest.mark.parametrize("mode", ["ddp", "fsdp"])
@pytest.mark.parametrize("name", FAMILIES)
def test_two_gpus_train_a_cell(name, mode, folder_of, tmp_path):
    spec = fast(FAMILIES[name])
    config = tmp_path / "config.yaml"
    cell = write_config(spec, config)
    arguments = ["--config", config, "--cell", cell, "--rates", tmp_path]
    arguments += ["--data", folder_of(spec)]
    arguments += ["--output", tmp_path / "cell", "--cache", tmp_path / "runs", "--device", "cuda"]
    done = torchrun("-m", "lowrank", "train", "--parallel", mode, *arguments)
    assert done.returncode == 0, done.stderr
    row = pd.read_parquet(tmp_path / "cell" / "runs.parquet").iloc[0]
    assert row["devices"] == 2 and math.isfinite(row["validation_loss"])
