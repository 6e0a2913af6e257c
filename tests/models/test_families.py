"""Every registered family: a record that is read without torch, and a model that trains in factors."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from lowrank.errors import LowrankError
from lowrank.experiment.build import build_model
from lowrank.experiment.cell import RunSpec
from lowrank.experiment.sections import EvaluationSpec, FactorSpec, ModelSpec, TrainingSpec
from lowrank.factor.convert import effective_weights, factorize_model, factors
from lowrank.factor.flops import forward_flops
from lowrank.models import FAMILIES, family
from lowrank.optimizers.base import parameter_groups
from lowrank.train.run import ensure_run

SMALL = {
    "gpt2": {"width": 16, "depth": 2, "heads": 2, "context": 16},
    "llama": {"width": 16, "depth": 2, "heads": 4, "kv_heads": 2, "context": 16},
    "vit": {"width": 16, "depth": 2, "heads": 2, "patch": 4, "image_size": 8, "channels": 1},
    "wide_resnet": {"width": 1, "depth": 10, "channels": 1},
    "resnet": {"width": 16, "depths": (1, 1), "channels": 1},
}
"""A small model of each family: a new one needs an entry."""
OUTPUTS = 10


def spec_of(name: str, **changes) -> ModelSpec:
    return ModelSpec(family=name, **{**SMALL[name], **changes})


def model_of(name: str, seed: int = 0, **changes) -> nn.Module:
    torch.manual_seed(seed)
    return family(name).build(spec_of(name, **changes), OUTPUTS)


def example(name: str, examples: int = 2) -> torch.Tensor:
    draw = torch.Generator().manual_seed(1)
    if family(name).task == "language":
        return torch.randint(OUTPUTS, (examples, 16), generator=draw)
    return torch.randn((examples, 1, 8, 8), generator=draw)


def outputs_of(model: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    return model.eval()(inputs)


def test_every_module_is_a_family_and_has_a_small_model_here():
    assert set(FAMILIES) == set(FAMILIES.names()) == set(SMALL)


def test_a_configuration_is_read_without_torch_or_transformers():
    code = (
        "import json, sys; from lowrank.experiment import config; "
        "config.read_config('config/laptop.yaml'); "
        "print(json.dumps([name for name in ('torch', 'transformers') if name in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


@pytest.mark.parametrize("name", SMALL)
def test_targets_are_layers_of_known_groups_in_blocks_counted_from_zero(name):
    model = model_of(name)
    targets = family(name).targets(model)
    assert {target.group for target in targets} == set(family(name).groups)
    assert {target.block for target in targets} == set(range(1 + max(t.block for t in targets)))
    assert len({target.name for target in targets}) == len(targets)
    convolutions = {isinstance(model.get_submodule(t.name), nn.Conv2d) for t in targets}
    assert convolutions == {family(name).convolutions}


@pytest.mark.filterwarnings("ignore:At their rank")
@pytest.mark.parametrize("name", SMALL)
def test_factors_of_full_rank_compute_what_the_dense_model_does(name):
    model, inputs = model_of(name), example(name)
    expected, dense = outputs_of(model, inputs), effective_weights(model)
    targets = family(name).targets(model)
    scales = {target.name: target.scale for target in targets}
    assert factorize_model(model, scales, rank_fraction=1.0) == list(scales)
    assert outputs_of(model, inputs).detach() == pytest.approx(expected.detach(), abs=1e-5)
    weights = effective_weights(model)
    assert weights.keys() == dense.keys()
    for key in dense:
        assert torch.allclose(weights[key].float(), dense[key].float(), atol=1e-5), key
    assert family(name).targets(model) == targets


@pytest.mark.parametrize("name", SMALL)
def test_flops_on_the_meta_device_are_those_of_the_model_and_fall_with_the_rank(name):
    whole = forward_flops(model_of(name), example(name, 1))
    with torch.device("meta"):
        model = family(name).build(spec_of(name), OUTPUTS)
        inputs = torch.zeros_like(example(name, 1), device="meta")
    assert forward_flops(model, inputs) == whole
    scales = {target.name: target.scale for target in family(name).targets(model)}
    factorize_model(model, scales, rank_fraction=0.25, rank_multiple=1)
    assert 0 < forward_flops(model, inputs) < whole


@pytest.mark.parametrize("name", SMALL)
def test_every_parameter_decays_as_matrix_vector_or_factor(name):
    model = model_of(name)
    groups = parameter_groups(model, family(name).embeddings)
    targets = {f"{target.name}.weight" for target in family(name).targets(model)}
    assert targets <= set(groups["matrices"])
    assert all(p.ndim > 1 for p in groups["matrices"].values())
    words = ("embed", "wte", "wpe", "cls_token", "position")
    kernels = ("patch_embeddings.projection.weight", "embedder")
    for key in groups["matrices"]:
        assert any(kernel in key for kernel in kernels) or not any(word in key for word in words)


@pytest.mark.parametrize(
    ("name", "given", "expected"),
    [
        (
            "llama",
            {"context": 20, "kv_heads": 1, "mlp_width": 28},
            {
                **{"hidden_size": 12, "intermediate_size": 28, "num_hidden_layers": 3},
                **{"num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": OUTPUTS},
                **{"max_position_embeddings": 20, "attention_dropout": 0.25, "use_cache": False},
            },
        ),
        (
            "vit",
            {"mlp_width": 28, "image_size": 10, "patch": 5, "channels": 3},
            {
                **{"hidden_size": 12, "intermediate_size": 28, "num_hidden_layers": 3},
                **{"num_attention_heads": 2, "image_size": 10, "patch_size": 5, "num_channels": 3},
                **{"hidden_dropout_prob": 0.25, "attention_probs_dropout_prob": 0.25},
                "num_labels": OUTPUTS,
            },
        ),
    ],
)
def test_every_key_of_a_model_section_reaches_the_model(name, given, expected):
    shared = {"width": 12, "depth": 3, "heads": 2, "init_std": 0.05, "dropout": 0.25}
    found = model_of(name, **shared, **given).config
    expected = {**expected, "initializer_range": 0.05, "_attn_implementation": "sdpa"}
    assert {key: getattr(found, key) for key in expected} == expected


def run_of(name: str, factorized: bool = True) -> RunSpec:
    language = family(name).task == "language"
    return RunSpec(
        track="language" if language else "small-images",
        model=spec_of(name),
        training=TrainingSpec(
            steps=30,
            batch=16,
            learning_rate=0.01,
            log_points=3,
            probe_points=1,
            validation_points=1,
        ),
        factors=FactorSpec(rank_fraction=0.5, rank_multiple=4) if factorized else None,
        evaluation=EvaluationSpec(validation_examples=16, test_examples=16, batch=8),
        seed=0,
    )


@pytest.mark.parametrize("factorized", [False, True])
@pytest.mark.parametrize("name", ["llama", "vit"])
def test_a_small_run_learns_and_is_found_again(name, factorized, folder_of, tmp_path):
    spec = run_of(name, factorized)
    run = ensure_run(spec, folder_of(spec), tmp_path, "cpu")
    losses = run.table("history")["train_loss"]
    assert losses.iloc[-1] < losses.iloc[0]
    assert run.result["kept_flops"] == 1 if not factorized else run.result["kept_flops"] < 1
    outputs = 300 if name == "llama" else 10
    assert bool(factors(run.model(outputs))) == factorized


# Llama


def test_grouped_queries_have_keys_and_values_of_fewer_rows():
    model = model_of("llama")
    shapes = {
        target.name.removeprefix("model.layers.0."): tuple(
            model.get_submodule(target.name).weight.shape
        )
        for target in family("llama").targets(model)
        if target.block == 0
    }
    assert shapes == {
        "self_attn.q_proj": (16, 16),
        "self_attn.k_proj": (8, 16),
        "self_attn.v_proj": (8, 16),
        "self_attn.o_proj": (16, 16),
        "mlp.gate_proj": (48, 16),
        "mlp.up_proj": (48, 16),
        "mlp.down_proj": (16, 48),
    }
    layer = FactorSpec(rank_fraction=0.5, rank_multiple=1)
    low = build_model(run_of("llama").model_copy(update={"factors": layer}), OUTPUTS)
    ranks = [factorized.rank for factorized in factors(low).values()][:7]
    assert ranks == [8, 4, 4, 8, 8, 8, 8]


def test_every_head_has_keys_of_its_own_unless_told_otherwise():
    layer = model_of("llama", kv_heads=None).get_submodule("model.layers.0.self_attn.k_proj")
    assert tuple(layer.weight.shape) == (16, 16)


@pytest.mark.parametrize(
    ("width", "hidden"), [(16, 48), (18, 48), (64, 176), (768, 2048), (4096, 10928)]
)
def test_three_matrices_of_the_mlp_hold_what_two_of_four_times_the_width_do(width, hidden):
    from lowrank.models.llama import mlp_width

    assert mlp_width(ModelSpec(family="llama", width=width, depth=1, heads=1, context=8)) == hidden
    assert 0 <= 3 * hidden - 8 * width < 3 * 16


@pytest.mark.parametrize(("given", "hidden"), [(None, 64), (24, 24)])
def test_the_mlp_of_a_vit_is_four_times_the_width_unless_its_own_is_given(given, hidden):
    layer = model_of("vit", mlp_width=given).get_submodule("vit.layers.0.mlp.fc1")
    assert tuple(layer.weight.shape) == (hidden, 16)


@pytest.mark.parametrize(
    ("name", "tied", "expected"),
    [("gpt2", None, True), ("gpt2", False, False), ("llama", None, False), ("llama", True, True)],
)
def test_the_head_is_the_embedding_where_it_is_tied(name, tied, expected):
    model = model_of(name, tied_head=tied)
    embedding = next(m for m in model.modules() if isinstance(m, nn.Embedding))
    assert (model.lm_head.weight is embedding.weight) == expected
    assert "lm_head" not in {target.name for target in family(name).targets(model)}


def test_llama_drops_attention_weights_in_training_only():
    model, inputs = model_of("llama", dropout=0.5), example("llama")
    assert not model.train()(inputs).equal(model(inputs))
    assert model.eval()(inputs).equal(model(inputs))


# ViT


def test_tokens_of_class_and_position_do_not_decay():
    groups = parameter_groups(model_of("vit"), family("vit").embeddings)
    assert {"vit.embeddings.cls_token", "vit.embeddings.position_embeddings"} <= set(
        groups["vectors"]
    )
    assert "vit.embeddings.patch_embeddings.projection.weight" in groups["matrices"]
    with pytest.raises(AssertionError, match=r"no parameter is an embedding '\*\.gone'"):
        parameter_groups(model_of("vit"), ("*.gone",))


def test_images_of_another_size_are_refused(digits_folder, tmp_path):
    run = run_of("vit")
    spec = run.model_copy(update={"model": spec_of("vit", image_size=16)})
    with pytest.raises(
        LowrankError, match=r"model\.image_size: 16, but the model sees images of 8 x 8"
    ):
        ensure_run(spec, digits_folder, tmp_path, "cpu")


# What a model section may say


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("llama", {"kv_heads": 3}, "kv_heads: 3 do not divide the 4 heads"),
        ("llama", {"heads": 16, "kv_heads": 16}, "heads: 16 of odd size 1"),
        ("llama", {"heads": 3, "kv_heads": None}, "heads: 3 do not divide the width 16"),
        ("llama", {"context": None}, "context is missing: the family llama needs it"),
        ("vit", {"patch": 3}, "patch: 3 does not divide the image_size 8"),
        ("vit", {"heads": 5}, "heads: 5 do not divide the width 16"),
        ("vit", {"image_size": None}, "image_size is missing: the family vit needs it"),
        ("vit", {"context": 8}, "context: 8 is not supported by the family vit"),
        ("gpt2", {"kv_heads": 2}, "kv_heads: 2 is not supported by the family gpt2"),
        ("gpt2", {"heads": 3}, "heads: 3 do not divide the width 16"),
        ("wide_resnet", {"tied_head": True}, "tied_head: True is not supported by the family wide_resnet"),
        ("wide_resnet", {"depth": 11}, "depth: 11 must be 6n \\+ 4"),
        ("resnet", {"depths": None}, "depths is missing: the family resnet needs it"),
    ],
)  # fmt: skip
def test_a_key_that_is_missing_or_does_not_fit_is_said(name, changes, message):
    with pytest.raises(ValidationError, match=message):
        spec_of(name, **changes)


def test_an_unknown_family_names_those_there_are():
    *others, last = map(repr, sorted(FAMILIES.names()))
    with pytest.raises(ValidationError, match=f"{', '.join(others)} or {last}"):
        ModelSpec(family="gpt3", width=16)
    with pytest.raises(LowrankError, match="Unknown model family 'lama': did you mean 'llama'"):
        family("lama")
