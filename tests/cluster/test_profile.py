"""The Slurm profile keeps what the default profile says, and names only rules that exist."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from lowrank.experiment.study import jobs

ROOT = Path(__file__).parents[2]
DEFAULT, SLURM = (
    yaml.safe_load((ROOT / "profiles" / name / "config.yaml").read_text(encoding="utf-8"))
    for name in ("default", "slurm")
)
RULES = {
    name
    for path in (ROOT / "workflow/rules").glob("*.smk")
    for name in re.findall(r"^rule (\w+):", path.read_text(encoding="utf-8"), re.MULTILINE)
} | {f"measure_{study}" for study in jobs()}


def test_the_slurm_profile_repeats_every_setting_of_the_default_one():
    """--workflow-profile replaces the default profile, so what is not repeated is lost."""
    assert {key: SLURM.get(key) for key in DEFAULT} == DEFAULT


def test_resources_and_groups_are_of_rules_that_exist():
    """Snakemake passes over the name of a rule that is not there without a word."""
    grouped = {entry.split("=")[0] for entry in SLURM["groups"]}
    assert set(SLURM["set-resources"]) | grouped <= RULES
