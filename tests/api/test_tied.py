"""Embeddings and heads of transformers' models in factors, on request."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

import lowrank
from lowrank.errors import LowrankError
from lowrank.factor.convert import factors

pytestmark = pytest.mark.filterwarnings("ignore:At their rank", "ignore::FutureWarning")

PAIR = ("transformer.wte", "lm_head")


def gpt2() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    special = {"bos_token_id": 1, "eos_token_id": 2}
    config = GPT2Config(vocab_size=97, n_embd=32, n_layer=1, n_head=2, n_positions=32, **special)
    return GPT2LMHeadModel(config).eval()


def tokens() -> torch.Tensor:
    return torch.arange(24).reshape(2, 12) + 3


def test_the_default_leaves_embeddings_and_heads_dense():
    names = set(factors(lowrank.factorize(gpt2(), rank=0.25)))
    assert names and all(name.startswith("transformer.h.") for name in names)


def test_a_tied_head_of_gpt2_and_its_embedding_share_factors():
    model = gpt2()
    dense = model(tokens()).logits
    lowrank.factorize(model, rank=1.0, layers=PAIR)
    assert model.lm_head.U is model.transformer.wte.V
    torch.testing.assert_close(model(tokens()).logits, dense, atol=2e-5, rtol=1e-4)
    model(tokens(), labels=tokens()).loss.backward()
    assert model.lm_head.U.grad.abs().sum() > 0
    row = lowrank.report(model).layers[0]
    assert (row.name, row.shape, row.rank) == ("transformer.wte, lm_head", (32, 97), 32)
    parameters = sum(p.numel() for p in model.parameters())
    assert lowrank.report(model).parameters == parameters
    assert lowrank.report(model).dense_parameters == sum(p.numel() for p in gpt2().parameters())
    assert lowrank.effective_rank(model)["lm_head"] == pytest.approx(
        lowrank.effective_rank(model)["transformer.wte"]
    )


def test_one_of_a_tied_pair_alone_is_refused():
    for name in PAIR:
        with pytest.raises(LowrankError, match="name all that share it"):
            lowrank.factorize(gpt2(), rank=8, layers=[name])


def test_shared_factors_decay_once():
    model = lowrank.factorize(gpt2(), rank=8, layers=PAIR)
    U, V = model.lm_head.U, model.lm_head.V
    wanted = (U @ V.mT).square().sum() / 2
    torch.testing.assert_close(lowrank.frobenius_decay(model), wanted)
    before = U.detach().clone(), V.detach().clone()
    optimizer = torch.optim.SGD(lowrank.parameter_groups(model, weight_decay=0.0), lr=0.1)
    lowrank.attach_decay(optimizer, model, strength=0.5, kind="l2")
    optimizer.step()
    torch.testing.assert_close((U, V), tuple(0.95 * side for side in before))


@pytest.mark.parametrize("load", [lowrank.from_pretrained, AutoModelForCausalLM.from_pretrained])
@pytest.mark.parametrize("layers", [PAIR, (*PAIR, "transformer.h.*")], ids=["pair", "all"])
def test_a_tied_pair_is_saved_and_loaded(tmp_path, load, layers):
    model = lowrank.factorize(gpt2(), rank=8, layers=layers)
    model.save_pretrained(tmp_path)
    again = load(tmp_path).eval()
    assert again.lm_head.U is again.transformer.wte.V
    assert factors(again).keys() == factors(model).keys()
    torch.testing.assert_close(again(tokens()).logits, model(tokens()).logits)
    again.tie_weights()
    torch.testing.assert_close(again(tokens()).logits, model(tokens()).logits)
    options = {"max_new_tokens": 5, "do_sample": False}
    assert torch.equal(again.generate(tokens(), **options), model.generate(tokens(), **options))


def test_made_dense_again_the_pair_is_tied_and_saved_as_any_model(tmp_path):
    model = lowrank.factorize(gpt2(), rank=8, layers=PAIR)
    logits = model(tokens()).logits
    lowrank.to_dense(model)
    assert model.lm_head.weight is model.transformer.wte.weight
    model.save_pretrained(tmp_path)
    again = GPT2LMHeadModel.from_pretrained(tmp_path).eval()
    assert again.lm_head.weight is again.transformer.wte.weight
    torch.testing.assert_close(again(tokens()).logits, logits, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["lm_head", "model.embed_tokens"])
def test_untied_embeddings_and_heads_stand_alone(tmp_path, name):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=97,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
    )
    model = lowrank.factorize(LlamaForCausalLM(config).eval(), rank=8, layers=[name])
    assert list(factors(model)) == [name]
    model.save_pretrained(tmp_path)
    again = lowrank.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(again(tokens()).logits, model(tokens()).logits)


def test_three_layers_of_one_weight(tmp_path):
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=97,
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=1,
        num_heads=4,
        decoder_start_token_id=0,
    )
    model = T5ForConditionalGeneration(config).eval()
    names = {n for n, _ in model.named_parameters(remove_duplicate=False) if "embed" in n}
    shared = [
        n.removesuffix(".weight") for n in names if model.get_parameter(n) is model.shared.weight
    ]
    given = {"input_ids": tokens(), "decoder_input_ids": tokens()}
    dense = model(**given).logits
    layers = [
        "shared",
        *shared,
        *(["lm_head"] if model.lm_head.weight is model.shared.weight else []),
    ]
    assert len(layers) >= 3
    lowrank.factorize(model, rank=1.0, layers=layers)
    torch.testing.assert_close(model(**given).logits, dense, atol=2e-5, rtol=1e-4)
    model.save_pretrained(tmp_path)
    again = lowrank.from_pretrained(tmp_path).eval()
    torch.testing.assert_close(again(**given).logits, model(**given).logits)
    assert again.shared.V is again.encoder.embed_tokens.V is again.decoder.embed_tokens.V


def test_a_pair_is_truncated_and_timed():
    model = gpt2()
    lowrank.truncate(model, [{"input_ids": tokens()}], rank=16, layers=PAIR)
    assert set(factors(model)) == set(PAIR)
    from lowrank.api.advise import advise

    found = advise(gpt2(), tokens(), layers=["transformer.wte"], turns=1, seconds=1e-4)
    assert found[0].kind == "Embedding" and found[0].speed
