"""Planning: shapes without values, so the paper's sizes are checked in seconds."""

from __future__ import annotations

from pathlib import Path

import pytest

from lowrank.errors import LowrankError
from lowrank.experiment import config
from lowrank.experiment.build import build_model
from lowrank.experiment.cell import RunSpec
from lowrank.factor.convert import parameter_count
from lowrank.reports.plan import make_plan, show

ROOT = Path(__file__).parents[2]


def only(path: str, *tracks: str) -> config.Config:
    settings = config.read_config(ROOT / path)
    kept = {name: track for name, track in settings.tracks.items() if name in tracks}
    return settings.model_copy(update={"tracks": kept})


def test_the_papers_vision_models_have_their_published_sizes():
    table = make_plan(only("config/paper.yaml", "small-images", "large-images")).set_index("cell")
    assert table.loc["small-images/dense", "parameters"] == 36_536_884
    assert table.loc["large-images/dense", "parameters"] == 25_557_032


def test_a_plan_counts_what_a_real_model_has():
    settings = only("config/smoke.yaml", "language")
    table = make_plan(settings).set_index("cell")
    track = settings.tracks["language"]
    training = track.training
    spec = RunSpec(
        track="language", model=track.model, training=training, factors=track.factors, seed=0
    )
    model = build_model(spec, track.data.vocabulary)
    assert table.loc["language/spectral-r0.5", "parameters"] == parameter_count(model)


def test_hours_follow_from_flops_and_speed():
    settings = only("config/smoke.yaml", "language")
    slow, fast = make_plan(settings, 1e9), make_plan(settings, 2e9)
    assert slow["hours"].sum() == pytest.approx(2 * fast["hours"].sum())
    assert "device-hours" in show(slow)
    assert "--peak" in show(make_plan(settings))


def test_data_whose_shape_is_unknown_before_preparation_is_said():
    settings = only("config/cifar100.yaml", "small-images")
    make_plan(settings)  # a folder that is named as on the hub
    data = settings.tracks["small-images"].data.model_copy(update={"path": "data/mine"})
    track = settings.tracks["small-images"].model_copy(update={"data": data})
    settings = settings.model_copy(update={"tracks": {"small-images": track}})
    with pytest.raises(LowrankError, match="known after preparation"):
        make_plan(settings)
