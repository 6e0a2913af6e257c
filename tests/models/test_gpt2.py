"""GPT-2 is that of transformers: its parameters, its logits, its gradients and its initialisation."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from lowrank.experiment.sections import ModelSpec
from lowrank.models import family

SPEC = ModelSpec(family="gpt2", width=48, depth=3, heads=4, context=20)
TOKENS = torch.randint(50, (3, 21), generator=torch.Generator().manual_seed(2))


def ours(tied: bool = True, **changes) -> nn.Module:
    torch.manual_seed(1)
    spec = SPEC.model_copy(update={"tied_head": tied, **changes})
    return family("gpt2").build(spec, 50)


def theirs(tied: bool = True) -> nn.Module:
    torch.manual_seed(1)
    sizes = {"vocab_size": 50, "n_embd": 48, "n_layer": 3, "n_head": 4, "n_positions": 20}
    dropout = dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), 0.0)
    tokens = {"bos_token_id": 0, "eos_token_id": 0}
    return GPT2LMHeadModel(GPT2Config(**sizes, **dropout, **tokens, tie_word_embeddings=tied))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("length", [20, 7])
def test_logits_and_names_are_those_of_transformers_both_ways(tied, length):
    for source, target in ((theirs(tied), ours(tied)), (ours(tied), theirs(tied))):
        assert list(source.state_dict()) == list(target.state_dict())
        for parameter in source.parameters():
            nn.init.normal_(parameter, std=0.2)  # also biases and gains
        target.load_state_dict(source.state_dict())
        logits = [
            getattr(found, "logits", found)
            for found in (model(TOKENS[:, :length]) for model in (source, target))
        ]
        torch.testing.assert_close(
            *logits, rtol=0, atol=1e-5 * float(logits[0].detach().abs().max())
        )


def test_logits_of_a_fresh_model_are_equal_to_a_millionth():
    model, other = ours(), theirs()
    other.load_state_dict(model.state_dict())
    assert float((model(TOKENS[:, :20]) - other(TOKENS[:, :20]).logits).abs().max()) < 1e-6


def test_loss_and_gradients_are_those_of_transformers():
    model, other = ours(init_std=0.2), theirs()
    other.load_state_dict(model.state_dict())
    loss = model(TOKENS[:, :-1], TOKENS[:, 1:])
    logits = other(TOKENS[:, :-1]).logits
    expected = nn.functional.cross_entropy(logits.flatten(0, 1), TOKENS[:, 1:].flatten())
    torch.testing.assert_close(loss, expected)
    for value in (loss, expected):
        value.backward()
    for (name, parameter), twin in zip(model.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, twin.grad, rtol=1e-4, atol=1e-6, msg=name)


def test_the_initialisation_is_gpt2s():
    model = ours(init_std=0.05, width=128)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2:
            expected = 0.05 / 6**0.5 if name.endswith("c_proj.weight") else 0.05
            assert float(parameter.detach().std()) == pytest.approx(expected, rel=0.05), name
        else:
            constant = 1.0 if ".ln_" in name and name.endswith("weight") else 0.0
            assert bool((parameter == constant).all()), name


def test_every_key_of_the_section_has_its_place():
    shapes = {name: tuple(p.shape) for name, p in ours(width=12, depth=2).named_parameters()}
    assert shapes["transformer.wte.weight"] == (50, 12)
    assert shapes["transformer.wpe.weight"] == (20, 12)
    assert shapes["transformer.h.1.mlp.c_fc.weight"] == (12, 48)
    assert "transformer.h.2.mlp.c_fc.weight" not in shapes
    assert "lm_head.weight" not in shapes and "lm_head.weight" in dict(
        ours(False).named_parameters()
    )


def test_dropout_is_in_training_only_and_of_every_kind():
    model = ours(dropout=0.5)
    once, again = (model.train()(TOKENS[:, :20]) for _ in range(2))
    assert not once.equal(again)
    evaluated = model.eval()(TOKENS[:, :20])
    assert evaluated.equal(model(TOKENS[:, :20]))
    torch.testing.assert_close(evaluated, ours().eval()(TOKENS[:, :20]))
    block = model.transformer.h[0]
    assert (model.transformer.drop.p, block.drop.p, block.attn.dropout) == (0.5, 0.5, 0.5)


def test_a_token_sees_none_that_follow():
    model, other = ours().eval(), TOKENS[:, :20].clone()
    other[:, 12:] = (other[:, 12:] + 1) % 50
    before, after = model(TOKENS[:, :20]), model(other)
    assert before[:, :12].equal(after[:, :12])
    assert not before[:, 12:].equal(after[:, 12:])


def test_a_longer_text_than_the_context_is_an_error():
    with pytest.raises(RuntimeError, match="size of tensor"):
        ours()(TOKENS)
