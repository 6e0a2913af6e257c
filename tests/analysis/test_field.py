"""The claims of other papers find their arms on the bench of methods, and are about nothing else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lowrank.analysis.claims import judge
from lowrank.analysis.ledger import read_ledger
from lowrank.experiment.config import read_config
from lowrank.experiment.expand import expand

ROOT = Path(__file__).parents[2]
EXPECTED = {
    "low-rank-alone": {("galore", "steps", 0.25), ("galore", "steps", 0.5)},
    "restarts": {("relora", "steps", 0.25)},
    "spectral-frobenius": {("factored", "steps", 0.1)},
    "refactorisation": {("refactorize", "steps", 0.25), ("refactorize", "steps", 0.5)},
    "self-guided": {("self_guided", "flops", 0.25)},
    "spectron": {("spectron", "flops", 0.25)},
}
GAIN = {"galore": 0.5, "relora": 0.2, "refactorize": 0.1, "self_guided": 0.1, "spectron": 0.1}


@pytest.fixture(scope="module")
def judged():
    """The field's claims on made-up runs in which all of them are true."""
    config = read_config(ROOT / "config/methods.yaml")
    rng = np.random.default_rng(0)
    rows = []
    for cell in expand(config, ROOT).cells.values():
        facts = cell.facts()
        for seed in range(3):
            gain = GAIN.get(facts["method"], 0.0) + 0.001 * rng.normal() + 0.1 * seed
            both = (facts["init"], facts["decay"]) == ("spectral", "frobenius")
            row = {**facts, "seed": seed, "diverged": False, "kept_parameters": 0.5}
            row["kept_parameters"] = (
                1.0 if facts["method"] in ("dense", "galore", "relora") else 0.5
            )
            rows.append(
                row | {"test_loss": 4.0 - gain, "test_accuracy": 0.9 + 0.05 * both + 0.01 * gain}
            )
    runs = pd.DataFrame(rows)
    ledger = read_ledger(ROOT / "config/field.yaml")
    return runs, judge(ledger, {"runs": runs}, tracks=config.tasks)


def test_each_claim_is_tested_on_its_arms_and_found_where_it_is_true(judged):
    runs, table = judged
    facts = runs.drop_duplicates("cell").set_index(["track", "arm"])
    members = table[(table["level"] == "member") & (table["verdict"] != "not run")]
    assert set(members["claim"]) == set(EXPECTED)
    for claim, rows in members.groupby("claim"):
        arms = [facts.loc[(row.track, row.arm)] for row in rows.itertuples()]
        assert {(a["method"], a["budget"], a["rank_fraction"]) for a in arms} == EXPECTED[claim]
        assert (rows["verdict"] == "supported").all(), claim


def test_plain_factors_are_compared_at_the_same_budget_and_warm_starts_with_warm_starts(judged):
    _, table = judged
    members = table[(table["level"] == "member") & (table["verdict"] != "not run")]
    sides = members.set_index("claim")
    assert sides.loc["self-guided", "reference"] == "spectral-r0.25-flops"
    assert sides.loc["spectron", "reference"] == "dense"
    assert sides.loc["restarts", "arm"] == "spectral-r0.25-relora-pre0.25-rate1"
    assert sides.loc["restarts", "reference"] == "spectral-r0.25-lora-pre0.25-rate1"
    assert sides.loc["spectral-frobenius", "reference"].startswith("he-r0.1-frobenius")
