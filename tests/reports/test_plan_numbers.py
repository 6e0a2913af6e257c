"""What a plan says a cell costs, computed by hand from the models' own counts."""

from __future__ import annotations

import pandas as pd
import pytest
import torch

from lowrank.errors import LowrankError
from lowrank.experiment import config
from lowrank.experiment.build import build_model
from lowrank.experiment.cell import RunSpec
from lowrank.experiment.expand import expand
from lowrank.factor.convert import factors, parameter_count
from lowrank.factor.flops import forward_flops
from lowrank.methods import begin
from lowrank.reports import plan
from lowrank.train.result import costs

pytestmark = pytest.mark.filterwarnings("ignore:At their rank")
TEXT = {
    "data": {"kind": "text", "vocabulary": 300},
    "model": {"family": "gpt2", "width": 16, "depth": 2, "heads": 2, "context": 16},
    "training": {"steps": 20, "batch": 4},
    "factors": {"rank_fraction": 0.5, "rank_multiple": 1},
    "sweep": {"rates": [0.01, 0.02, 0.04], "seeds": [0]},
    "studies": {"pretraining": {"fractions": [0.25], "inits": ["spectral"], "longer": [1.5]}},
}
IMAGES = {
    "data": {"kind": "images"},
    "model": {"family": "wide_resnet", "width": 1, "depth": 10, "channels": 1},
    "training": {"steps": 6, "batch": 8, "optimizer": "sgd", "learning_rate": 0.1},
    "factors": {"rank_fraction": 0.3, "rank_multiple": 1},
    "sweep": {"rates": [0.01]},
    "studies": {"initialisation": {"ranks": [0.3], "inits": ["spectral"]}},
}


def settings(**tracks) -> config.Config:
    return config.parse({"scale": "test", "seeds": [0, 1, 2], "tracks": tracks})


def changed(track: dict, **sections) -> dict:
    return {**track, **{name: {**track[name], **values} for name, values in sections.items()}}


def measured(track: config.TrackConfig, low: bool, outputs: int, example: torch.Tensor):
    """Parameters, FLOPs and ranks of the real model."""
    spec = RunSpec(
        track="language",
        model=track.model,
        training=track.training.model_copy(update={"learning_rate": 0.1}),
        factors=track.factors if low else None,
        seed=0,
    )
    model = build_model(spec, outputs)
    ranks = [layer.rank for layer in factors(model).values()]
    return parameter_count(model), forward_flops(model, example), ranks


@pytest.fixture(scope="module")
def text():
    """The plan of the language track, and the dense and the low-rank model's own counts."""
    study = settings(language=TEXT)
    example = torch.zeros((1, 16), dtype=torch.long)
    sizes = [measured(study.tracks["language"], low, 300, example) for low in (False, True)]
    return plan.make_plan(study, 2e6).set_index("cell"), *sizes


def test_a_cell_costs_its_forward_flops_three_times_a_step_and_example_of_every_seed(text):
    table, (dense, dense_flops, _), (own, flops, ranks) = text
    row = table.loc["language/spectral-r0.5"]
    assert (row["runs"], row["steps"]) == (3, 20)
    assert (row["parameters"], row["forward_flops"]) == (own, flops)
    assert row["kept_parameters"] == own / dense
    assert row["kept_flops"] == flops / dense_flops
    assert row["training_flops"] == 3 * 20 * 4 * flops * 3
    assert (row["smallest_rank"], row["largest_rank"]) == (min(ranks), max(ranks))
    assert table.loc["language/spectral-r0.5-long1.5", "training_flops"] == 3 * 30 * 4 * flops * 3
    plain = table.loc["language/dense"]
    assert plain["training_flops"] == 3 * 20 * 4 * dense_flops * 3
    assert plain["kept_parameters"] == plain["kept_flops"] == 1.0
    assert pd.isna(plain["smallest_rank"])
    assert pd.isna(plain["largest_rank"])


def test_dense_steps_before_a_switch_cost_what_dense_steps_cost(text):
    """A quarter of twenty steps is dense."""
    table, (_, dense_flops, _), (own, flops, _) = text
    row = table.loc["language/spectral-r0.5-pre0.25"]
    assert row["training_flops"] == pytest.approx(3 * 4 * (5 * dense_flops + 15 * flops) * 3)
    assert row["forward_flops"] == flops
    assert row["parameters"] == own


def test_hours_are_flops_over_speed(text):
    table, *_ = text
    assert table["hours"].to_numpy() == pytest.approx(
        table["training_flops"].to_numpy() / 2e6 / 3600
    )


def test_a_sweep_costs_its_rates_but_the_one_that_is_a_cells_own(text):
    table, (_, dense_flops, _), (_, flops, _) = text
    for arm, cost in (("dense", dense_flops), ("spectral-r0.5", flops)):
        row = table.loc[f"language/{arm}-sweep"]
        assert row["runs"] == 2
        assert row["training_flops"] == 3 * 20 * 4 * cost * 2


class Shapes:
    """What the costs of a run ask of its task."""

    outputs = 300

    def example(self) -> torch.Tensor:
        return torch.zeros((1, 16), dtype=torch.long)


