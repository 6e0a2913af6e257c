"""Cells become runs: seeds, rates, switches and trunks; a run's identity is all that determines it."""

from __future__ import annotations

import pytest

from lowrank.errors import LowrankError
from lowrank.experiment import config
from lowrank.experiment.cell import Cell, Extension, RunSpec, SweepGroup
from lowrank.experiment.expand import expand
from lowrank.experiment.sections import (
    DecaySpec,
    EvaluationSpec,
    FactorSpec,
    ModelSpec,
    PretrainingSpec,
    TrainingSpec,
)
from lowrank.versions import VERSIONS

MODEL = ModelSpec(family="gpt2", width=16, depth=1, heads=2, context=16)
TRAINING = TrainingSpec(steps=20, batch=4, channels_last=False)
FACTORS = FactorSpec(rank_fraction=0.5)


def cell(**changes) -> Cell:
    values = {
        "name": "language/low",
        "track": "language",
        "studies": ("pretraining",),
        "model": MODEL,
    }
    values |= {
        "training": TRAINING,
        "factors": FACTORS,
        "seeds": (3, 5),
        "rate_from": "language/low",
    }
    return Cell(**{**values, **changes})


def test_runs_made_before_a_key_came_keep_their_identity(monkeypatch):
    """The digest as it was before Llama and ViT brought keys of their own."""
    monkeypatch.setitem(VERSIONS, "training", 2)
    spec = cell().runs({"language/low": 0.03})[0]
    assert spec.identity("data") == "b5924b51656a51d6"
    for changes in ({"tied_head": False}, {"tied_head": True}):
        model = ModelSpec(**{**MODEL.model_dump(), **changes})
        assert spec.model_copy(update={"model": model}).identity("data") != "b5924b51656a51d6"


def test_a_cells_runs_are_its_seeds_at_its_share_of_the_sweeps_best_rate():
    runs = cell(rate_factor=0.5).runs({"language/low": 0.03})
    assert [run.seed for run in runs] == [3, 5]
    for run in runs:
        assert run.training == TRAINING.model_copy(update={"learning_rate": 0.015})
        assert (run.track, run.model, run.factors) == ("language", MODEL, FACTORS)
        assert run.switch_step == 0


def test_a_given_rate_needs_no_sweep():
    given = cell(
        rate_from=None, training=TRAINING.model_copy(update={"learning_rate": 0.2}), rate_factor=0.5
    )
    assert given.groups == ()
    assert [run.training.learning_rate for run in given.runs({})] == [0.1, 0.1]


def test_a_pretrained_run_is_dense_at_the_dense_arms_rate_and_low_rank_at_its_own():
    pre = cell(pretraining=PretrainingSpec(fraction=0.25), trunk="language/dense")
    assert pre.groups == ("language/low", "language/dense")
    assert pre.fork_step == 5
    run = pre.runs({"language/low": 0.03, "language/dense": 0.01})[0]
    assert run.training.learning_rate == 0.03
    assert run.pretraining.dense_learning_rate == 0.01
    assert run.switch_step == 5
    trunk = run.trunk()
    assert (trunk.factors, trunk.pretraining) == (None, None)
    assert trunk.training.learning_rate == 0.01
    assert (trunk.seed, trunk.model) == (3, MODEL)
    with pytest.raises(LowrankError, match=r"language/low needs what was swept of language/dense"):
        pre.runs({"language/low": 0.03})


def test_a_trunk_is_the_dense_cells_own_run():
    """Else the dense steps before a switch would be trained twice."""
    dense = cell(name="language/dense", factors=None, rate_from="language/dense")
    pre = cell(
        pretraining=PretrainingSpec(fraction=0.25),
        trunk="language/dense",
        extensions={"mine": Extension(file="x", sha256="y")},
    )
    rates = {"language/low": 0.03, "language/dense": 0.01}
    for low, plain in zip(pre.runs(rates), dense.runs(rates), strict=True):
        assert low.trunk() == plain
        assert low.trunk().identity("d") == plain.identity("d")


