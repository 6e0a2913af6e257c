"""What each study trains, times and refuses, by the names of its arms."""

from __future__ import annotations

from pathlib import Path

import pytest

from lowrank.errors import LowrankError
from lowrank.experiment import config
from lowrank.experiment.cell import Extension
from lowrank.experiment.expand import timed_cells
from lowrank.experiment.study import STUDIES, jobs, studies
from lowrank.experiment.track import Arm, arm_name

ROOT = Path(__file__).parents[2]
LOW = "spectral-r0.5"
MODELS = {
    "gpt2": {"width": 16, "depth": 2, "heads": 2, "context": 16},
    "wide_resnet": {"width": 1, "depth": 10},
}
FULL = {
    "initialisation": {
        "ranks": [0.25, 0.5],
        "inits": ["he", "spectral"],
        "controls": ["random_spectral"],
        "control_ranks": [0.75],
    },
    "decay": {"decays": [{"kind": "frobenius"}, {"kind": "l2"}], "rate_factors": [1.0, 0.25]},
    "pretraining": {
        "fractions": [0.25, 0.5],
        "inits": ["spectral", "he"],
        "variants_at": [0.75],
        "longer": [2.0],
    },
    "scaling": {"widths": [8, 16], "fraction": 0.25},
    "layers": {"groups": ["mlp"], "dense_blocks": ["first", "last"]},
    "interpolation": {"fractions": [0.25, 0.5]},
    "posthoc": {"ranks": [0.25, 0.75]},
}


def track(family: str = "gpt2", factors: dict | None = None, **sections) -> config.TrackConfig:
    """A track of ten steps with these studies."""
    values = {
        "data": {"kind": "text" if family == "gpt2" else "images"},
        "model": {"family": family, **MODELS[family]},
        "training": {"steps": 10, "batch": 4},
        "factors": {"rank_fraction": 0.5, **(factors or {})},
        "sweep": {"rates": [0.01]},
        "studies": sections,
    }
    return config.parse({"scale": "test", "seeds": [0], "tracks": {"t": values}}).tracks["t"]


def arms_of(name: str, family: str = "gpt2", what: str = "arms", **section) -> list[str]:
    asked = track(family, **{name: section})
    found = getattr(STUDIES[name], what)(getattr(asked.studies, name), asked)
    return [arm_name(arm, asked) for arm in found]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "initialisation",
            [
                *("dense", "he-r0.25", "spectral-r0.25", "he-r0.5", LOW),
                "random_spectral-r0.75",
            ],
        ),
        (
            "decay",
            [f"{LOW}-frobenius", f"{LOW}-frobenius-rate0.25", LOW, f"{LOW}-rate0.25"],
        ),
        (
            "pretraining",
            [
                *("dense", LOW, f"{LOW}-pre0.25", f"{LOW}-pre0.5"),
                *("he-r0.5", "he-r0.5-pre0.25", "he-r0.5-pre0.5"),
                *(f"{LOW}-pre0.75-rate1", f"{LOW}-pre0.75-reset", f"{LOW}-long2"),
            ],
        ),
        (
            "scaling",
            [
                *("dense-w8", f"{LOW}-w8", f"{LOW}-pre0.25-w8"),
                *("dense", LOW, f"{LOW}-pre0.25"),
            ],
        ),
        (
            "layers",
            [LOW, f"{LOW}-mlp", f"{LOW}-dense_first_block", f"{LOW}-dense_last_block"],
        ),
        ("interpolation", ["dense", LOW, f"{LOW}-pre0.25", f"{LOW}-pre0.5"]),
        ("posthoc", ["dense", "spectral-r0.25", "spectral-r0.75"]),
    ],
)
def test_a_study_trains_these_arms_in_this_order(name, expected):
    assert arms_of(name, **FULL[name]) == expected


def test_sections_that_say_little_ask_for_little():
    assert arms_of("scaling", widths=[8], fraction=None) == ["dense-w8", f"{LOW}-w8"]
    assert arms_of("interpolation") == ["dense", LOW]
    assert arms_of("layers", "wide_resnet", matricisations=["spatial"]) == [LOW, f"{LOW}-spatial"]


def test_baselines_are_wanted_of_text_alone():
    wanted = jobs()["baselines"].wanted
    assert wanted(track()) and not wanted(track("wide_resnet"))


def test_a_width_keeps_the_size_of_heads_unless_heads_are_given():
    """Heads of 8 at width 16."""
    for given, heads in ((None, [1, 1, 3]), ([2, 4, 6], [2, 4, 6])):
        asked = track(scaling={"widths": [4, 8, 24], "heads": given, "fraction": None})
        found = list(STUDIES["scaling"].arms(asked.studies.scaling, asked))
        assert [arm.heads for arm in found] == [count for count in heads for _ in range(2)]
        assert [arm.width for arm in found] == [4, 4, 8, 8, 24, 24]
        pairs = list(STUDIES["scaling"].contrasts(asked.studies.scaling, asked))
        assert all(a.width == b.width and a.heads == b.heads for a, b in pairs)
    images = track("wide_resnet", scaling={"widths": [2]})
    assert {arm.heads for _, arm in images.arms()} == {None}


def test_steps_are_timed_where_arms_cost_differently():
    for name in ("initialisation", "scaling"):
        assert arms_of(name, what="timed", **FULL[name]) == arms_of(name, **FULL[name])
    spatial = {"matricisations": ["channel", "spatial"]}
    assert arms_of("layers", "wide_resnet", "timed", **spatial) == [LOW, f"{LOW}-spatial"]
    assert {name for name, study in studies().items() if not study.timed(None, None)} >= {
        "decay",
        "pretraining",
        "interpolation",
        "posthoc",
    }


