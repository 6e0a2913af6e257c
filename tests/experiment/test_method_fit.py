"""A configuration names methods that go with its optimiser, its models and its devices."""

from __future__ import annotations

import pytest

from lowrank.errors import LowrankError
from lowrank.experiment import config
from lowrank.experiment.expand import expand

SHAPES = {
    "gpt2": {"width": 16, "depth": 1, "heads": 2, "context": 16},
    "wide_resnet": {"width": 1, "depth": 10, "channels": 1},
}


WARM = {"pretraining": {"fractions": [0.5]}}


def grid(
    method: str, family: str = "gpt2", optimizer: str = "adamw", options=None, studies=None, **top
):
    """The cells of one low-rank arm under a method, and of further studies."""
    track = {
        "data": {"kind": "text" if family == "gpt2" else "images"},
        "model": {"family": family, **SHAPES[family]},
        "training": {"steps": 10, "batch": 4, "optimizer": optimizer},
        "factors": {"rank_fraction": 0.5, "method": {"name": method, "options": options or {}}},
        "sweep": {"rates": [0.01]},
        "studies": {
            "initialisation": {"ranks": [0.5], "inits": ["spectral"]},
            **(studies or {}),
        },
    }
    return expand(config.parse({"scale": "s", "seeds": [0], "tracks": {"t": track}, **top})).cells


def test_a_method_that_fits_is_the_arms():
    assert grid("cola")["t/spectral-r0.5"].factors.method.name == "cola"


@pytest.mark.parametrize(
    ("method", "changes", "message"),
    [
        ("cola", {"family": "wide_resnet"}, "cola is defined for linear layers"),
        ("apollo", {"optimizer": "sgd"}, "apollo changes the steps of adamw, not of sgd"),
        ("relora", {"options": {"often": 3}}, r"options\.often"),
        ("galore", {"studies": WARM}, "galore has no dense start of its own"),
        ("colaa", {}, "Unknown method .*: 'colaa': did you mean 'cola'"),
    ],
)
def test_one_that_does_not_is_refused_before_anything_runs(method, changes, message):
    with pytest.raises(LowrankError, match=message):
        grid(method, **changes)


@pytest.mark.parametrize(
    ("method", "parallel", "devices", "refused"),
    [
        ("relora", "fsdp", 2, True),
        ("relora", "fsdp", 1, False),
        ("relora", "ddp", 2, False),
        ("cola", "fsdp", 2, False),
    ],
)
def test_a_method_of_whole_layers_is_refused_where_models_are_cut(
    method, parallel, devices, refused
):
    if refused:
        with pytest.raises(LowrankError, match=f"{method} needs whole layers, and parallel: fsdp"):
            grid(method, parallel=parallel, devices=devices)
    else:
        assert grid(method, parallel=parallel, devices=devices)


def test_what_an_extension_registers_is_asked_when_it_is_loaded(tmp_path):
    """Its options and what it fits are not known before."""
    file = tmp_path / "mine.py"
    file.write_text("", encoding="utf-8")
    cells = grid("mine", options={"any": 1}, extensions={"mine": str(file)})
    assert cells["t/spectral-r0.5"].factors.method.options == {"any": 1}


def test_a_warm_start_is_a_study_of_pretraining():
    cells = grid("relora", studies=WARM).values()
    assert {cell.pretraining.fraction for cell in cells if cell.pretraining} == {0.5}