def test_a_sweeps_run_is_a_cells_run_at_that_rate():
    group = SweepGroup(
        name="language/low", choice="learning_rate", values=(0.01, 0.03), cell=cell(seeds=(3,))
    )
    assert group.runs(0.03) == cell(seeds=(3,)).runs({"language/low": 0.03})
    assert group.groups == ()


SWEPT_L2 = FACTORS.model_copy(update={"decay": DecaySpec(strength="swept")})


def test_a_swept_strength_is_the_one_that_was_found():
    """The usual one, 0.1 here, is left out, so that it is the same run as that of the plain arm."""
    decaying = cell(factors=SWEPT_L2, strength_from="language/low.decay_strength", rate_factor=0.5)
    assert decaying.groups == ("language/low", "language/low.decay_strength")
    plain = cell(rate_factor=0.5)
    for strength, expected in ((0.3, 0.3), (0.1, None)):
        found = {"language/low": 0.03, "language/low.decay_strength": strength}
        run = decaying.runs(found)[0]
        assert run.factors.decay.strength == expected
        assert run.training.learning_rate == 0.015
        assert (run == plain.runs(found)[0]) is (expected is None)
        facts = decaying.facts(found)
        assert (facts["decay_strength"], facts["swept"]) == (strength, "decay_strength")
    assert decaying.facts()["decay_strength"] is None


def test_a_swept_rate_after_the_switch_is_the_one_that_was_found():
    switch = "language/low-pre.switch_rate"
    given = PretrainingSpec(fraction=0.25, rate_factor=0.7)
    swept = given.model_copy(update={"rate_factor": "swept"})
    pre = cell(pretraining=swept, trunk="language/dense", switch_from=switch)
    assert pre.groups == ("language/low", "language/dense", switch)
    found = {"language/low": 0.03, "language/dense": 0.01, switch: 0.7}
    assert (
        pre.runs(found)
        == cell(pretraining=given, trunk="language/dense", rate_factor=0.7).runs(found)
    )  # fmt: skip
    assert pre.runs(found)[0].training.learning_rate == pytest.approx(0.021)
    assert (pre.facts(found)["rate_factor"], pre.facts(found)["swept"]) == (0.7, "switch_rate")
    with pytest.raises(
        LowrankError, match=r"needs what was swept of language/low-pre\.switch_rate"
    ):
        pre.runs({"language/low": 0.03, "language/dense": 0.01})


def run(**changes) -> RunSpec:
    values = {
        "track": "language",
        "model": MODEL,
        "training": TRAINING,
        "factors": FACTORS,
        "seed": 0,
    }
    return RunSpec(**{**values, **changes})


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"factors": None},
        {"model": MODEL.model_copy(update={"dropout": 0.1})},
        {"training": TRAINING.model_copy(update={"clip": None})},
        {"pretraining": PretrainingSpec(fraction=0.25)},
        {"evaluation": EvaluationSpec(validation_examples=7)},
        {"extensions": {"mine": Extension(file="a.py", sha256="1")}},
    ],
)
def test_whatever_determines_a_result_is_in_its_identity(change):
    assert run(**change).identity("data") != run().identity("data")


@pytest.mark.parametrize(
    "change",
    [
        {"training": TRAINING.model_copy(update={"checkpoint_every": 7})},
        {"evaluation": EvaluationSpec(test_examples=7, batch=3)},
    ],
)
def test_what_determines_nothing_is_not(change):
    assert run(**change).identity("data") == run().identity("data")


def test_an_extension_counts_by_its_contents_and_not_by_its_path():
    a, b = (run(extensions={"mine": Extension(file=f, sha256="1")}) for f in ("a.py", "b.py"))
    assert a.identity("data") == b.identity("data")
    assert run().identity("data") != run().identity("other data")


def test_facts_of_a_cell_are_what_tells_it_apart():
    pre = PretrainingSpec(fraction=0.25, moments="reset", rate_factor=1.0)
    facts = cell(pretraining=pre, rate_factor=0.7).facts()
    assert facts["cell"] == "language/low"
    assert facts["arm"] == "low"
    assert (facts["init"], facts["rank_fraction"], facts["matricisation"]) == (
        "spectral",
        0.5,
        "channel",
    )
    assert (facts["decay"], facts["decay_coupled"]) == ("l2", False)
    assert (facts["pretraining"], facts["moments"], facts["rate_factor"]) == (0.25, "reset", 1.0)
    assert facts["steps"] == 20
    dense = cell(factors=None, rate_factor=0.7).facts()
    assert (dense["init"], dense["rank_fraction"], dense["pretraining"], dense["moments"]) == (
        "dense",
        None,
        0.0,
        None,
    )
    assert dense["rate_factor"] == 0.7


