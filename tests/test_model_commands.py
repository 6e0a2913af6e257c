"""Commands about a model itself."""

from __future__ import annotations

import json

import pytest
import torch
import transformers as hf
from click.testing import CliRunner

import lowrank
from lowrank.cli import main

OPTIONS = ["--turns", "1", "--device", "cpu", "--size", "64"]


def lowrank_(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_advise_times_the_layers_of_a_configurations_tracks(tmp_path):
    file = tmp_path / "advice.json"
    done = lowrank_("advise", "config/smoke.yaml", "--track", "language", *OPTIONS, "--json", file)
    assert done.exit_code == 0, done.output
    found = json.loads(file.read_text(encoding="utf-8"))
    assert found["processor"] and found["models"][0]["title"] == "language: gpt2, batch of 8 x 32"
    assert found["models"][0]["words"][-1] in done.output
    assert found["models"][0]["layers"][0]["even_roofline"]
    assert found["models"][0]["whole"][1]["token_seconds"] > 0
    assert "GFLOP/s" in done.output and "language: gpt2, batch of 8 x 32\n" in done.output
    assert "| dense | " in done.output and "| 0.25  | " in done.output
    assert "| transformer.h.0.attn.c_attn" in done.output
    assert "images" not in done.output


@pytest.mark.filterwarnings("ignore:At their rank")
def test_advise_times_the_layers_of_a_saved_model_dense_or_factorised(tmp_path):
    torch.manual_seed(0)
    config = hf.LlamaConfig(
        vocab_size=61,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
    )
    model = hf.LlamaForCausalLM(config)
    lowrank.factorize(model, rank=0.5).save_pretrained(tmp_path)
    done = lowrank_("advise", tmp_path, "--batch", 2, "--length", 8, *OPTIONS)
    assert done.exit_code == 0, done.output
    assert "| model.layers.0.self_attn.q_proj and 7 alike | Linear | 32 x 32 |" in done.output


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["config/smoke.yaml", "--track", "nope"], "Unknown track 'nope'"),
        (["config/nope.yaml"], "does not exist"),
        (["tests"], "holds no config.json"),
    ],
)
def test_what_is_no_model_is_said_in_a_sentence(arguments, sentence):
    done = lowrank_("advise", *arguments)
    assert done.exit_code == 2
    assert sentence in done.output and "GFLOP/s" not in done.output
