"""A method of one's own beside the published ones, by one override."""

from __future__ import annotations

from pathlib import Path

import pytest

from lowrank.errors import LowrankError
from lowrank.experiment.config import parse
from lowrank.experiment.experiment import Experiment
from lowrank.workflow.own_method import with_own_method
from lowrank.workflow.reading import read_config

ROOT = Path(__file__).parents[2]
METHOD = '''
from lowrank.methods import METHODS, Method
from lowrank.methods.factored import Factored

class Mine(Factored):
    """U V^T under another name."""

METHODS.add("mine", Method("my method", "unpublished", Mine{more}))
'''
TEXT = {
    "data": {"kind": "text", "vocabulary": 300},
    "model": {"family": "gpt2", "width": 32, "depth": 1, "heads": 2, "context": 16},
    "training": {"steps": 10, "batch": 4},
    "factors": {"rank_fraction": 0.25, "rank_multiple": 4},
    "sweep": {"rates": [0.01]},
    "studies": {
        "methods": {"methods": [{"name": "cola"}], "ranks": [0.25, 0.5], "flops_ranks": [0.25]}
    },
}
IMAGES = {
    "data": {"kind": "images"},
    "model": {"family": "wide_resnet", "width": 1, "depth": 10, "channels": 1},
    "training": {"steps": 6, "batch": 8, "optimizer": "sgd"},
    "factors": {"rank_fraction": 0.3},
    "sweep": {"rates": [0.01]},
    "studies": {"methods": {"methods": [{"name": "loro"}], "ranks": [0.3]}},
}


def config_of(**tracks):
    return parse({"scale": "test", "seeds": [0, 1], "tracks": tracks})


@pytest.fixture
def mine(tmp_path, forget_extensions):
    """A function that writes the file of a method, whose record may say more."""

    def write(more: str = "", name: str = "mine") -> str:
        file = tmp_path / f"{name}.py"
        file.write_text(METHOD.replace("{more}", more), encoding="utf-8")
        return str(file)

    return write


def test_it_joins_every_track_at_every_rank_and_budget_and_alone_is_trained(mine):
    before = config_of(text=TEXT, images=IMAGES)
    found = with_own_method(before, mine())
    trained = [
        *("text/spectral-r0.25-mine", "text/spectral-r0.5-mine", "text/spectral-r0.25-mine-flops"),
        "images/spectral-r0.3-mine",
    ]
    assert sorted(found.retrain) == sorted(trained)
    assert found.results_from == "published"
    experiment = Experiment(found)
    assert sorted(experiment.trained) == sorted(trained)
    assert set(experiment.grid.cells) - set(trained) == set(Experiment(before).grid.cells)
    cells = experiment.grid.cells
    plain = cells["text/spectral-r0.25-flops"].training.steps
    assert cells["text/spectral-r0.25-mine-flops"].training.steps == plain
    assert cells["text/spectral-r0.25-mine"].extensions.keys() == {"mine"}


def test_a_track_that_it_does_not_fit_is_left_out_and_said(mine, capsys):
    file = mine(", kernels=False")
    found = with_own_method(config_of(text=TEXT, images=IMAGES), file)
    assert {name.split("/")[0] for name in found.retrain} == {"text"}
    assert "images is left out: factors.method: mine is defined for linear layers" in (
        capsys.readouterr().err
    )
    with pytest.raises(LowrankError, match="no track of the scale test has a study of methods"):
        with_own_method(config_of(images=IMAGES), file)
    bare = {**TEXT, "studies": {}}
    with pytest.raises(LowrankError, match="take the scale methods"):
        with_own_method(config_of(text=bare), file)


def test_what_is_no_method_of_that_name_is_refused(mine, tmp_path):
    with pytest.raises(LowrankError, match=r"extensions\.other: .* registers the method 'mine'"):
        with_own_method(config_of(text=TEXT), mine(name="other"))
    with pytest.raises(LowrankError, match="galore is built in"):
        with_own_method(config_of(text=TEXT), mine(name="galore"))
    decay = tmp_path / "fading.py"
    text = "from lowrank.factor.decay import decay\ndecay('fading')(lambda U, V: (U, V))\n"
    decay.write_text(text, encoding="utf-8")
    with pytest.raises(LowrankError, match="registers no method of training called fading"):
        with_own_method(config_of(text=TEXT), str(decay))


def test_the_override_is_taken_with_whatever_configuration_is_given(mine, tmp_path):
    file = mine()
    path = tmp_path / "bench.yaml"
    path.write_text(config_of(text=TEXT).model_dump_json(), encoding="utf-8")
    found = read_config([path], {"try": file}, ROOT)
    assert len(found.retrain) == 3 and found.extensions == {"mine": file}
    assert read_config([path], {"try": file, "results_from": "train"}, ROOT).results_from == "train"
    assert read_config([path], {}, ROOT).retrain is None


def test_the_usual_scale_is_the_calls():
    assert read_config([], {}, ROOT, "smoke").scale == "smoke"
    assert read_config([], {"scale": "cifar100"}, ROOT, "smoke").scale == "cifar100"
