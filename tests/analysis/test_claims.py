"""The ledger says what the paper says, and verdicts follow the rules on results whose truth is known."""

from __future__ import annotations

import json
import math
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from named_arms import facts

from lowrank.analysis import claims
from lowrank.analysis.ledger import read_ledger
from lowrank.analysis.power import smallest_settled
from lowrank.analysis.stats import holm, paired_difference
from lowrank.errors import LowrankError

LEDGER = Path(__file__).parents[2] / "config" / "claims.yaml"
NOISE = np.array([0.004, -0.006, 0.001, 0.003, -0.002])  # of a paired difference, sd 0.0039
TRACKS = {"language": "language", "small-images": "images", "large-images": "images"}
judge = partial(claims.judge, tracks=TRACKS)
PLAIN = {"init": "spectral", "rank_fraction": "{rank}"}


def one_test(**test) -> claims.Ledger:
    """A ledger of one claim with one test on test_loss."""
    values = {
        "tasks": ["language"],
        "metric": "test_loss",
        "arm": {"init": "spectral_ones", "rank_fraction": "{rank}"},
        "reference": {"init": "spectral", "rank_fraction": "{rank}"},
        **test,
    }
    margins = {
        "near": {"value": 0.02, "unit": "absolute", "reason": "for a test"},
        "tenth": {"value": 0.1, "unit": "relative", "reason": "for a test"},
        "twice": {"value": 2.0, "unit": "factor", "reason": "for a test"},
    }
    paper = [{"track": "language", "arm": "spectral-r0.62", "metric": "perplexity", "value": 38.78}]
    claim = {"id": "c", "statement": "s", "verified": True, "tests": [values]}
    return claims.Ledger.model_validate({"margins": margins, "paper": paper, "claims": [claim]})


def cell(
    arm: str,
    values,
    track: str = "language",
    metric: str = "test_loss",
    own_decay: str = "l2",
    **more,
):
    """Rows of one cell, one a seed."""
    values = np.atleast_1d(values)
    rows = {"cell": f"{track}/{arm}", "track": track, **facts(arm, own_decay), **more}
    return pd.DataFrame({**rows, "seed": range(len(values)), metric: values})


def runs(**differences: float) -> dict[str, pd.DataFrame]:
    """Spectral and spectral ones at ranks r025, ...: mean differences of ones from spectral."""
    base = 3 + np.array([0.02, -0.03, 0.05, 0.0, 0.01])
    parts = []
    for rank, difference in differences.items():
        rank = rank.replace("r0", "r0.")
        parts += [cell(f"spectral-{rank}", base)]
        parts += [cell(f"spectral_ones-{rank}", base + NOISE + difference)]
    return {"runs": pd.concat(parts)}


def members(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["level"] == "member"].reset_index(drop=True)


def verdict(ledger, tables, **options) -> str:
    return judge(ledger, tables, **options).iloc[-1]["verdict"]


# The ledger


def test_the_ledger_holds_every_claim_and_says_which_are_verified():
    ledger = read_ledger(LEDGER)
    assert {claim.id: claim.verified for claim in ledger.claims} == {
        "direction": True,
        "spectral-parity": True,
        "step-size": True,
        "effective-rank": True,
        "frobenius": False,
        "pretrain-language": True,
        "pretrain-vision": True,
        "closeness": False,
        "efficiency": True,
        "post-hoc": False,
    }


def test_the_ledger_prints_no_number_as_the_papers_but_the_verified_ones():
    ledger = read_ledger(LEDGER)
    assert {(n.track, n.arm, n.value) for n in ledger.paper} == {
        ("language", "dense", 37.67),
        ("language", "he-r0.62", 39.6),
        ("language", "spectral-r0.62", 38.78),
        ("language", "spectral_ones-r0.62", 38.47),
        ("large-images", "dense", 76.39),
        ("large-images", "spectral-r0.5", 76.13),
    }


