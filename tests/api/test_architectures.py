"""Any model: architectures of transformers, drawn at random, none of them known to the code by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers as hf
from torch import Tensor, nn

import lowrank
from lowrank.factor.convert import factors

TOKENS = 97
SMALL = {
    "vocab_size": TOKENS,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
GROUPED = {**SMALL, "num_key_value_heads": 2, "max_position_embeddings": 64}
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def tokens() -> Tensor:
    return torch.randint(3, TOKENS, (2, 12))


def text() -> dict[str, Tensor]:
    return {"input_ids": tokens()}


def pairs() -> dict[str, Tensor]:
    return {"input_ids": tokens(), "decoder_input_ids": tokens()}


def pictures() -> dict[str, Tensor]:
    return {"pixel_values": torch.randn(2, 3, 32, 32)}


def sound() -> dict[str, Tensor]:
    return {"input_features": torch.randn(2, 8, 64), "decoder_input_ids": tokens()}


MODELS: dict[str, tuple[Callable[[], nn.Module], Callable[[], dict[str, Tensor]], int, str]] = {
    "gpt2": (
        lambda: hf.GPT2LMHeadModel(
            hf.GPT2Config(
                vocab_size=TOKENS, n_embd=32, n_layer=2, n_head=2, n_positions=64, **SPECIAL
            )
        ),
        text,
        8,
        "transformer.h.*",
    ),
    "llama": (lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**GROUPED)), text, 14, "model.layers.*"),
    "mistral": (
        lambda: hf.MistralForCausalLM(hf.MistralConfig(**GROUPED, head_dim=8)),
        text,
        14,
        "model.layers.*",
    ),
    "bert": (lambda: hf.BertForMaskedLM(hf.BertConfig(**SMALL)), text, 12, "bert.encoder.layer.*"),
    "t5": (
        lambda: hf.T5ForConditionalGeneration(
            hf.T5Config(
                vocab_size=TOKENS,
                d_model=32,
                d_kv=8,
                d_ff=64,
                num_layers=2,
                num_heads=4,
                decoder_start_token_id=0,
            )
        ),
        pairs,
        32,
        "*coder.block.*",
    ),
    "vit": (
        lambda: hf.ViTForImageClassification(
            hf.ViTConfig(
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=4,
                image_size=32,
                patch_size=8,
            )
        ),
        pictures,
        12,
        "vit.*layer*",
    ),
    "resnet": (
        lambda: hf.ResNetForImageClassification(
            hf.ResNetConfig(
                embedding_size=8, hidden_sizes=[16, 32], depths=[2, 2], layer_type="basic"
            )
        ),
        pictures,
        10,
        "resnet.encoder.stages.*",
    ),
    "convnext": (
        lambda: hf.ConvNextForImageClassification(
            hf.ConvNextConfig(hidden_sizes=[16, 32], depths=[2, 2], num_stages=2)
        ),
        pictures,
        13,
        "convnext.encoder.stages.*",
    ),
    "whisper": (
        lambda: hf.WhisperForConditionalGeneration(
            hf.WhisperConfig(
                vocab_size=TOKENS,
                d_model=32,
                encoder_layers=2,
                decoder_layers=2,
                encoder_attention_heads=2,
                decoder_attention_heads=2,
                encoder_ffn_dim=64,
                decoder_ffn_dim=64,
                num_mel_bins=8,
                max_source_positions=32,
                max_target_positions=64,
                decoder_start_token_id=1,
                suppress_tokens=None,
                begin_suppress_tokens=None,
                **SPECIAL,
            )
        ),
        sound,
        32,
        "model.*coder.layers.*",
    ),
}
WRITERS = ("gpt2", "llama", "mistral", "t5", "whisper")

pytestmark = pytest.mark.filterwarnings("ignore:At their rank", "ignore::FutureWarning")


def made(name: str) -> tuple[nn.Module, dict[str, Tensor]]:
    build, inputs, _, _ = MODELS[name]
    torch.manual_seed(0)
    return build().eval(), inputs()


@pytest.mark.parametrize("name", MODELS)
def test_the_layers_of_the_blocks_become_factors_and_learn(name):
    model, inputs = made(name)
    dense = model(**inputs).logits
    assert lowrank.factorize(model, rank=0.5) is model
    from fnmatch import fnmatchcase

    _, _, count, pattern = MODELS[name]
    assert len(factors(model)) == count
    assert all(fnmatchcase(layer, pattern) for layer in factors(model))
    logits = model(**inputs).logits
    assert logits.shape == dense.shape
    logits.square().mean().backward()
    for layer, module in factors(model).items():
        for factor in (module.U, module.V):
            assert factor.grad is not None and factor.grad.isfinite().all(), layer
    kept = [module.U.numel() + module.V.numel() for module in factors(model).values()]
    assert sum(p.numel() for p in model.parameters()) == lowrank.report(model).parameters
    assert sum(kept) == sum(x.kept for x in lowrank.report(model).layers if x.rank)


@pytest.mark.parametrize("name", MODELS)
def test_the_dense_model_computes_the_same(name):
    model, inputs = made(name)
    classes = {layer: type(module) for layer, module in model.named_modules()}
    lowrank.factorize(model, rank=0.25)
    with torch.no_grad():
        logits = model(**inputs).logits
        lowrank.to_dense(model)
        assert not factors(model)
        torch.testing.assert_close(model(**inputs).logits, logits, atol=2e-5, rtol=1e-5)
    assert {layer: type(module) for layer, module in model.named_modules()} == classes


@pytest.mark.parametrize("name", MODELS)
def test_full_rank_is_the_dense_model(name):
    model, inputs = made(name)
    with torch.no_grad():
        dense = model(**inputs).logits
        lowrank.factorize(model, rank=1.0)
        torch.testing.assert_close(model(**inputs).logits, dense, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("name", WRITERS)
def test_a_factorised_model_generates_what_its_dense_equal_does(name):
    model, inputs = made(name)
    lowrank.factorize(model, kept_parameters=0.75)
    inputs.pop("decoder_input_ids", None)
    options: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False}
    written = model.generate(**inputs, **options)
    assert written.shape[0] == 2
    assert torch.equal(lowrank.to_dense(model).generate(**inputs, **options), written)


@pytest.mark.parametrize(("name", "inputs", "count"), [("resnet18", 64, 19), ("vit_b_16", 224, 24)])
def test_models_of_torchvision(name, inputs, count):
    try:
        from torchvision import models
    except (ImportError, RuntimeError):  # its wheel on PyPI does not fit a torch without CUDA
        pytest.skip("torchvision is not there, or not for this build of torch")
    model = models.get_model(name, weights=None).eval()
    lowrank.factorize(model, rank=0.25)
    assert len(factors(model)) == count
    model(torch.randn(1, 3, inputs, inputs)).square().mean().backward()
    assert all(layer.U.grad is not None for layer in factors(model).values())
