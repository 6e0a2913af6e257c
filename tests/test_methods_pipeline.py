"""The bench of methods through Snakemake at the smallest size, and a method of one's own beside it."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from test_pipeline import copy_project, planned, snakemake

pytestmark = pytest.mark.pipeline
CONFIG = """
scale: bench
ledger: field
seeds: [0, 1]
tracks:
  language:
    data: {kind: text, source: embedded, vocabulary: 300, max_characters: 300000}
    model: {family: gpt2, width: 32, depth: 1, heads: 2, context: 32}
    training: {steps: 12, batch: 8, log_points: 4, probe_points: 2, validation_points: 2}
    factors: {rank_fraction: 0.25, rank_multiple: 4}
    evaluation: {validation_examples: 64, test_examples: 64}
    sweep: {rates: [0.01], extend: 0}
    studies:
      methods:
        ranks: [0.25]
        flops_ranks: [0.25]
        methods:
          - {name: galore, options: {every: 4}}
          - {name: self_guided}
"""
METHOD = '''"""Factors that rest at every other step."""

from lowrank.methods import METHODS, Method
from lowrank.methods.factored import Factored


class Resting(Factored):
    def rate(self, step, rate):
        """None at odd steps."""
        return 0.0 if step % 2 else rate


METHODS.add("resting", Method("resting factors", "unpublished", Resting))
'''


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    """A project in which the bench has been run and published, as `methods` at its own scale."""
    folder = copy_project(tmp_path_factory.mktemp("bench") / "project")
    text = CONFIG.replace("scale: bench", "scale: methods")
    (folder / "config/methods.yaml").write_text(text, encoding="utf-8")
    (folder / "resting.py").write_text(METHOD, encoding="utf-8")
    target = folder / "output.log"
    target.write_text(snakemake(folder, "methods", scale=""), encoding="utf-8")
    snakemake(folder, "publish", scale="methods")
    return folder


def test_the_target_alone_draws_the_board_of_its_own_scale(bench):
    board = json.loads((bench / "figures/methods/language/leaderboard.json").read_text("utf-8"))
    heading, *rows = board
    found = [dict(zip(heading, row, strict=True)) for row in rows]
    names = {"dense", "U V^T", "GaLore", "self-guided"}
    for budget in ("equal steps", "equal FLOPs"):
        assert {row["method"] for row in found if row["budget"] == budget} == names
    assert (bench / "figures/methods/language/leaderboard.png").stat().st_size > 0
    assert "The figures are in figures/methods" in (bench / "output.log").read_text("utf-8")


def test_equal_flops_are_those_of_the_dense_run_to_a_step(bench):
    runs = pd.read_parquet(bench / "results/methods/tables/runs.parquet")
    dense = runs.loc[runs["init"] == "dense", "training_flops"].iloc[0]
    for _, rows in runs[runs["budget"] == "flops"].groupby("cell"):
        row = rows.iloc[0]
        assert abs(row["training_flops"] - dense) <= 0.51 * row["training_flops"] / row["steps"]


def test_claims_of_the_field_are_judged(bench):
    claims = pd.read_parquet(bench / "results/methods/tables/claims.parquet")
    verdicts = claims[claims["level"] == "claim"].set_index("claim")["verdict"]
    assert verdicts["self-guided"] != "not run" and verdicts["spectron"] == "not run"


def test_a_method_of_ones_own_stands_beside_the_published_ones_and_is_trained_alone(bench):
    dry = snakemake(bench, "methods", "-n", "--config", "try=resting.py", scale="")
    assert planned(dry).get("train_cell") == 2 and planned(dry).get("sweep_rate") == 1
    assert "resting.py is a program that runs with your rights" in dry
    snakemake(bench, "methods", "--config", "try=resting.py", scale="")
    heading, *rows = json.loads(
        (bench / "figures/methods/language/leaderboard.json").read_text("utf-8")
    )
    methods = [row[heading.index("method")] for row in rows]
    assert methods.count("resting factors") == methods.count("GaLore") == 2
    runs = pd.read_parquet(bench / "results/methods/tables/runs.parquet")
    published = pd.read_parquet(bench / "published/methods/runs.parquet")
    old = runs[runs["method"] != "resting"].reset_index(drop=True)
    assert old["digest"].tolist() == published["digest"].tolist()


def test_a_file_that_is_not_there_is_one_sentence(bench):
    said = snakemake(bench, "methods", "--config", "try=gone.py", scale="", status=2)
    assert said.count("Error: ") == 1 and "gone.py is not a file" in said


def test_the_file_of_the_bench_is_found_by_its_name():
    assert (Path(__file__).parents[1] / "config/methods.yaml").is_file()