def test_the_language_margin_lies_between_the_papers_same_and_the_papers_different():
    margin = read_ledger(LEDGER).margins["language-loss"].value
    assert math.log(39.6 / 38.78) < margin < math.log(38.78 / 37.67)


def edited(tmp_path: Path, edit) -> Path:
    values = yaml.safe_load(LEDGER.read_text(encoding="utf-8"))
    edit(values)
    path = tmp_path / "claims.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


def first_test(values):
    return values["claims"][0]["tests"][0]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda v: first_test(v).update(metrics="x"), r"did you mean 'metric'\?"),
        (
            lambda v: first_test(v).update(metrics="x"),
            r"claims\[direction\].tests\[0\]: Unknown key",
        ),
        (lambda v: first_test(v).pop("margin"), "kind 'equivalence' on test_loss needs a margin"),
        (lambda v: first_test(v).update(margin="language-los"), "did you mean 'language-loss'"),
        (lambda v: first_test(v).update(margin="twice"), "factor, which a test of kind"),
        (lambda v: first_test(v).update(metric="test_los"), "did you mean 'test_loss'"),
        (lambda v: first_test(v).update(kind="same"), r"tests\[0\].kind: Input should be"),
        (lambda v: v["claims"].append(v["claims"][0]), "'direction' is there twice"),
        (lambda v: v["margins"]["memory"].pop("reason"), "margins.memory.reason: Field required"),
        (lambda v: v["margins"]["twice"].update(value=0.5), "lies above 1, not 0.5"),
        (lambda v: first_test(v)["arm"].update(ranks=1), r"tests\[0\].arm: .* did you mean"),
        (lambda v: first_test(v).update(arm={}), r"tests\[0\].arm.facts: Dictionary should have"),
        (lambda v: first_test(v)["arm"].update(width="{rank}"), "placeholders of different names"),
    ],
)
def test_a_mistake_in_the_ledger_is_one_sentence_that_names_it(tmp_path, edit, message):
    with pytest.raises(LowrankError, match=message) as caught:
        read_ledger(edited(tmp_path, edit))
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path))


