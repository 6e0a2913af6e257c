"""The whole result of a tiny study is what was recorded, to a stated tolerance.

**On the platform of the record** (same torch, same processor, same instructions; see
`record/origin.json`) runs repeat bit for bit; the rule is a relative 1e-6, which leaves room for the
last digits of the CSV and for none of a method's.

**On any other platform** sums are taken in another order, and training amplifies what that changes.
`golden.SORTS` is the rule then; docs/determinism.md has what was measured between instruction sets.

**Derived tables** (contrasts, claims, plan) are computed from the recorded ones, in double precision
and alike on every platform: relative 1e-9.

If a change is meant to change results, raise the version that the failure names and record anew:
`python tests/golden/record.py`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from golden import (
    DERIVED,
    KEYS,
    SORTS,
    allowed,
    derive,
    differences,
    make,
    platform,
    read,
    sort_of,
    versions,
)

RECORD = Path(__file__).parent / "record"
ORIGIN = json.loads((RECORD / "origin.json").read_text(encoding="utf-8"))
TRAINED = [name for name in KEYS if name not in DERIVED]
PART = {
    "data": "text or images",
    **dict.fromkeys(("runs", "history", "layers", "spectra", "rates"), "training"),
    "interpolation": "interpolation",
    "barriers": "interpolation",
    "posthoc": "posthoc",
    "baselines": "baselines",
}
"""The version that a table's numbers depend on, each part before those that it changes."""
COUNTED = ("data", "baselines")
"""Tables in which nothing is trained: the same everywhere."""


def within(tolerance: float) -> Callable[[str, float, float], bool]:
    """The rule of a relative difference."""
    return lambda column, a, b: abs(a - b) <= tolerance * abs(a)


def loosely(column: str, a: float, b: float) -> bool:
    """The rule for trained numbers of another platform."""
    sort = sort_of(column)
    return abs(a - b) <= max(sort.absolute, sort.relative * abs(a))


def rule(name: str) -> Callable[[str, float, float], bool]:
    """How two numbers of a trained table are compared here."""
    here = ORIGIN["platform"] == platform()
    return within(1e-6) if here or name in COUNTED else loosely


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The study, made now."""
    return make(tmp_path_factory.mktemp("golden"))


def complaint(differing: list[tuple[str, str, str]]) -> str:
    """What to do about (table, column, sentence) that differ: the first cause, and the first ten."""
    parts = [
        "evaluation" if name == "runs" and column.startswith("test_") else PART[name]
        for name, column, _ in differing
    ]
    causes = [*dict.fromkeys(PART.values()), "evaluation"]
    cause = min(parts, key=causes.index)
    lines = [sentence for _, _, sentence in differing]
    return "\n".join(
        [
            f"{len(lines)} recorded results differ, and no version was raised. If that is on purpose, "
            f"raise '{cause}' in src/lowrank/versions.py, or in the study of that name, and record anew "
            "(python tests/golden/record.py); if not, the change to the code is wrong.",
            *lines[:10],
            *(["..."] if len(lines) > 10 else []),
        ]
    )


def test_the_record_is_of_these_versions():
    now = versions()
    raised = {part for part, then in ORIGIN["versions"].items() if now.get(part) != then}
    assert not raised, f"{sorted(raised)} changed: record anew (python tests/golden/record.py)"


@pytest.mark.filterwarnings("ignore")
def test_the_whole_result_is_the_recorded_one(made):
    differing = [
        (name, *difference)
        for name in TRAINED
        for difference in differences(name, read(RECORD, name), made[name], rule(name))
    ]
    if differing:
        pytest.fail(complaint(differing), pytrace=False)


@pytest.mark.filterwarnings("ignore")
def test_contrasts_claims_and_plan_follow_from_the_recorded_results(tmp_path):
    derived = derive({name: read(RECORD, name) for name in TRAINED}, tmp_path)
    differing = [
        sentence
        for name in DERIVED
        for _, sentence in differences(name, read(RECORD, name), derived[name], within(1e-9))
    ]
    if differing:
        pytest.fail("\n".join(differing[:10]), pytrace=False)


def test_the_study_is_one_in_which_everything_shows():
    """A golden record of runs that clip nothing, or of arms that are equal, would notice nothing."""
    history, runs = read(RECORD, "history"), read(RECORD, "runs")
    for track in ("language", "small-images", "large-images"):
        norms = history.loc[history["cell"].str.startswith(track), "gradient_norm"]
        assert ((norms > 0.9).any() and (norms < 0.9).any()) or track != "language"
    dense = runs[runs["cell"] == "language/dense"]
    assert (dense["test_loss"] < 5.3).all()  # it has learnt: the uniform distribution has 5.7
    losses = runs.groupby("cell")["test_loss"].mean().round(7)
    assert not losses.duplicated().any(), losses[losses.duplicated(keep=False)]


def test_a_difference_is_told_with_the_version_to_raise():
    table = read(RECORD, "runs")
    for column, cause in (("validation_loss", "training"), ("test_loss", "evaluation")):
        other = table.copy()
        other.loc[3, column] *= 1 + 1e-5
        (difference,) = differences("runs", table, other, within(1e-6))
        assert difference[0] == column
        assert not list(differences("runs", table, other, within(1e-4)))
        assert f"raise '{cause}'" in complaint([("runs", *difference)])
    data = read(RECORD, "data")
    other = data.assign(sha256=["changed", *data["sha256"][1:]])
    both = [("data", *d) for d in differences("data", data, other, within(0))]
    both += [("runs", "validation_loss", "x"), ("posthoc", "test_loss", "y")]
    assert "raise 'text or images'" in complaint(both)
    assert [
        c
        for c, _ in differences("runs", table, table.iloc[1:].drop(columns="test_loss"), within(0))
    ] == ["", "test_loss"]


def test_the_manual_says_what_is_allowed_and_nothing_that_was_measured_is_beyond_it():
    text = (Path(__file__).parents[2] / "docs/determinism.md").read_text(encoding="utf-8")
    rows = {
        line.split(" | ")[0].strip("| "): line.strip("| ").split(" | ")
        for line in text.splitlines()
    }
    for sort in SORTS:
        _, *measured, limit = rows[sort.words]
        assert limit == allowed(sort)
        assert len(measured) == 2
        assert all(float(value) <= (sort.relative or sort.absolute) / 4 for value in measured)
