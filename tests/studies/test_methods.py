"""The study of published methods: its arms, lengths of equal FLOPs, and what it refuses."""

from __future__ import annotations

import pytest

from lowrank.analysis.contrasts import contrasts
from lowrank.errors import LowrankError
from lowrank.experiment import config
from lowrank.experiment.cost import shape, training_flops
from lowrank.experiment.expand import expand
from lowrank.experiment.shares import nearest

TEXT = {
    "data": {"kind": "text", "vocabulary": 300},
    "model": {"family": "gpt2", "width": 32, "depth": 1, "heads": 2, "context": 16},
    "training": {"steps": 100, "batch": 4},
    "factors": {"rank_fraction": 0.25, "rank_multiple": 4},
    "sweep": {"rates": [0.01, 0.02]},
}
WARM = {"fraction": 0.25, "rate_factor": 1}


def study(*methods, track=TEXT, ranks=(0.25, 0.5), flops_ranks=(), **more):
    section = {"methods": list(methods), "ranks": ranks, "flops_ranks": flops_ranks, **more}
    track = {**track, "studies": {"methods": section}}
    return config.parse({"scale": "test", "seeds": [0, 1], "tracks": {"t": track}})


def test_dense_and_plain_factors_are_there_and_each_method_at_its_ranks():
    entries = [{"name": "cola"}, {"name": "galore", "ranks": [0.5]}]
    assert [name.removeprefix("t/") for name in expand(study(*entries)).cells] == [
        *("dense", "spectral-r0.25", "spectral-r0.25-cola"),
        *("spectral-r0.5", "spectral-r0.5-cola", "spectral-r0.5-galore"),
    ]


def test_an_entry_may_have_its_own_start_decay_and_dense_steps():
    entries = [
        {"name": "factored", "init": "he"},
        {"name": "khodak", "decay": {"kind": "frobenius"}},
        {"name": "pretrained", "pretraining": {"fraction": 0.5}},
        {"name": "relora", "options": {"every": 20}, "pretraining": WARM},
    ]
    cells = expand(study(*entries, ranks=[0.25])).cells
    assert {name.removeprefix("t/"): cell.facts()["method"] for name, cell in cells.items()} == {
        "dense": "dense",
        "spectral-r0.25": "factored",
        "he-r0.25": "factored",
        "spectral-r0.25-frobenius-khodak": "khodak",
        "spectral-r0.25-pre0.5": "pretrained",
        "spectral-r0.25-relora-pre0.25-rate1": "relora",
    }
    relora = cells["t/spectral-r0.25-relora-pre0.25-rate1"]
    assert relora.factors.method.options == {"every": 20}
    assert relora.rate_from == "t/spectral-r0.25-relora"


def test_every_method_and_rank_has_a_sweep_of_its_own_with_as_many_trials():
    """Equal-FLOPs arms take the rate of equal steps; a method's sweep has the decay that it demands."""
    entries = [{"name": "cola"}, {"name": "khodak", "decay": {"kind": "frobenius"}}]
    grid = expand(study(*entries, flops_ranks=[0.25]))
    assert {len(sweep.values) for sweep in grid.sweeps.values()} == {2}
    at_steps = {name for name, cell in grid.cells.items() if cell.budget == "steps"}
    assert set(grid.sweeps) == at_steps
    for name, cell in grid.cells.items():
        assert cell.rate_from == name.removesuffix("-flops")
    khodak = grid.sweeps["t/spectral-r0.25-frobenius-khodak"]
    assert khodak.cell.factors.decay.kind == "frobenius"