def test_speed_is_timed_over_sizes_by_both_readings_of_a_rank_and_trains_nothing():
    asked = track(speed={"widths": [8, 32], "ranks": [0.25, 0.62], "kept": [0.62]})
    assert asked.arms() == []
    arms = asked.timed()
    assert [(arm.width, arm.heads) for arm in arms] == [(8, 1)] * 4 + [(32, 4)] * 4
    assert [arm.kept for arm in arms] == [None, None, None, 0.62] * 2
    of = timed_cells("t", asked, {})
    assert [one.cell.arm for one in of.values()] == [
        *("dense-w8", "spectral-r0.25-w8", "spectral-r0.62-w8", "spectral-kept0.62-w8"),
        *("dense-w32", "spectral-r0.25-w32", "spectral-r0.62-w32", "spectral-kept0.62-w32"),
    ]
    assert {one.cell.runs({})[0].training.learning_rate for one in of.values()} == {0.01}
    with pytest.raises(LowrankError, match=r"studies\.speed\.widths: 20 is not divisible by its 3"):
        track(speed={"widths": [20], "heads": [3], "ranks": [0.5]})


def test_a_switch_is_compared_with_scratch_and_a_variant_with_the_plain_switch():
    """Whatever rate and moments the variant has."""
    asked = track(pretraining=FULL["pretraining"])
    pairs = STUDIES["pretraining"].contrasts(asked.studies.pretraining, asked)
    names = [tuple(arm_name(arm, asked) for arm in pair) for pair in pairs]
    for variant in ("rate1", "reset"):
        assert (f"{LOW}-pre0.75-{variant}", f"{LOW}-pre0.75") in names
    assert ("he-r0.5-pre0.5", "he-r0.5") in names and (f"{LOW}-long2", LOW) in names
    assert not [pair for pair in names if pair[0] in ("dense", LOW)]


@pytest.mark.parametrize(
    ("family", "factors", "sections", "message"),
    [
        ("gpt2", {}, {"layers": {"matricisations": ["spatial"]}}, "gpt2 has no convolutions"),
        ("gpt2", {}, {"layers": {"groups": ["conv"]}}, "Unknown group in studies.layers.groups"),
        ("gpt2", {}, {"scaling": {"widths": [16], "heads": [3]}}, "16 is not divisible by its 3"),
        ("gpt2", {}, {"pretraining": {"fractions": [0.5], "longer": [0.04]}}, "0.04 times 10 steps"),
        ("gpt2", {}, {"pretraining": {"fractions": [0.5], "longer": [1e9]}}, "times 10 steps is no"),
        ("wide_resnet", {"matricisation": "spatial"}, {"posthoc": {"ranks": [0.5]}}, "whitened needs"),
    ],
)  # fmt: skip
def test_a_section_that_does_not_fit_its_track_is_refused(family, factors, sections, message):
    with pytest.raises(LowrankError, match=message):
        track(family, factors, **sections)


@pytest.mark.parametrize(
    ("family", "factors", "sections"),
    [
        ("wide_resnet", {}, {"layers": {"matricisations": ["spatial"]}}),
        ("wide_resnet", {}, {"layers": {"groups": ["conv"]}}),
        ("gpt2", {}, {"layers": {"groups": ["mlp", "attention"]}}),
        ("gpt2", {}, {"scaling": {"widths": [18], "heads": [3]}}),
        ("gpt2", {}, {"pretraining": {"fractions": [0.5], "longer": [0.05, 1e8]}}),
        ("wide_resnet", {"matricisation": "spatial"}, {"posthoc": {"ranks": [0.5], "methods": ["plain"]}}),
        ("wide_resnet", {}, {"posthoc": {"ranks": [0.5], "methods": ["whitened"]}}),
    ],
)  # fmt: skip
def test_a_section_that_fits_is_taken(family, factors, sections):
    assert track(family, factors, **sections).studies.asked().keys() == sections.keys()


def test_truncations_name_their_methods_and_take_the_extensions_that_they_use():
    methods = {"methods": ["mine", "plain"], "ranks": [0.5]}
    mine, other = (Extension(file=f"{name}.py", sha256=name) for name in ("mine", "other"))
    extensions = {"mine": mine, "other": other}
    for steps, kind, expected in (
        ([0], "other", {"mine"}),
        ([0, 5], "other", {"mine", "other"}),
        ([5], "l2", {"mine"}),
    ):
        asked = track(
            factors={"decay": {"kind": kind}}, posthoc={**methods, "fine_tune_steps": steps}
        )
        study, section = STUDIES["posthoc"], asked.studies.posthoc
        assert list(study.truncations(section)) == ["mine", "plain"]
        job = study.job.spec(section, asked, extensions)
        assert set(job.extensions) == expected
        assert (job.study, job.factors) == (section, asked.factors)
        assert list(study.job.arms(section, asked)) == [Arm()]


def test_every_notebook_is_a_figure_of_some_study_but_that_of_the_claims():
    figures = [figure for study in studies().values() for figure in study.figures]
    files = {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert {figure.name for figure in figures} == files - {"claims"}
    assert {f.name: f.beside for f in figures if f.beside} == {"spectra": ("initialisation",)}


def test_studies_stand_in_the_order_of_the_report():
    order = ["initialisation", "decay", "pretraining", "scaling", "layers", "interpolation"]
    order += ["posthoc", "speed", "learning_rate", "methods", "baselines"]
    assert [name for name in studies() if name in order] == order
    assert {name for name, study in studies().items() if study.lines} >= {
        "scaling",
        "interpolation",
    }