# The grid


def grid(sweep=None, **studies):
    track = {
        "data": {"kind": "text"},
        "model": {"family": "gpt2", "width": 16, "depth": 2, "heads": 2, "context": 16},
        "training": {"steps": 20, "batch": 4},
        "factors": {"rank_fraction": 0.5},
        "sweep": {"rates": [0.01, 0.02], **(sweep or {})},
        "studies": studies,
    }
    return expand(config.parse({"scale": "test", "seeds": [0, 1], "tracks": {"language": track}}))


def test_an_arm_that_two_studies_ask_for_is_one_cell():
    found = grid(
        initialisation={"ranks": [0.5], "inits": ["spectral"]},
        pretraining={"fractions": [0.5], "inits": ["spectral"]},
    )
    assert list(found.cells) == [
        "language/dense",
        "language/spectral-r0.5",
        "language/spectral-r0.5-pre0.5",
    ]
    assert found.cells["language/dense"].studies == ("initialisation", "pretraining")
    assert list(found.sweeps) == ["language/dense", "language/spectral-r0.5"]


def test_switched_cells_run_at_half_their_arms_rate_unless_the_variant_says_otherwise():
    cells = grid(
        pretraining={
            "fractions": [0.5],
            "inits": ["spectral"],
            "variants_at": [0.5],
            "longer": [1.5],
        }
    ).cells
    low = "language/spectral-r0.5"
    assert cells[f"{low}-pre0.5"].rate_factor == 0.5
    assert cells[f"{low}-pre0.5-rate1"].rate_factor == 1.0
    assert cells[f"{low}-pre0.5-reset"].rate_factor == 0.5
    assert cells[f"{low}-pre0.5-reset"].pretraining.moments == "reset"
    assert cells[f"{low}-long1.5"].training.steps == 30
    for name in (f"{low}-pre0.5", f"{low}-pre0.5-rate1"):
        assert cells[name].rate_from == low
        assert cells[name].trunk == "language/dense"


def test_decays_and_layers_are_compared_at_the_plain_arms_rate():
    cells = grid(
        decay={"decays": [{"kind": "frobenius"}], "rate_factors": [1.0, 0.5]},
        layers={"groups": ["mlp"]},
    ).cells
    assert {name: (c.rate_from, c.rate_factor) for name, c in cells.items()} == {
        "language/spectral-r0.5-frobenius": ("language/spectral-r0.5", 1.0),
        "language/spectral-r0.5-frobenius-halfrate": ("language/spectral-r0.5", 0.5),
        "language/spectral-r0.5": ("language/spectral-r0.5", 1.0),
        "language/spectral-r0.5-mlp": ("language/spectral-r0.5", 1.0),
    }
    assert cells["language/spectral-r0.5-mlp"].factors.layers == ("mlp",)


