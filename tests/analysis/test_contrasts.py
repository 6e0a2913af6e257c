"""Each study compares what it is about, and nothing else."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from lowrank.analysis.contrasts import all_contrasts, contrasts
from lowrank.analysis.stats import holm, paired_difference
from lowrank.experiment import config


def settings(family: str, **studies) -> config.Config:
    """A configuration of one track."""
    shape = {
        "gpt2": {"width": 16, "depth": 2, "heads": 2, "context": 16},
        "wide_resnet": {"width": 1, "depth": 10},
    }
    track = {
        "data": {"kind": "text" if family == "gpt2" else "images"},
        "model": {"family": family, **shape[family]},
        "training": {"steps": 10, "batch": 4},
        "factors": {"rank_fraction": 0.5},
        "sweep": {"rates": [0.01]},
        "studies": studies,
    }
    name = "language" if family == "gpt2" else "small-images"
    return config.parse({"scale": "test", "seeds": [0], "tracks": {name: track}})


def families(family: str = "gpt2", **studies) -> dict[str, list[tuple[str, str]]]:
    """The pairs of each study of a track, without the track's name."""
    name = "language" if family == "gpt2" else "small-images"
    found = contrasts(settings(family, **studies))
    assert {track for track, _ in found} <= {name}
    for pairs in found.values():
        assert all(cell.startswith(f"{name}/") for pair in pairs for cell in pair)
    return {
        study: [tuple(cell.split("/", 1)[1] for cell in pair) for pair in pairs]
        for (_, study), pairs in found.items()
    }


def test_initialisations_against_dense_and_against_spectral_of_the_same_rank():
    assert families(initialisation={"ranks": [0.25, 0.5], "inits": ["he", "spectral"]}) == {
        "initialisation": [
            ("he-r0.25", "dense"),
            ("he-r0.25", "spectral-r0.25"),
            ("spectral-r0.25", "dense"),
            ("he-r0.5", "dense"),
            ("he-r0.5", "spectral-r0.5"),
            ("spectral-r0.5", "dense"),
        ]
    }


def test_decays_against_the_tracks_own_at_the_same_rate_and_lower_rates_against_the_full_one():
    decays = [{"kind": "frobenius"}, {"kind": "l2"}]
    assert families(decay={"decays": decays, "rate_factors": [1.0, 0.5]}) == {
        "decay": [
            ("spectral-r0.5-frobenius", "spectral-r0.5"),
            ("spectral-r0.5-frobenius-halfrate", "spectral-r0.5-halfrate"),
            ("spectral-r0.5-frobenius-halfrate", "spectral-r0.5-frobenius"),
            ("spectral-r0.5-halfrate", "spectral-r0.5"),
        ]
    }


def test_switches_against_scratch_and_dense_and_variants_against_the_plain_switch():
    study = {"fractions": [0.25], "inits": ["spectral"], "variants_at": [0.25], "longer": [2.0]}
    low = "spectral-r0.5"
    assert families(pretraining=study) == {
        "pretraining": [
            (f"{low}-pre0.25", low),
            (f"{low}-pre0.25", "dense"),
            (f"{low}-pre0.25-rate1", low),
            (f"{low}-pre0.25-rate1", "dense"),
            (f"{low}-pre0.25-rate1", f"{low}-pre0.25"),
            (f"{low}-pre0.25-reset", low),
            (f"{low}-pre0.25-reset", "dense"),
            (f"{low}-pre0.25-reset", f"{low}-pre0.25"),
            (f"{low}-long2", low),
            (f"{low}-long2", "dense"),
        ]
    }


def test_widths_are_compared_within_themselves():
    low = "spectral-r0.5"
    assert families(scaling={"widths": [8, 16], "fraction": 0.25}) == {
        "scaling": [
            (f"{low}-w8", "dense-w8"),
            (f"{low}-pre0.25-w8", "dense-w8"),
            (f"{low}-pre0.25-w8", f"{low}-w8"),
            (low, "dense"),
            (f"{low}-pre0.25", "dense"),
            (f"{low}-pre0.25", low),
        ]
    }


def test_choices_of_layers_against_all_layers_and_against_dense():
    study = {"groups": ["mlp"], "dense_blocks": ["first"]}
    low = "spectral-r0.5"
    assert families(layers=study) == {
        "layers": [
            (low, "dense"),
            (f"{low}-mlp", low),
            (f"{low}-mlp", "dense"),
            (f"{low}-dense_first_block", low),
            (f"{low}-dense_first_block", "dense"),
        ]
    }
    assert families("wide_resnet", layers={"matricisations": ["spatial"]})["layers"][1:] == [
        (f"{low}-spatial", low),
        (f"{low}-spatial", "dense"),
    ]