def test_a_ledger_that_is_missing_or_no_yaml_is_an_error(tmp_path):
    with pytest.raises(LowrankError, match=r"is missing; there are"):
        read_ledger(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("claims: [", encoding="utf-8")
    with pytest.raises(LowrankError, match="not valid YAML"):
        read_ledger(tmp_path / "bad.yaml")
    (tmp_path / "list.yaml").write_text("- a", encoding="utf-8")
    with pytest.raises(LowrankError, match="expected the keys"):
        read_ledger(tmp_path / "list.yaml")


def test_an_unknown_claim_names_the_nearest():
    with pytest.raises(LowrankError, match="did you mean 'direction'"):
        read_ledger(LEDGER).claim("directions")


# Verdicts of one contrast (margin 0.02, noise of a mean about 0.002)


@pytest.mark.parametrize(
    ("kind", "options", "difference", "expected"),
    [
        ("equivalence", {}, 0.0, "supported"),
        ("equivalence", {}, 0.010, "supported"),  # significantly worse, within the margin
        ("equivalence", {}, 0.018, "inconclusive"),  # worse, but perhaps by less than the margin
        ("equivalence", {}, 0.030, "refuted"),
        ("equivalence", {}, -0.030, "supported"),  # better than "as well as"
        ("equivalence", {"better_counts": False}, -0.030, "refuted"),
        ("equivalence", {"better_counts": False}, -0.010, "supported"),
        ("not_worse", {}, 0.010, "supported"),
        ("not_worse", {}, -0.1, "supported"),
        ("not_worse", {}, 0.019, "inconclusive"),
        ("not_worse", {}, 0.030, "refuted"),
        ("better", {"margin": None}, -0.010, "supported"),
        ("better", {"margin": None}, 0.0, "inconclusive"),
        ("better", {"margin": None}, 0.010, "refuted"),
        ("better", {}, -0.030, "supported"),
        ("better", {}, -0.010, "refuted"),  # better, but not clearly so
        ("better", {}, -0.020, "inconclusive"),
        ("lower", {"margin": None}, -0.010, "supported"),
        ("lower", {"margin": None}, 0.010, "refuted"),
        ("higher", {"margin": None}, 0.010, "supported"),
    ],
)
def test_verdicts_of_one_contrast(kind, options, difference, expected):
    ledger = one_test(kind=kind, **{"margin": "near", **options})
    table = judge(ledger, runs(r062=difference))
    assert list(table["level"]) == ["member", "test", "claim"]
    assert list(table["verdict"]) == [expected] * 3
    assert list(table.columns) == claims.COLUMNS


def test_where_more_is_better_the_same_rules_are_turned_around():
    ledger = one_test(kind="better", metric="test_accuracy")
    tables = runs(r062=0.010)
    tables["runs"] = tables["runs"].rename(columns={"test_loss": "test_accuracy"})
    table = judge(ledger, tables)
    assert table.loc[0, "verdict"] == "supported"
    assert table.loc[0, "estimate"] == pytest.approx(0.010, abs=1e-9)
    assert 0 < table.loc[0, "low"] < table.loc[0, "high"]


def test_a_member_reports_the_numbers_it_was_judged_by():
    ledger = one_test(kind="equivalence", margin="near")
    row = judge(ledger, runs(r062=0.010), scale="laptop").iloc[0]
    tost = paired_difference(NOISE + 0.010, np.zeros(5), 0.9)
    assert (row["estimate"], row["low"], row["high"]) == pytest.approx(
        (tost.estimate, tost.low, tost.high)
    )
    assert row["p"] == row["p_corrected"] == pytest.approx(tost.p_within(0.02))
    assert (row["claim"], row["track"], row["scale"]) == ("c", "language", "laptop")
    assert (row["arm"], row["reference"]) == ("spectral_ones-r0.62", "spectral-r0.62")
    assert (row["margin"], row["unit"], row["pairs"]) == (0.02, "absolute", 5)
    assert row["smallest_settled"] == pytest.approx(
        smallest_settled("equivalence", tost.standard_deviation, 5)
    )
    assert row["standard_deviation"] == pytest.approx(tost.standard_deviation)
    assert row["note"] == "on its own significantly worse"


@pytest.mark.parametrize(
    ("metric", "paper"),
    [
        (
            "test_loss",
            "spectral_ones-r0.62: perplexity 38.47; spectral-r0.62: perplexity 38.78",
        ),
        ("effective_rank", ""),
    ],
)
def test_the_papers_numbers_stand_beside_contrasts_of_their_own_metric_with_both_arms(
    metric, paper
):
    ledger = one_test(kind="lower", metric=metric)
    tables = {"runs": runs(r025=0.01, r062=0.01)["runs"].rename(columns={"test_loss": metric})}
    assert not any(judge(ledger, tables)["paper_value"]), "the paper has one arm only"
    ones = {"track": "language", "arm": "spectral_ones-r0.62", "metric": "perplexity"}
    values = ledger.model_dump()
    values["paper"] = [*values["paper"], {**ones, "value": 38.47}]
    table = judge(claims.Ledger.model_validate(values), tables)
    assert list(members(table)["paper_value"]) == ["", paper]
    assert list(table["paper_value"])[-2:] == [paper, paper]


def test_tracks_that_a_configuration_has_not_have_no_rows():
    ledger = read_ledger(LEDGER)
    table = judge(ledger, runs(r062=0.0), tracks={"language": "language"})
    assert set(table["track"]) == {"language", "all"}
    assert list(table.loc[table["level"] == "claim", "claim"]) == [c.id for c in ledger.claims]
    vision = table[table["claim"] == "pretrain-vision"]
    assert list(vision["verdict"]) == ["not run"] and vision["statement"].item()


def test_a_lower_confidence_asks_for_less():
    ledger = one_test(kind="equivalence", margin="near")
    assert verdict(ledger, runs(r062=0.0175)) == "inconclusive"
    assert verdict(ledger, runs(r062=0.0175), confidence=0.7) == "supported"


def test_a_relative_margin_is_tested_on_ratios_whatever_the_scale():
    ledger = one_test(kind="equivalence", margin="tenth")
    for scale in (1.0, 1000.0):
        base = scale * np.array([1.0, 2.0, 4.0])
        ratios = np.array([1.02, 1.04, 1.03])
        tables = {
            "runs": pd.concat(
                [cell("spectral-r0.5", base), cell("spectral_ones-r0.5", base * ratios)]
            )
        }
        row = judge(ledger, tables).iloc[0]
        assert row["verdict"] == "supported"
        assert row["estimate"] == pytest.approx(np.exp(np.log(ratios).mean()) - 1)
        assert 0 < row["low"] < row["estimate"] < row["high"] < 0.1
    beyond = base * np.array([1.101, 1.102, 1.103])  # 10.2 % off, though log 1.102 < 0.1
    worse = pd.concat([cell("spectral-r0.5", base), cell("spectral_ones-r0.5", beyond)])
    assert verdict(ledger, {"runs": worse}) == "refuted"
    negative = {"runs": tables["runs"].assign(test_loss=-1.0)}
    with pytest.raises(LowrankError, match="must be positive"):
        judge(ledger, negative)


@pytest.mark.parametrize(
    ("speed", "expected"), [(2.2, "supported"), (2.0, "inconclusive"), (1.5, "refuted")]
)
def test_a_ratio_is_how_many_times_better_the_arm_is(speed, expected):
    ledger = one_test(
        kind="ratio_at_least",
        metric="step_seconds",
        margin="twice",
        arm={"init": "spectral", "rank_fraction": "{rank}", "width": "{width}"},
        reference={"init": "dense", "width": "{width}"},
    )
    dense = np.array([1.0, 1.01, 0.99])
    tables = {
        "runs": pd.concat(
            [
                cell("dense", dense, metric="step_seconds"),
                cell("dense-w128", 4 * dense, metric="step_seconds"),
                cell("spectral-r0.5", [1 / speed] * 3, metric="step_seconds"),
                cell("spectral-r0.5-w128", [4 / speed] * 3, metric="step_seconds"),
            ]
        )
    }
    table = members(judge(ledger, tables))
    assert list(table["reference"]) == ["dense", "dense-w128"]
    assert table["estimate"].to_numpy() == pytest.approx(speed, rel=0.01)
    assert list(table["verdict"]) == [expected] * 2


# Families


def test_the_family_is_every_rank_there_is_and_it_is_holm_corrected():
    ledger = one_test(kind="better")
    differences = {"r01": -0.0055, "r02": -0.006, "r03": -0.0045, "r04": -0.003}
    table = members(judge(ledger, runs(**differences)))
    raw = [paired_difference(NOISE + d, np.zeros(5)).p for d in differences.values()]
    assert list(table["p"]) == pytest.approx(raw)
    assert list(table["p_corrected"]) == pytest.approx(list(holm(raw)))
    assert min(raw) < 0.05 < table["p_corrected"].min()
    assert set(table["verdict"]) == {"inconclusive"}


@pytest.mark.parametrize(
    ("differences", "every", "any_"),
    [
        ((0.0, 0.0), "supported", "supported"),
        ((0.0, 0.019), "mixed", "supported"),
        ((0.0, 0.05), "mixed", "supported"),
        ((0.019, 0.019), "inconclusive", "inconclusive"),
        ((0.019, 0.05), "refuted", "inconclusive"),
        ((0.05, 0.05), "refuted", "refuted"),
    ],
)
def test_a_claim_about_every_rank_and_a_claim_about_some_rank(differences, every, any_):
    tables = runs(r01=differences[0], r02=differences[1])
    for rule, expected in (("every", every), ("any", any_)):
        ledger = one_test(kind="not_worse", margin="near", aggregate=rule)
        assert verdict(ledger, tables) == expected


def test_placeholders_of_the_same_name_mean_the_same_on_both_sides():
    ledger = one_test(
        kind="better", arm={**PLAIN, "method": "pretrained", "pretraining": "{fraction}"}
    )
    base = np.array([3.0, 3.1])
    arms = ["spectral-r0.1", "spectral-r0.2", "spectral-r0.1-pre0.2", "spectral-r0.1-pre0.5"]
    arms += ["spectral-r0.3-pre0.2", "spectral-r0.2-pre0.2-halfrate"]
    tables = {"runs": pd.concat([cell(arm, base + i) for i, arm in enumerate(arms)])}
    table = members(judge(ledger, tables))
    assert list(zip(table["arm"], table["reference"], strict=True)) == [
        ("spectral-r0.1-pre0.2", "spectral-r0.1"),
        ("spectral-r0.1-pre0.5", "spectral-r0.1"),
        ("spectral-r0.3-pre0.2", "init spectral, rank_fraction {rank}"),
    ]
    assert table.loc[2, "verdict"] == "not run"
    assert "no reference" in table.loc[2, "note"]


@pytest.mark.parametrize("default", ["l2", "frobenius"])
def test_arms_are_met_by_their_decay_whichever_is_the_tracks_own(default):
    ledger = one_test(
        kind="not_worse",
        margin="near",
        arm={**PLAIN, "decay": "frobenius", "decay_coupled": "{mode}", "rate_factor": 0.5},
        reference={**PLAIN, "decay": "l2", "decay_coupled": "{mode}"},
    )
    arms = {
        "l2": ("spectral-r0.5", "spectral-r0.5-frobenius-halfrate"),
        "frobenius": ("spectral-r0.5-l2", "spectral-r0.5-halfrate"),
    }[default]
    coupled = ("spectral-r0.5-l2-coupled", "spectral-r0.5-frobenius-coupled-halfrate")
    base = np.array([3.0, 3.1, 3.2])
    parts = [cell(arm, base, own_decay=default) for arm in (*arms, *coupled)]
    table = members(judge(ledger, {"runs": pd.concat(parts)}))
    assert list(zip(table["reference"], table["arm"], strict=True)) == [arms, coupled]


@pytest.mark.parametrize(
    "coupled",
    [
        pd.Series([False, True, None], dtype=object),
        pd.Series([0.0, 1.0, np.nan]),
        pd.Series([False, True, None], dtype="boolean"),
    ],
)
def test_a_decay_is_coupled_however_a_table_says_so(coupled):
    ledger = one_test(kind="lower", arm={**PLAIN, "decay_coupled": True}, reference=PLAIN)
    arms = ("spectral-r0.5", "spectral-r0.5-l2-coupled", "dense")
    table = pd.concat([cell(arm, 3.0) for arm in arms], ignore_index=True)
    judged = members(judge(ledger, {"runs": table.assign(decay_coupled=coupled)}))
    assert list(judged["arm"]) == ["spectral-r0.5-l2-coupled"]


def test_what_a_side_does_not_ask_for_is_the_tracks_own():
    """However the arm is called: a study of one's own may vary any fact."""
    ledger = one_test(kind="lower", arm=PLAIN, reference={"init": "dense"})
    table = pd.concat([cell("dense", 3.0), cell("spectral-r0.5", 2.9)], ignore_index=True)
    assert len(members(judge(ledger, {"runs": table}))) == 1
    for fact in ("length", "layers", "method", "matricisation"):
        other = table.assign(varied=["init", f"init,{fact}"])
        assert not len(members(judge(ledger, {"runs": other}))), fact


def test_sides_are_kept_as_facts_with_what_was_found():
    table = judge(one_test(kind="better"), runs(r062=-0.1))
    sides = [json.loads(text) for text in table["arm_facts"].dropna()]
    assert sides == [
        {"table": "runs", "init": "spectral_ones", "rank_fraction": rank}
        for rank in (0.62, "{rank}")
    ]


# What is missing


def test_everything_is_not_run_where_there_are_no_results_and_says_why():
    table = judge(read_ledger(LEDGER), {})
    assert set(table["verdict"]) == {"not run"}
    assert set(table["level"]) == {"test", "claim"}
    assert "there is no table 'runs'" in set(table["note"])


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        (
            cell("dense", 3.0),
            "no rows of the table 'runs' on language are init spectral_ones, rank_fraction {rank}",
        ),
        (cell("dense", 3.0, "small-images"), "has no rows of the track language"),
        (cell("dense", 3.0, metric="other"), "has no column 'test_loss'"),
        (cell("spectral_ones-r0.1", math.nan), "test_loss was not measured"),
    ],
)
def test_a_test_without_cells_is_not_run_and_says_why(table, reason):
    judged = judge(one_test(kind="better"), {"runs": table})
    assert list(judged["verdict"]) == ["not run", "not run"]
    assert reason in judged.loc[0, "note"]
    assert list(judged["ran"]) == [0, 0]