def test_strengths_and_rates_after_the_switch_are_swept_at_the_rate_that_was_found():
    """Half the rate has the strength of the full one, and moments that are reset have the plain switch's rate."""
    low = "language/spectral-r0.5"
    found = grid(
        {"decay_strengths": [0.5, 2], "switch_rates": [0.5, 1], "seeds": [7]},
        decay={"decays": [{"kind": "none"}, {"kind": "frobenius", "strength": "swept"}]},
        pretraining={"fractions": [0.5], "inits": ["spectral"], "variants_at": [0.5]},
    )
    cells, strengths, switches = found.cells, f"{low}-frobenius-swept", f"{low}-pre0.5-swept"
    assert set(cells) == {
        *("language/dense", low, f"{low}-none", f"{low}-none-halfrate"),
        *(strengths, f"{strengths}-halfrate"),
        *(switches, f"{switches}-reset", f"{low}-pre0.5", f"{low}-pre0.5-rate1"),
    }
    for name, cell in cells.items():
        expected = f"{strengths}.decay_strength" if name.startswith(strengths) else None
        assert cell.strength_from == expected
        expected = f"{switches}.switch_rate" if name.startswith(switches) else None
        assert cell.switch_from == expected
    sweeps = {name: (s.choice, s.values, s.groups) for name, s in found.sweeps.items()}
    assert sweeps == {
        "language/dense": ("learning_rate", (0.01, 0.02), ()),
        low: ("learning_rate", (0.01, 0.02), ()),
        f"{strengths}.decay_strength": ("decay_strength", (0.05, 0.2), (low,)),
        f"{switches}.switch_rate": ("switch_rate", (0.5, 1.0), (low, "language/dense")),
    }
    assert {s.cell.seeds for s in found.sweeps.values()} == {(7,)}
    assert {s.extend for s in found.sweeps.values() if s.choice != "learning_rate"} == {0}
    rates = {low: 0.01, "language/dense": 0.02}
    (run,) = found.sweeps[f"{switches}.switch_rate"].runs(1.0, rates)
    assert (run.training.learning_rate, run.pretraining.rate_factor, run.seed) == (0.01, 1.0, 7)
    assert run.pretraining.dense_learning_rate == 0.02
    varied = {name: cell.varied for name, cell in cells.items()}
    assert varied[strengths] == ("decay", "swept")
    assert varied[switches] == ("pretraining", "swept")
    assert varied[f"{low}-pre0.5"] == ("pretraining",)
    assert varied[f"{low}-pre0.5-rate1"] == ("pretraining", "rate_factor")


def test_widths_keep_the_size_of_a_head_and_have_sweeps_of_their_own():
    found = grid(scaling={"widths": [8, 16, 32], "fraction": 0.25})
    heads = {
        name: c.model.heads for name, c in found.cells.items() if name.startswith("language/dense")
    }
    assert heads == {"language/dense-w8": 1, "language/dense": 2, "language/dense-w32": 4}
    assert found.cells["language/spectral-r0.5-pre0.25-w8"].trunk == "language/dense-w8"
    assert found.cells["language/spectral-r0.5-pre0.25-w8"].rate_from == "language/spectral-r0.5-w8"
    assert set(found.sweeps) == {
        f"language/{arm}{w}" for arm in ("dense", "spectral-r0.5") for w in ("-w8", "", "-w32")
    }


def test_a_dense_arm_is_swept_as_the_model_that_its_cells_are():
    """Heads that a study gives for a width are those of the trunk, too."""
    found = grid(scaling={"widths": [8, 32], "heads": [4, 8], "fraction": 0.25})
    for name, sweep in found.sweeps.items():
        assert sweep.cell.model == found.cells[name].model
    heads = {name: cell.model.heads for name, cell in found.cells.items()}
    assert set(heads.values()) == {4, 8}


def test_cells_and_sweeps_have_the_files_of_the_methods_they_use_and_no_others(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from lowrank.factor.init import he, initialisation\ninitialisation('mine')(he)\n",
        encoding="utf-8",
    )
    track = {
        "data": {"kind": "text"},
        "model": {"family": "gpt2", "width": 16, "depth": 1, "heads": 2, "context": 16},
        "training": {"steps": 20, "batch": 4},
        "factors": {"rank_fraction": 0.5},
        "sweep": {"rates": [0.01, 0.02]},
        "studies": {"initialisation": {"ranks": [0.5], "inits": ["mine", "spectral"]}},
    }
    values = {"scale": "test", "seeds": [0], "extensions": {"mine": "mine.py"}}
    found = expand(config.parse({**values, "tracks": {"language": track}}), tmp_path)
    for group in (found.cells, found.sweeps):
        used = {name: list(one.extensions) for name, one in group.items()}
        assert used == {
            "language/dense": [],
            "language/mine-r0.5": ["mine"],
            "language/spectral-r0.5": [],
        }


def test_an_arm_whose_name_is_no_name_of_a_file_is_refused():
    with pytest.raises(
        LowrankError, match=r"'language/spectral-r0\.5-long1e\+06', which is no name"
    ):
        grid(pretraining={"fractions": [0.5], "inits": ["spectral"], "longer": [1e6]})