def test_arms_of_equal_flops_take_those_of_the_dense_run_to_a_step():
    entries = [
        {"name": "self_guided"},
        {"name": "sltrain"},
        {"name": "relora", "pretraining": WARM},
    ]
    settings = study(*entries, flops_ranks=[0.25])
    cells = expand(settings).cells
    seen = shape(settings.tracks["t"])
    dense = training_flops(cells["t/dense"].runs({"t/dense": 0.01})[0], seen)
    found = {name: cell for name, cell in cells.items() if cell.budget == "flops"}
    plain = "t/spectral-r0.25"
    assert set(found) == {f"{plain}-flops", f"{plain}-self_guided-flops", f"{plain}-sltrain-flops"}
    for cell in found.values():
        assert cell.training.steps == nearest(cell.length, 100) != 100
        run = cell.runs(dict.fromkeys(cell.groups, 0.01))[0]
        flops = training_flops(run, seen)
        assert abs(flops - dense) <= 0.51 * flops / cell.training.steps
    assert found[f"{plain}-flops"].facts()["budget"] == "flops"
    assert "length" not in found[f"{plain}-flops"].varied


def test_lengths_are_counted_once_and_then_read(monkeypatch):
    settings = study({"name": "cola"}, flops_ranks=[0.25])
    lengths = settings.tracks["t"].studies.methods.lengths
    assert set(lengths) == {"spectral-r0.25", "spectral-r0.25-cola"}
    monkeypatch.setattr("lowrank.experiment.cost.sizes", None)
    again = config.parse(settings.model_dump(mode="json"))
    assert again == settings
    given = study({"name": "cola"}, flops_ranks=[0.25], lengths={**lengths, "spectral-r0.25": 2.0})
    assert expand(given).cells["t/spectral-r0.25-flops"].training.steps == 200


def test_every_arm_is_compared_with_dense():
    settings = study({"name": "cola"}, ranks=[0.25], flops_ranks=[0.25])
    pairs = contrasts(settings)["t", "methods"]
    arms = ["spectral-r0.25", "spectral-r0.25-cola"]
    assert pairs == [(f"t/{a}{b}", "t/dense") for b in ("", "-flops") for a in arms]


@pytest.mark.parametrize(
    ("entries", "more", "message"),
    [
        ([{"name": "dense"}], {}, "dense is there anyway"),
        ([{"name": "factored", "options": {"a": 1}}], {}, "options: factored has none"),
        ([{"name": "pretrained"}], {}, "pretraining is missing: the method pretrained needs it"),
        ([{"name": "factored", "pretraining": WARM}], {}, "has no dense start: use pretrained"),
        ([{"name": "cola", "pretraining": WARM}], {}, "the method cola has no dense start"),
        ([{"name": "fira"}, {"name": "fira", "options": {"every": 9}}], {}, "options alone do not tell"),
        ([{"name": "cola", "ranks": [0.75]}], {}, "cola at the rank 0.75, which is none of ranks"),
        ([{"name": "cola"}], {"flops_ranks": [0.75]}, "flops_ranks: 0.75 is none of ranks"),
        ([{"name": "galor"}], {}, "did you mean 'galore'"),
        ([{"name": "galor"}], {"flops_ranks": [0.25]}, "did you mean 'galore'"),
        ([{"name": "galore", "options": {"evry": 2}}], {}, r"factors\.method\.options\.evry"),
        ([{"name": "fira"}], {"track": {**TEXT, "training": {"steps": 9, "batch": 4, "optimizer": "sgd"}}}, "not of sgd"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_in_a_sentence(entries, more, message):
    with pytest.raises(LowrankError, match=message):
        expand(study(*entries, **more))


def test_equal_flops_need_data_of_known_shape():
    images = {
        "data": {"kind": "images", "source": "local", "path": "x"},
        "model": {"family": "wide_resnet", "width": 1, "depth": 10},
        "training": {"steps": 9, "batch": 4, "optimizer": "sgd"},
        "factors": {"rank_fraction": 0.25},
        "sweep": {"rates": [0.1]},
    }
    assert study({"name": "loro"}, track=images)
    with pytest.raises(LowrankError, match="known after preparation only"):
        study({"name": "loro"}, track=images, flops_ranks=[0.25])