def test_one_seed_or_equal_differences_decide_nothing():
    ledger = one_test(kind="equivalence", margin="near")
    tables = runs(r062=0.0)
    one = {"runs": tables["runs"][tables["runs"]["seed"] == 0]}
    row = judge(ledger, one).iloc[0]
    assert row["verdict"] == "inconclusive"
    assert row["note"] == "one pair: no variance to judge by; this scale cannot tell"
    assert row["low"] == -math.inf
    same = {
        "runs": pd.concat([cell(f"{i}-r0.5", [3.0, 3.1]) for i in ("spectral", "spectral_ones")])
    }
    row = judge(ledger, same).iloc[0]
    assert row["verdict"] == "inconclusive"
    assert "do not vary" in row["note"]


@pytest.mark.parametrize(
    ("value", "expected"), [(60.0, "supported"), (99.0, "refuted"), (120.0, "refuted")]
)
def test_an_exact_metric_is_decided_without_a_variance(value, expected):
    ledger = one_test(
        kind="lower",
        metric="peak_memory_bytes",
        exact=True,
        margin="tenth",
        arm=PLAIN,
        reference={"init": "dense"},
    )
    tables = {
        "runs": pd.concat(
            [
                cell("dense", [100.0, 100.0], metric="peak_memory_bytes"),
                cell("spectral-r0.5", [value, value], metric="peak_memory_bytes"),
            ]
        )
    }
    row = judge(ledger, tables).iloc[0]
    assert row["verdict"] == expected
    assert row["low"] == row["high"] == pytest.approx(value / 100 - 1)