@pytest.mark.parametrize("method", [None, "relora", "self_guided", "sltrain", "dlrt"])
def test_a_plan_counts_what_a_finished_run_will_say(method):
    """With weights that are not trained, layers beside others and several passes a step, too."""
    given = {"method": {"name": method, "options": {}}} if method else {}
    names = ("pretraining", "initialisation") if method in (None, "relora") else ("initialisation",)
    studies = {
        "pretraining": {"fractions": [0.25], "inits": ["spectral"], "longer": []},
        "initialisation": {"ranks": [0.5], "inits": ["spectral"]},
    }
    track = changed(TEXT, factors=given, training={"learning_rate": 0.1})
    study = settings(language={**track, "studies": {name: studies[name] for name in names}})
    table = plan.make_plan(study).set_index("cell")
    cells = expand(study).cells
    assert set(table.index) == set(cells)
    for name, cell in cells.items():
        spec = cell.runs({})[0]
        expected = costs(spec, Shapes(), begin(spec))
        row = table.loc[name]
        for key in ("parameters", "kept_parameters", "kept_flops"):
            assert row[key] == expected[key], (name, key)
        assert row["training_flops"] == pytest.approx(3 * expected["training_flops"], rel=1e-12)


def test_no_sweep_is_planned_where_the_rate_is_given_or_is_one():
    for track in (
        changed(TEXT, training={"learning_rate": 0.1}),
        changed(TEXT, sweep={"rates": [0.1]}),
    ):
        table = plan.make_plan(settings(language=track))
        assert not table["cell"].str.endswith("-sweep").any()


def test_a_sweep_of_its_own_seeds_costs_every_value_with_each():
    sweep = {"seeds": [7, 8], "switch_rates": [0.5, 1]}
    table = plan.make_plan(settings(language=changed(TEXT, sweep=sweep))).set_index("cell")
    sweeps = table[table.index.str.endswith("-sweep")]["runs"]
    assert sweeps.to_dict() == {
        "language/dense-sweep": 6,
        "language/spectral-r0.5-sweep": 6,
        "language/spectral-r0.5-pre0.25-swept.switch_rate-sweep": 4,
    }


def test_state_is_weights_gradients_and_moments_of_four_bytes(text):
    table, (dense, _, _), (own, _, _) = text
    assert table.loc["language/dense", "state_bytes"] == 16 * dense
    assert table.loc["language/spectral-r0.5", "state_bytes"] == 16 * own
    images = plan.make_plan(settings(**{"small-images": IMAGES})).set_index("cell")
    row = images.loc["small-images/dense"]
    assert row["state_bytes"] == 12 * row["parameters"]


@pytest.mark.parametrize(
    ("data", "training", "classes", "side"),
    [
        ({}, {}, 10, 8),
        ({}, {"crop": 6}, 10, 6),
        ({"source": "hub", "path": "uoft-cs/cifar100"}, {}, 100, 32),
        ({"source": "hub", "path": "uoft-cs/cifar100", "size": 16}, {}, 100, 16),
        ({"source": "hub", "path": "ILSVRC/imagenet-1k"}, {"crop": 64}, 1000, 64),
        ({"source": "hub", "path": "ILSVRC/imagenet-1k"}, {}, 1000, 224),
    ],
)
def test_images_are_as_large_as_the_model_sees_them(data, training, classes, side):
    study = settings(**{"small-images": changed(IMAGES, data=data, training=training)})
    row = plan.make_plan(study).set_index("cell").loc["small-images/dense"]
    track = study.tracks["small-images"]
    parameters, flops, _ = measured(track, False, classes, torch.zeros(1, 1, side, side))
    assert (row["parameters"], row["forward_flops"]) == (parameters, flops)


def test_a_pretrained_tokeniser_is_taken_for_gpt2s(monkeypatch):
    study = settings(language=changed(TEXT, data={"tokenizer": "gpt2"}))
    row = plan.make_plan(study).set_index("cell").loc["language/dense"]
    track = study.tracks["language"]
    assert (
        row["parameters"]
        == measured(track, False, 50_257, torch.zeros((1, 16), dtype=torch.long))[0]
    )


def test_data_of_unknown_shape_are_an_error_that_names_what_is_known():
    study = settings(
        **{"small-images": changed(IMAGES, data={"source": "hub", "path": "some/thing", "size": 8})}
    )
    with pytest.raises(
        LowrankError, match=r"some/thing: classes and image size .* cifar100 or imagenet-1k"
    ):
        plan.make_plan(study)


def test_the_plan_as_text_ends_with_its_totals(text):
    shown = plan.show(text[0].reset_index())
    first, *_, last = shown.splitlines()
    assert first.split()[:3] == ["cell", "runs", "parameters"]
    assert shown.splitlines()[1].strip().startswith("language/")
    total = text[0]["training_flops"].sum()
    runs = 4 * 3 + 2 * 2
    assert last == f"{runs} runs, {total:.3g} training FLOPs, {total / 2e6 / 3600:.3g} device-hours"
    assert "5-8" in shown or "8-8" in shown


def test_a_line_of_the_plan_is_a_row_in_readable_units(text):
    row = (
        text[0]
        .reset_index()
        .head(1)
        .assign(
            runs=6,
            parameters=1234567,
            kept_parameters=0.256,
            smallest_rank=3.0,
            largest_rank=7.0,
            forward_flops=2.5e6,
            training_flops=4e9,
            hours=1.5,
            state_bytes=2_340_000_000,
        )
    )
    cell, *shown = plan.show(row).splitlines()[1].split()
    assert cell == row["cell"].item()
    assert shown == ["6", "1,234,567", "0.26", "3-7", "2.5e+06", "4e+09", "1.5", "2,340.0"]


def test_the_smallest_and_the_largest_rank_are_those_of_the_model():
    study = settings(**{"small-images": IMAGES})
    row = plan.make_plan(study).set_index("cell").loc["small-images/spectral-r0.3"]
    *_, ranks = measured(study.tracks["small-images"], True, 10, torch.zeros(1, 1, 8, 8))
    assert min(ranks) < max(ranks)
    assert (row["smallest_rank"], row["largest_rank"]) == (min(ranks), max(ranks))
