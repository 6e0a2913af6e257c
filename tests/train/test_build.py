"""From a spec to a model: which layers become factors, and which draws are shared."""

from __future__ import annotations

import pytest
import torch
from runs import FACTORS, image_run, language_run

from lowrank.errors import LowrankError
from lowrank.experiment.build import build_model
from lowrank.experiment.cell import Extension
from lowrank.experiment.extensions import load_extensions
from lowrank.factor.convert import effective_weights, factors
from lowrank.factor.decay import DECAYS
from lowrank.files import sha256
from lowrank.models import blocks, family
from lowrank.train.build import choose_device

EXTENSION = """import pathlib
with open(pathlib.Path(__file__).with_name("log"), "a", encoding="utf-8") as log:
    log.write("x")
from lowrank.factor.decay import decay
decay("mine")(lambda U, V: (U, V))
decay("again")(lambda U, V: (U, V))
"""
DEEP = language_run().model.model_copy(update={"depth": 3})


def names_of(**changes) -> list[str]:
    spec = language_run(model=DEEP, factors=FACTORS.model_copy(update=changes))
    return [name.removeprefix("transformer.h.") for name in factors(build_model(spec, 20))]


ALL = [
    f"{block}.{layer}"
    for block in range(3)
    for layer in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ALL),
        ({"layers": ("attention",)}, [name for name in ALL if "attn" in name]),
        ({"layers": ("mlp",)}, [name for name in ALL if "mlp" in name]),
        ({"layers": ("first_block",)}, ALL[:4]),
        ({"layers": ("last_block",)}, ALL[8:]),
        ({"dense_layers": ("first_block",)}, ALL[4:]),
        ({"dense_layers": ("last_block", "attention")}, ["0.mlp.c_fc", "0.mlp.c_proj", "1.mlp.c_fc", "1.mlp.c_proj"]),
        ({"layers": ("*.h.1.*", "*c_fc")}, ["0.mlp.c_fc", *ALL[4:8], "2.mlp.c_fc"]),
    ],
)  # fmt: skip
def test_layers_named_less_layers_left_dense_become_factors(changes, expected):
    assert names_of(**changes) == expected


def test_a_choice_that_leaves_none_or_names_none_is_an_error():
    with pytest.raises(LowrankError, match="leave no layer to factorise"):
        names_of(dense_layers=("*",))
    with pytest.raises(LowrankError, match=r"factors\.layers: 'conv' matches no layer"):
        names_of(layers=("conv",))
    with pytest.raises(LowrankError, match=r"factors\.dense_layers: 'third_block' matches no"):
        names_of(dense_layers=("third_block",))


@pytest.mark.parametrize("run", [language_run, image_run])
def test_what_stays_dense_is_the_same_draw_in_every_cell_of_a_seed(run):
    dense = effective_weights(build_model(run(), 20))
    for init in ("he", "spectral"):
        low = build_model(run(factors=FACTORS.model_copy(update={"init": init})), 20)
        products = {f"{name}.weight" for name in factors(low)}
        for name, weight in effective_weights(low).items():
            assert weight.equal(dense[name]) or name in products
    other = effective_weights(build_model(run(seed=1), 20))
    assert any(not other[name].equal(dense[name]) for name in dense)


def test_factors_of_full_rank_are_the_dense_draw():
    whole = FACTORS.model_copy(update={"rank_fraction": 1.0})
    dense = effective_weights(build_model(language_run(), 20))
    for name, weight in effective_weights(build_model(language_run(factors=whole), 20)).items():
        assert weight == pytest.approx(dense[name], abs=1e-6)


def test_another_seed_draws_other_factors():
    he = FACTORS.model_copy(update={"init": "he"})
    a, b = (build_model(language_run(seed=seed, factors=he), 20) for seed in (0, 1))
    layer = "transformer.h.0.mlp.c_fc"
    assert not a.get_submodule(layer).V.equal(b.get_submodule(layer).V)


def test_a_model_may_be_built_dense_though_its_spec_has_factors():
    assert not factors(build_model(language_run(factors=FACTORS), 20, converted=False))


def test_residual_projections_are_drawn_smaller_by_the_root_of_twice_the_depth():
    targets = family("gpt2").targets(build_model(language_run(model=DEEP), 20))
    scales = {t.name.rsplit(".", 1)[1]: t.scale for t in targets}
    assert scales == {"c_attn": 1.0, "c_proj": pytest.approx(6**-0.5), "c_fc": 1.0}
    assert [t.block for t in targets] == [0] * 4 + [1] * 4 + [2] * 4
    assert blocks(targets) == [f"transformer.h.{block}" for block in range(3)]


def test_cuda_where_there_is_none_is_an_error_and_auto_is_the_processor(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto") == choose_device("cpu") == torch.device("cpu")
    with pytest.raises(LowrankError, match="cuda was requested, but torch finds no GPU"):
        choose_device("cuda")


def test_an_extension_is_imported_once_and_refused_if_it_changed(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(EXTENSION, encoding="utf-8")
    extension = Extension(file=str(path), sha256=sha256(path))
    load_extensions({"mine": extension})
    load_extensions({"mine": extension, "again": extension})
    assert (tmp_path / "log").read_text(encoding="utf-8") == "x"
    other = Extension(file=str(path), sha256="0" * 64)
    with pytest.raises(LowrankError, match=r"extensions\.mine: .* missing or has changed"):
        load_extensions({"mine": other})
    del DECAYS["mine"], DECAYS["again"]  # other tests look at all that is registered
    with pytest.raises(LowrankError, match="missing or has changed"):
        load_extensions({"gone": Extension(file=str(tmp_path / "gone.py"), sha256="1" * 64)})


def test_numbers_too_small_for_full_precision_are_zero_in_runs():
    small = torch.full((64,), 2e-38)
    torch.set_flush_denormal(False)
    assert (small * 0.01 > 0).all()
    choose_device("cpu")
    assert (small * 0.01 == 0).all()