@pytest.mark.parametrize(
    ("difference", "side", "expected"),
    [
        (0.0, "spectral_ones-r0.62", "inconclusive"),  # the arm is not as good if it diverges
        (0.0, "spectral-r0.62", "supported"),
        (0.05, "spectral_ones-r0.62", "refuted"),
        (0.05, "spectral-r0.62", "inconclusive"),
    ],
)
def test_no_verdict_favours_the_side_that_diverged(difference, side, expected):
    tables = runs(r062=difference)
    table = tables["runs"].assign(diverged=False)
    table.loc[(table["cell"] == f"language/{side}") & (table["seed"] == 4), "diverged"] = True
    row = judge(one_test(kind="equivalence", margin="near"), {"runs": table}).iloc[0]
    assert row["verdict"] == expected
    assert (row["pairs"], row["dropped"]) == (4, 1)
    assert "diverged at 1 seed" in row["note"]


# What is no compression


@pytest.mark.parametrize(("kept", "verdict_"), [(0.99, "supported"), (1.0, "left out")])
@pytest.mark.parametrize("side", ["spectral-r0.62", "spectral_ones-r0.62"])
def test_a_side_that_keeps_as_much_as_dense_is_left_out_unless_the_test_says_otherwise(
    side, kept, verdict_
):
    table = runs(r025=0.0, r062=0.0)["runs"].assign(kept_parameters=0.5)
    table.loc[table["arm"] == side, "kept_parameters"] = kept
    ledger = one_test(kind="equivalence", margin="near")
    judged = judge(ledger, {"runs": table})
    assert list(judged["verdict"]) == ["supported", verdict_, "supported", "supported"]
    if verdict_ == "left out":
        assert judged.loc[1, "note"] == "keeps 1.00 of the dense parameters"
        assert judged.loc[2, "note"] == "2 contrasts: 1 supported, 1 left out"
        assert list(judged["ran"][-2:]) == [1, 1]
    all_ = one_test(kind="equivalence", margin="near", compressed=False)
    assert set(judge(all_, {"runs": table})["verdict"]) == {"supported"}


