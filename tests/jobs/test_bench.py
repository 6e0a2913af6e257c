"""Measuring a device, rehearsed on this processor with sizes that take moments."""

from __future__ import annotations

import json

import pandas as pd
import pytest
import torch
from click.testing import CliRunner

from lowrank.cli import main
from lowrank.jobs.bench import Device, bench, ranks_to_break_even

CPU = torch.device("cpu")


def test_ranks_double_up_to_the_last_multiple_of_16_that_saves_anything():
    assert ranks_to_break_even(768, 768) == [16, 32, 64, 128, 256, 384]
    assert ranks_to_break_even(768, 3072) == [16, 32, 64, 128, 256, 512, 608]
    assert ranks_to_break_even(16, 16) == []


def test_a_bound_is_of_memory_for_thin_products_and_of_arithmetic_for_thick_ones():
    on = Device(CPU, torch.float32, flops=1e12, bandwidth=1e11)
    thick, thin = 3 * 2 * 4096**3 / 1e12, 3 * 4 * (4096 * 4096 + 2 * 4096) / 1e11
    assert on.bound(4096, (4096, 4096)) == pytest.approx(thick)
    assert on.bound(4096, (4096, 1)) == pytest.approx(thin, rel=1e-3)
    assert on.bound(64, (64, 16, 64)) == 2 * on.bound(64, (64, 16))


def test_layers_and_steps_are_measured_against_dense_and_against_the_peak():
    found = bench(
        CPU,
        (64,),
        depth=1,
        context=16,
        batch=2,
        tokens=50,
        modes=("eager",),
        size=64,
        turns=2,
        fractions=(0.25,),
        seconds=1e-3,
    )
    layers, steps = found.layers, found.steps
    assert list(layers["rank"].fillna(0)) == [0, 16, 32, 0, 16, 32, 48]
    assert layers["kept_flops"].iloc[1] == pytest.approx(16 * 128 / 64**2)
    assert (layers.loc[layers["rank"].isna(), ["speed", "kept_flops"]] == 1).all(axis=None)
    assert (layers[["milliseconds", "utilisation", "of_bound"]] > 0).all(axis=None)
    assert list(steps["rank_fraction"].fillna(0)) == [0, 0.25]
    assert steps["speed"].iloc[0] == 1 and (steps[["mfu", "tokens_per_second"]] > 0).all(axis=None)
    assert steps["state_bytes"].iloc[1] < steps["state_bytes"].iloc[0]
    assert steps["peak_memory_bytes"].isna().all()


def test_the_command_prints_the_tables_and_writes_them(tmp_path):
    sizes = (
        "--width 32 --depth 1 --context 8 --batch 2 --tokens 20 --size 32 --turns 1 --mode eager"
    )
    output = tmp_path / "bench"
    done = CliRunner().invoke(
        main, ["bench", "--device", "cpu", *sizes.split(), "--output", str(output)]
    )
    assert done.exit_code == 0, done.output
    assert "TFLOP/s" in done.output and "mfu" in done.output
    assert json.loads((output / "device.json").read_text(encoding="utf-8"))["flops"] > 0
    assert len(pd.read_csv(output / "layers.csv")) == 4
    assert len(pd.read_csv(output / "steps.csv")) == 4
