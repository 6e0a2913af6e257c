"""Tables of a study agree with themselves, and one changed number of theirs is named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lowrank.analysis.publish import as_now
from lowrank.experiment import agreement
from lowrank.experiment.agreement import disagreement
from lowrank.experiment.compared import marked, same
from lowrank.experiment.config import parse
from lowrank.files import read_json
from lowrank.parquet import read_table

PUBLISHED = Path(__file__).parents[2] / "published"
SCALES = [folder.name for folder in sorted(PUBLISHED.iterdir()) if folder.is_dir()]


def read(scale: str) -> dict[str, pd.DataFrame]:
    tables = {path.stem: read_table(path) for path in (PUBLISHED / scale).glob("*.parquet")}
    return {**tables, **as_now(tables, parse(read_json(PUBLISHED / scale / "config.json")))}


@pytest.fixture(scope="module")
def tables():
    return read("laptop")


@pytest.mark.parametrize("scale", SCALES)
def test_what_is_published_agrees_with_itself(scale):
    assert disagreement(read(scale)) is None


def test_a_run_that_diverged_agrees_with_having_no_ends(tables):
    runs = tables["runs"].copy()
    cell, seed = runs.loc[5, ["cell", "seed"]]
    if "diverged_at" not in runs:
        runs["diverged_at"] = np.nan
    ends = ["train_loss", "validation_loss", "validation_accuracy", "positions_per_second"]
    runs.loc[5, [*ends, *(c for c in runs if c.startswith("test_"))]] = np.nan
    runs["diverged"] = runs["diverged"].astype(bool)
    runs.loc[5, ["diverged", "diverged_at"]] = [True, 3]
    spectra = tables["spectra"]
    spectra = spectra[~((spectra["cell"] == cell) & (spectra["seed"] == seed))]
    rates = tables["rates"][tables["rates"]["group"] != cell]
    found = disagreement({**tables, "runs": runs, "spectra": spectra, "rates": rates})
    assert found is None


# Table, rows by a query, column, and what the value becomes: one number, nothing that follows from it.
TEXT, DENSE = "track == 'language'", "cell == 'language/dense'"
FORGERIES = {
    "a validation loss": ("runs", TEXT, "validation_loss", 2.3),
    "the loss of images": ("runs", "track == 'small-images'", "validation_loss", 0.01),
    "an accuracy": ("runs", "track == 'small-images'", "validation_accuracy", 0.999),
    "a training loss": ("runs", TEXT, "train_loss", 2.3),
    "a test loss of text": ("runs", TEXT, "test_loss", 2.3),
    "a test perplexity": ("runs", TEXT, "test_perplexity", 10.0),
    "a test perplexity a word": ("runs", TEXT, "test_word_perplexity", 100.0),
    "test bits a byte": ("runs", TEXT, "test_bits_per_byte", 1.0),
    "a loss in history": ("history", "validation_loss.notna()", "validation_loss", 2.3),
    "a last loss in history": ("history", "cell == 'small-images/dense'", "train_loss", 0.001),
    "a time in history": ("history", DENSE, "seconds", 1e9),
    "a perplexity in history": ("history", "validation_perplexity.notna()", "validation_perplexity", 9.0),
    "an effective rank": ("runs", TEXT, "effective_rank", 40.0),
    "an entropy rank": ("runs", TEXT, "entropy_rank", 40.0),
    "a stable rank": ("runs", TEXT, "stable_rank", 40.0),
    "a rank in layers": ("layers", "step == 1600", "effective_rank", 40.0),
    "a norm in layers": ("layers", "step == 1600", "product_norm", 40.0),
    "a step size": ("layers", "step == 1600", "effective_step_size", 40.0),
    "a singular value": ("spectra", "index == 1", "singular_value", 40.0),
    "parameters": ("runs", TEXT, "parameters", 10),
    "dense parameters": ("runs", TEXT, "dense_parameters", 10),
    "a share of parameters": ("runs", TEXT, "kept_parameters", 0.1),
    "a share of FLOPs": ("runs", "cell == 'language/he-r0.25'", "kept_flops", 0.1),
    "FLOPs a position": ("runs", TEXT, "flops_per_position", 10.0),
    "FLOPs of a run": ("runs", TEXT, "training_flops", 10.0),
    "seconds": ("runs", TEXT, "train_seconds", 0.1),
    "speed": ("runs", TEXT, "positions_per_second", 1e9),
    "steps": ("runs", TEXT, "steps", 401),
    "a run said to have diverged": ("runs", TEXT, "diverged", True),
    "a run that is not there": ("history", TEXT.replace("track", "cell.str[:8]"), "seed", 77),
    "two runs of one seed": ("runs", f"{DENSE} and seed == 101", "seed", 100),
    "a swept loss": ("rates", "chosen", "validation_loss", 2.3),
    "the swept loss of another rate": ("rates", f"not chosen and {TEXT}", "validation_loss", 0.001),
    "a swept rate": ("rates", "chosen and choice == 'learning_rate'", "learning_rate", 0.5),
    "a choice": ("rates", "chosen", "chosen", False),
    "a truncation's perplexity": ("posthoc", TEXT, "test_perplexity", 9.0),
    "a truncation's loss": ("posthoc", TEXT, "test_loss", 2.3),
    "a truncation's parameters": ("posthoc", TEXT, "kept_parameters", 0.1),
    "a truncation's FLOPs": ("posthoc", TEXT, "kept_flops", 0.1),
    "a truncation's training": ("posthoc", TEXT, "training_flops", 9.0),
    "a loss on a line": ("interpolation", "t > 0.4 and t < 0.6", "loss", 0.001),
    "a barrier": ("barriers", "seed == 100", "barrier", 9.0),
    "a baseline": ("baselines", "model == 'bigram'", "test_loss", 9.0),
    "seconds of a step": ("speed", TEXT, "step_seconds", 1e-9),
}  # fmt: skip


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_changed_number_is_named(forgery, tables):
    name, query, column, value = FORGERIES[forgery]
    table = tables[name].copy()
    rows = table.query(query, engine="python").index
    assert len(rows) and table.loc[rows[-1], column] != value
    table[column] = table[column].astype(object)
    table.loc[rows[-1], column] = value
    found = disagreement({**tables, name: table.infer_objects()})
    assert found is not None and "\n" not in found and len(found) < 250


def test_of_a_sweep_with_several_seeds_the_means_are_compared(tables):
    """Of each value the loss goes up by as much with one seed as it goes down with another."""
    rates = tables["rates"]
    shifts = {1000: 0.0, 1001: 0.5, 1002: -0.5}
    several = pd.concat(
        [
            rates.assign(seed=seed, validation_loss=rates["validation_loss"] + shift)
            for seed, shift in shifts.items()
        ],
        ignore_index=True,
    )
    assert disagreement({**tables, "rates": several}) is None
    chosen = several.index[several["chosen"].eq(True) & several["seed"].eq(1001)][0]
    for column, value, named in (
        ("chosen", False, "does not say"),
        ("validation_loss", 99.0, "is not the best"),
    ):
        forged = several.astype({column: object})
        forged.loc[chosen, column] = value
        found = disagreement({**tables, "rates": forged.infer_objects()})
        assert found is not None and named in found


@pytest.mark.parametrize("more", [0.0, 0.5])
def test_history_takes_no_longer_than_its_run(more, tables):
    history, run = tables["history"].copy(), tables["runs"].set_index("cell").loc["language/dense"]
    seed, seconds = run.iloc[0][["seed", "train_seconds"]]
    rows = history[(history["cell"] == "language/dense") & (history["seed"] == seed)]
    history.loc[rows.index[-1], "seconds"] = seconds + more
    found = disagreement({**tables, "history": history})
    sentence = f"language/dense seed {seed} has taken longer in history than its train_seconds"
    assert found == (sentence if more else None)


@pytest.mark.parametrize("before", [0, 1])
def test_steps_in_history_rise_by_one_at_least(before, tables):
    end = tables["history"].groupby(["cell", "seed"]).tail(1)
    earlier = end.assign(step=end["step"] - before)
    history = pd.concat([tables["history"].drop(end.index), earlier, end])
    found = disagreement({**tables, "history": history})
    assert found == (None if before else "the steps in history do not rise")


def test_rows_are_marked_where_a_column_is_true_and_none_where_there_is_no_such_column():
    table = pd.DataFrame({"diverged": [True, None, False]})
    assert marked(table, "diverged").tolist() == [True, False, False]
    assert marked(table, "chosen").tolist() == [False, False, False]


@pytest.mark.parametrize("name", ["history", "layers", "spectra"])
@pytest.mark.parametrize("left", [0, 100])
def test_rows_that_are_left_out_are_missed(name, left, tables):
    assert disagreement({**tables, name: tables[name][:left]}) is not None


def test_measures_of_a_spectrum_are_those_of_their_definitions_with_groups_averaged():
    """2 1 1 beside 3 0 0 in two groups of one layer; a layer of zeros has no rank."""
    spectrum = {("a", 0): [2.0, 1.0, 1.0], ("a", 1): [3.0, 0.0, 0.0], ("b", 0): [0.0, 0.0, 0.0]}
    values = pd.DataFrame(
        {"cell": "t/x", "seed": 0, "layer": layer, "group": group, "singular_value": value}
        for (layer, group), row in spectrum.items()
        for value in row
    )
    a, b = agreement._measures(values).set_index("layer").loc[["a", "b"]].to_dict("records")
    entropy = np.exp(-(0.5 * np.log(0.5) + 2 * 0.25 * np.log(0.25)))
    assert (a["cell"], a["seed"]) == ("t/x", 0)
    assert a["product_norm"] == pytest.approx(np.sqrt(4 + 1 + 1 + 9))
    assert a["effective_rank"] == pytest.approx((2 + 1) / 2)
    assert a["stable_rank"] == pytest.approx((1.5 + 1) / 2)
    assert a["entropy_rank"] == pytest.approx((entropy + 1) / 2)
    for name in ("product_norm", "effective_rank", "stable_rank", "entropy_rank"):
        assert b[name] == 0


def test_a_table_is_the_same_within_rounding_and_to_the_letter():
    table = pd.DataFrame({"arm": ["a", "b"], "p": [0.1, np.nan], "verdict": ["supported", None]})
    assert same(table, table, ["arm"], "claims") is None
    assert same(table.assign(p=table["p"] * (1 + 1e-9)), table, ["arm"], "claims") is None
    changed = table.assign(p=[0.01, np.nan])
    assert (
        same(changed, table, ["arm"], "claims") == "p of a is 0.01 in claims, and 0.1 by the runs"
    )
    changed = table.assign(verdict=["refuted", None])
    assert "verdict of a is refuted" in str(same(changed, table, ["arm"], "claims"))
    changed = table.assign(p=[0.1, 0.5])
    assert "p of b is 0.5" in str(same(changed, table, ["arm"], "claims"))
    assert "1 rows, and 2" in str(same(table[:1], table, ["arm"], "claims"))
    assert same(table.drop(columns="p"), table, ["arm"], "claims") is not None