def test_a_dense_reference_is_no_side_that_is_left_out():
    ledger = one_test(kind="better", arm=PLAIN, reference={"init": "dense"})
    noise = np.array([0.0, 0.01, 0.02])
    table = pd.concat([cell("dense", 3 + noise), cell("spectral-r0.5", 2.9 + noise**2)])
    table["kept_parameters"] = table["init"].map({"dense": 1.0, "spectral": 0.5})
    assert verdict(ledger, {"runs": table}) == "supported"


def test_what_cells_keep_is_known_to_tables_that_do_not_say_it():
    ledger = one_test(
        kind="lower",
        metric="distance",
        table="barriers",
        arm={"init": "spectral_ones", "rank_fraction": "{rank}"},
        reference=PLAIN,
    )
    table = runs(r062=-0.1)["runs"].assign(kept_parameters=1.2)
    barriers = table[["cell", "track", "seed"]].assign(distance=table["test_loss"])
    judged = judge(ledger, {"runs": table, "barriers": barriers})
    assert judged.loc[0, "note"] == "keeps 1.20 of the dense parameters"


# Controls, settings and sweeps


def test_a_control_is_judged_and_decides_nothing():
    values = one_test(kind="equivalence", margin="near").model_dump(mode="json")
    tests = values["claims"][0]["tests"]
    tests.append(tests[0] | {"kind": "better", "margin": None, "control": True})
    table = judge(claims.Ledger.model_validate(values), runs(r062=0.01))
    assert list(table["level"]) == ["member", "test"] * 2 + ["claim"]
    assert list(table["verdict"]) == ["supported"] * 2 + ["refuted"] * 2 + ["supported"]
    assert list(table["control"]) == [False, False, True, True, False]
    assert (table["ran"].iloc[-1], table["refuted"].iloc[-1]) == (1, 0)