def test_lines_to_pretrained_ends_against_the_line_to_the_one_from_scratch():
    found = families(interpolation={"fractions": [0.25, 0.5]})
    assert found == {
        "interpolation": [(f"spectral-r0.5-pre{f}", "spectral-r0.5") for f in (0.25, 0.5)]
    }


# The table


def rows(metric: str, **arms: list[float]) -> pd.DataFrame:
    return pd.concat(
        pd.DataFrame({"cell": f"language/{arm}", "seed": range(len(values)), metric: values})
        for arm, values in arms.items()
    )


LOW = "spectral-r0.5"
VALUES = {"dense": [3.0, 3.2, 3.1], LOW: [3.4, 3.3, 3.6], "he-r0.5": [3.9, 3.5, 3.6]}


def test_a_study_is_a_family_of_paired_differences_for_each_metric_of_its_task():
    study = settings("gpt2", initialisation={"ranks": [0.5], "inits": ["he", "spectral"]})
    table = all_contrasts(study, {"runs": rows("test_loss", **VALUES)})
    assert set(table["metric"]) == {"test_loss"}, "effective_rank was not measured"
    assert set(table["track"]) == {"language"} and set(table["study"]) == {"initialisation"}
    pairs = [("he-r0.5", "dense"), ("he-r0.5", LOW), (LOW, "dense")]
    assert list(zip(table["arm"], table["reference"], strict=True)) == [
        (f"language/{a}", f"language/{b}") for a, b in pairs
    ]
    found = [paired_difference(VALUES[a], VALUES[b]) for a, b in pairs]
    assert table["estimate"].to_numpy() == pytest.approx([d.estimate for d in found])
    assert table["p"].to_numpy() == pytest.approx([d.p for d in found])
    assert table["p_corrected"].to_numpy() == pytest.approx(holm([d.p for d in found]))
    both = rows("test_loss", **VALUES).assign(effective_rank=np.arange(9.0) ** 2)
    table = all_contrasts(study, {"runs": both})
    assert table["metric"].tolist() == ["test_loss"] * 3 + ["effective_rank"] * 3


def test_contrasts_whose_cells_are_not_there_are_left_out():
    study = settings("gpt2", initialisation={"ranks": [0.5], "inits": ["he", "spectral"]})
    there = {arm: VALUES[arm] for arm in ("dense", LOW)}
    table = all_contrasts(study, {"runs": rows("test_loss", **there)})
    assert list(zip(table["arm"], table["reference"], strict=True)) == [
        (f"language/{LOW}", "language/dense")
    ]
    assert all_contrasts(study, {"runs": rows("test_loss", **{LOW: VALUES[LOW]})}).empty


def test_a_run_that_diverged_makes_no_pair():
    study = settings("gpt2", initialisation={"ranks": [0.5], "inits": ["spectral"]})
    table = rows("test_loss", **{arm: VALUES[arm] for arm in ("dense", LOW)})
    table["diverged"] = [False, True, False] + [False] * 3
    (row,) = all_contrasts(study, {"runs": table}).to_dict("records")
    assert (row["pairs"], row["dropped"]) == (2, 1)
    assert row["estimate"] == pytest.approx((0.4 + 0.5) / 2)


def test_barriers_and_distances_of_lines_are_contrasted_with_the_study_of_lines_alone():
    study = settings(
        "gpt2",
        initialisation={"ranks": [0.5], "inits": ["spectral"]},
        interpolation={"fractions": [0.25]},
    )
    pre = f"{LOW}-pre0.25"
    runs = rows("test_loss", **{"dense": VALUES["dense"], LOW: VALUES[LOW], pre: [3.3, 3.1, 3.2]})
    ends = {LOW: [0.5, 0.7, 0.6], pre: [0.2, 0.3, 0.1]}
    barriers = rows("barrier", **ends).assign(distance=[1.0, 1.1, 1.2, 0.4, 0.6, 0.5])
    table = all_contrasts(study, {"runs": runs, "barriers": barriers})
    lines = table[table["study"] == "interpolation"].set_index("metric")
    assert list(lines.index) == ["test_loss", "barrier", "distance"]
    assert set(zip(lines["arm"], lines["reference"], strict=True)) == {
        (f"language/{pre}", f"language/{LOW}")
    }
    assert lines["estimate"].to_dict() == pytest.approx(
        {"test_loss": -0.7 / 3, "barrier": -0.4, "distance": -0.6}
    )
    assert set(table.loc[table["study"] == "initialisation", "metric"]) == {"test_loss"}
    for none in ({}, {"barriers": barriers[:0]}):
        without = all_contrasts(study, {"runs": runs, **none})
        assert set(without["metric"]) == {"test_loss"}
