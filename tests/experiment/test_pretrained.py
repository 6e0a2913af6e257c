"""A model that begins with the weights of a folder: read, checked, trained, truncated."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
import yaml
from safetensors.torch import load_file, save_file

from lowrank.errors import LowrankError
from lowrank.experiment.build import build_model
from lowrank.experiment.cell import RunSpec
from lowrank.experiment.config import read_config
from lowrank.experiment.experiment import Experiment
from lowrank.experiment.sections import FactorSpec, ModelSpec, TrainingSpec
from lowrank.factor.convert import factors
from lowrank.jobs import train as jobs
from lowrank.jobs.posthoc import posthoc
from lowrank.models import family
from lowrank.train.run import ensure_run

SIZES: dict[str, dict[str, Any]] = {
    "gpt2": {"width": 16, "depth": 1, "heads": 2, "context": 16},
    "llama": {"width": 16, "depth": 1, "heads": 2, "context": 16, "kv_heads": 1},
    "vit": {"width": 16, "depth": 1, "heads": 2, "image_size": 8, "patch": 4, "channels": 1},
    "resnet": {"width": 16, "depths": [1, 1], "channels": 1},
}
OUTPUTS = 300


def saved(folder: Path, name: str = "gpt2", outputs: int = OUTPUTS, **sizes: Any) -> Path:
    """A folder of transformers' own model, every weight drawn anew."""
    torch.manual_seed(5)
    model = family(name).transformers(ModelSpec(family=name, **{**SIZES[name], **sizes}), outputs)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return folder


def spec_of(folder: Path, name: str = "gpt2", **changes: Any) -> RunSpec:
    model = ModelSpec(family=name, pretrained=str(folder), **{**SIZES[name], **changes})
    training = TrainingSpec(
        steps=4, batch=4, learning_rate=1e-3, log_points=2, probe_points=2, validation_points=1
    )
    return RunSpec(track="language", model=model, training=training, seed=0)


@pytest.mark.parametrize("name", SIZES)
def test_every_family_of_transformers_begins_with_a_folders_weights(name, tmp_path):
    folder = saved(tmp_path / "model", name)
    spec = spec_of(folder, name)
    model = build_model(spec, OUTPUTS).state_dict()
    kind = type(family(name).transformers(spec.model, OUTPUTS))
    for key, value in kind.from_pretrained(folder).state_dict().items():
        assert torch.equal(model[key], value), key


def test_shards_and_half_precision_are_read(tmp_path):
    whole = build_model(spec_of(saved(tmp_path / "whole")), OUTPUTS).state_dict()
    model = hf.GPT2LMHeadModel.from_pretrained(tmp_path / "whole").bfloat16()
    model.save_pretrained(tmp_path / "parts", max_shard_size="10KB")
    assert len([*(tmp_path / "parts").glob("*.safetensors")]) > 1
    parts = build_model(spec_of(tmp_path / "parts"), OUTPUTS).state_dict()
    assert all(torch.equal(parts[key], value.bfloat16().float()) for key, value in whole.items())


def test_factors_are_those_of_the_folders_weights(tmp_path):
    spec = spec_of(saved(tmp_path / "model"))
    spec = spec.model_copy(update={"factors": FactorSpec(rank_fraction=1.0, rank_multiple=1)})
    weights = load_file(tmp_path / "model/model.safetensors")
    for name, layer in factors(build_model(spec, OUTPUTS)).items():
        torch.testing.assert_close(
            layer.dense_weight(), weights[f"{name}.weight"], atol=1e-5, rtol=1e-4
        )


def test_the_identity_is_the_content_wherever_it_lies(tmp_path):
    here, there = saved(tmp_path / "here"), saved(tmp_path / "there/copy")
    assert spec_of(here).identity("data") == spec_of(there).identity("data")
    drawn = spec_of(here).model_copy(update={"model": ModelSpec(family="gpt2", **SIZES["gpt2"])})
    assert drawn.identity("data") != spec_of(here).identity("data")
    before = spec_of(there)
    weights = load_file(there / "model.safetensors")
    weights["transformer.wte.weight"][0, 0] += 1
    save_file(weights, there / "model.safetensors", {"format": "pt"})
    assert spec_of(there).identity("data") != before.identity("data")
    with pytest.raises(LowrankError, match="has changed since the run was planned"):
        build_model(before, OUTPUTS)