def test_verdicts_know_whether_the_setting_is_the_papers():
    table = judge(one_test(kind="better"), runs(r062=0.1))
    assert set(table["setting"]) == {"reduced"}
    assert set(judge(one_test(kind="better"), runs(r062=0.1), setting="paper")["setting"]) == {
        "paper"
    }


def test_what_a_sweep_found_need_not_be_asked_for_and_the_sweep_must():
    decay = {**PLAIN, "decay": "frobenius"}
    arms = ("spectral-r0.5", "spectral-r0.5-frobenius", "spectral-r0.5-frobenius-swept")
    table = pd.concat([cell(arm, 3.0) for arm in arms])
    for asked, arm in (
        ({}, "spectral-r0.5-frobenius"),
        ({"swept": "decay_strength"}, "spectral-r0.5-frobenius-swept"),
    ):
        ledger = one_test(kind="better", arm={**decay, **asked}, reference=PLAIN)
        assert list(members(judge(ledger, {"runs": table}))["arm"]) == [arm]
    ledger = one_test(kind="better", arm={**decay, "swept": "{which}"}, reference=PLAIN)
    assert list(members(judge(ledger, {"runs": table}))["arm"]) == list(arms[1:])


def test_every_width_of_a_swept_switch_counts_against_scratch_of_its_width():
    base = 3 + np.array([0.02, -0.03, 0.05])
    arms = {"spectral-r0.5": 0.0, "spectral-r0.5-w32": 0.4}
    cells = [cell(arm, base + shift) for arm, shift in arms.items()]
    cells += [
        cell(arm.replace("-r0.5", "-r0.5-pre0.25-swept"), base + shift - 0.1 + base**2 / 1e3)
        for arm, shift in arms.items()
    ]
    cells.append(cell("spectral-r0.5-pre0.25", base))  # not swept: not asked
    table = judge(read_ledger(LEDGER), {"runs": pd.concat(cells)})
    found = members(table[table["claim"] == "pretrain-language"])
    assert list(found["arm"]) == ["spectral-r0.5-pre0.25-swept", "spectral-r0.5-pre0.25-swept-w32"]
    assert list(found["reference"]) == ["spectral-r0.5", "spectral-r0.5-w32"]
    assert set(found["verdict"]) == {"supported"}


# Other tables


def test_truncation_is_met_by_rank_and_every_method():
    ledger = read_ledger(LEDGER)
    low = pd.concat([cell(f"spectral-r{r}", [3.0, 3.1, 3.2]) for r in (0.25, 0.5)])
    rows = [
        {
            "track": "language",
            "method": method,
            "rank_fraction": rank,
            "fine_tune_steps": steps,
            "seed": seed,
            "test_loss": 3.6 + 0.1 * seed + 0.01 * seed**2,
        }
        for method in ("plain", "fisher")
        for rank in (0.25, 0.5)
        for steps in (0, 50)
        for seed in range(3)
    ]
    table = judge(ledger, {"runs": low, "posthoc": pd.DataFrame(rows)})
    table = members(table[table["claim"] == "post-hoc"])
    assert list(table["arm"]) == ["spectral-r0.25"] * 2 + ["spectral-r0.5"] * 2
    assert table.loc[0, "reference"] == (
        "posthoc: method plain, rank_fraction 0.25, fine_tune_steps 0"
    )
    assert set(table["verdict"]) == {"supported"}


def test_closeness_is_read_from_the_interpolations():
    base = np.array([0.5, 0.52, 0.51])
    barriers = pd.concat(
        [
            cell("spectral-r0.25", base, metric="distance"),
            cell("spectral-r0.25-pre0.5", base - [0.2, 0.21, 0.2], metric="distance"),
            cell("dense-other-seed", base, metric="distance"),
        ]
    )
    table = judge(read_ledger(LEDGER), {"barriers": barriers})
    summary = table[(table["claim"] == "closeness") & (table["level"] == "claim")].iloc[0]
    assert summary["verdict"] == "supported"
    assert summary["note"] == "3 tests: 1 supported, 2 not run"


# Error rates on simulated results


@pytest.mark.parametrize(("kind", "truth"), [("equivalence", 0.02), ("better", 0.0)])
def test_a_family_is_seldom_judged_wrongly_about_any_rank(kind, truth):
    simulations, ranks, seeds = 120, (0.1, 0.2, 0.3), 4
    ledger = one_test(kind=kind, margin="near" if kind == "equivalence" else None)
    rng = np.random.default_rng(7)
    arms = [f"{init}-r{rank}" for rank in ranks for init in ("spectral", "spectral_ones")]
    table = pd.concat([cell(arm, np.zeros(seeds)) for arm in arms])
    counts = {"supported": 0, "refuted": 0}
    for _ in range(simulations):
        base = 3 + 0.1 * rng.standard_normal((len(ranks), 1, seeds))
        noise = truth + 0.004 * rng.standard_normal((len(ranks), 1, seeds))
        loss = np.concatenate([base, base + noise], axis=1).ravel()
        found = members(judge(ledger, {"runs": table.assign(test_loss=loss)}))
        for verdict_ in counts:
            counts[verdict_] += (found["verdict"] == verdict_).any()
    rate = 0.05  # family-wise, at most; both verdicts are wrong at these truths
    bound = rate + 4 * math.sqrt(rate * (1 - rate) / simulations)
    assert max(counts.values()) / simulations < bound