def broken(folder: Path, key: str, value: object) -> Path:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    config[key] = value
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def lacking(folder: Path) -> Path:
    weights = load_file(folder / "model.safetensors")
    weights.pop("transformer.h.0.mlp.c_fc.weight")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.mark.parametrize(
    ("change", "sizes", "sentence"),
    [
        (lambda f: f, {"width": 32}, r"shape .*, 16\) in .* and .*, 32\) in the model section"),
        (lambda f: f, {"heads": 4}, "computes something else"),
        (lambda f: broken(f, "activation_function", "relu"), {}, "computes something else"),
        (lacking, {}, r"no transformer\.h\.0\.mlp\.c_fc\.weight of a GPT-2"),
    ],
)
def test_a_folder_that_does_not_fit_is_one_sentence(change, sizes, sentence, tmp_path):
    folder = change(saved(tmp_path / "model"))
    with pytest.raises(LowrankError, match=sentence):
        build_model(spec_of(folder, **sizes), OUTPUTS)


def test_other_vocabularies_and_classes_are_one_sentence(tmp_path):
    with pytest.raises(
        LowrankError, match=r"has 300 tokens and the data have 512: give data\.token"
    ):
        build_model(spec_of(saved(tmp_path / "text")), 512)
    with pytest.raises(LowrankError, match=r"has 300 classes and the data have 10\."):
        build_model(spec_of(saved(tmp_path / "images", "resnet"), "resnet"), 10)


def test_no_folder_or_no_family_for_it_is_one_sentence(tmp_path):
    with pytest.raises(ValueError, match=r"must be a folder with config\.json and \*\.safetensors"):
        spec_of(tmp_path)
    with pytest.raises(ValueError, match=r"pretrained: .* not supported by the family wide_resnet"):
        ModelSpec(family="wide_resnet", width=1, depth=10, pretrained=str(saved(tmp_path / "m")))


def test_a_finished_run_needs_the_folder_no_more(text_folder, tmp_path):
    folder = saved(tmp_path / "model")
    run = ensure_run(spec_of(folder), text_folder, tmp_path / "runs", "cpu")
    (folder / "model.safetensors").unlink()
    assert run.model(OUTPUTS) is not None


CONFIG = """
scale: tuned
seeds: [0]
tracks:
  language:
    data: {{kind: text, source: embedded, vocabulary: 300, max_characters: 200000}}
    model: {{family: gpt2, width: 16, depth: 1, heads: 2, context: 16, pretrained: {folder}}}
    training: {{steps: 1, batch: 4, learning_rate: 1.0e-12, log_points: 1, probe_points: 1}}
    evaluation: {{validation_examples: 16, test_examples: 16, batch: 8}}
    sweep: {{rates: [0.001]}}
    factors: {{rank_fraction: 0.5, rank_multiple: 1}}
    studies:
      initialisation: {{ranks: [0.5], inits: [spectral]}}
      posthoc: {{methods: [whitened], ranks: [0.25, 1.0], fine_tune_steps: [0], calibration_batches: 2}}
"""


def test_the_studies_run_on_a_folder(text_folder, tmp_path):
    """At a rate of nothing the dense run is the folder, which full-rank truncation leaves as it is."""
    folder = saved(tmp_path / "model")
    file = tmp_path / "tuned.yaml"
    file.write_text(CONFIG.format(folder=folder), encoding="utf-8")
    experiment = Experiment(read_config(file))
    again = Experiment(read_config(written(experiment, tmp_path)))
    assert again.digests() == experiment.digests()
    for name in ("language/dense", "language/spectral-r0.5"):
        cell = experiment.cell(name)
        jobs.train(cell, {}, text_folder, tmp_path / "runs", tmp_path / name, "cpu", ())
    dense = experiment.cell("language/dense")
    run = jobs.runs_of(dense, {}, text_folder, tmp_path / "runs", "cpu")[0]
    weights = load_file(folder / "model.safetensors")
    found = run.model(OUTPUTS).state_dict()
    assert all(torch.allclose(found[name], value, atol=1e-6) for name, value in weights.items())
    _, job = experiment.job("posthoc", "language")
    place = (text_folder, tmp_path / "runs", "cpu")
    table = posthoc(job.study, job.factors, dense, {}, *place).set_index("rank_fraction")
    [tested] = [jobs.test_metrics(run, dense.evaluation, text_folder, "cpu")]
    assert table.loc[1.0, "test_loss"] == pytest.approx(tested["test_loss"], rel=1e-4)
    assert table.loc[0.25, "test_loss"] != pytest.approx(tested["test_loss"], rel=1e-4)


def written(experiment: Experiment, folder: Path) -> Path:
    """The configuration as jobs read it."""
    path = folder / "config.yaml"
    values = experiment.config.model_dump(mode="json")
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


def test_a_pretrained_model_is_not_widened(tmp_path):
    file = tmp_path / "wide.yaml"
    text = CONFIG.format(folder=saved(tmp_path / "model"))
    file.write_text(text + "      scaling: {widths: [16, 32]}\n", encoding="utf-8")
    with pytest.raises(LowrankError, match="a pretrained model has one width"):
        Experiment(read_config(file))
