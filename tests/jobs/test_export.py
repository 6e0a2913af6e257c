"""Trained runs go to transformers with their results."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
import transformers as hf
from click.testing import CliRunner

import lowrank
from lowrank.cli import main
from lowrank.data.text import load_text
from lowrank.experiment import config
from lowrank.experiment.cell import RunSpec
from lowrank.experiment.expand import expand
from lowrank.factor.convert import factors
from lowrank.files import read_json
from lowrank.jobs import train as jobs
from lowrank.parquet import read_table
from lowrank.train.run import FinishedRun

pytestmark = pytest.mark.filterwarnings("ignore:At their rank", "ignore::FutureWarning")

LANGUAGE = {
    "data": {"kind": "text", "source": "embedded", "vocabulary": 300},
    "training": {"steps": 4, "batch": 4, "learning_rate": 0.01},
    "factors": {"rank_fraction": 0.5, "rank_multiple": 4},
    "sweep": {"rates": [0.01]},
    "studies": {"initialisation": {"ranks": [0.5], "inits": ["spectral"]}},
}
IMAGES = {
    **LANGUAGE,
    "data": {"kind": "images", "source": "embedded"},
    "training": {"optimizer": "sgd", "steps": 4, "batch": 8, "learning_rate": 0.01},
}
TRACKS = {
    "gpt2": {
        **LANGUAGE,
        "model": {"family": "gpt2", "width": 16, "depth": 2, "heads": 2, "context": 16},
    },
    "llama": {
        **LANGUAGE,
        "model": {"family": "llama", "width": 16, "depth": 2, "heads": 2, "context": 16},
    },
    "vit": {
        **IMAGES,
        "model": {
            "family": "vit",
            "width": 16,
            "depth": 2,
            "heads": 2,
            "channels": 1,
            "image_size": 8,
            "patch": 4,
        },
    },
    "resnet": {
        **IMAGES,
        "model": {"family": "resnet", "width": 16, "depths": [1, 1], "channels": 1},
    },
    "wide": {**IMAGES, "model": {"family": "wide_resnet", "width": 1, "depth": 10, "channels": 1}},
}


@pytest.fixture(scope="module")
def results(tmp_path_factory, text_folder, digits_folder) -> Path:
    """A results folder with a dense and a factorised cell of each family."""
    root = tmp_path_factory.mktemp("results")
    settings = config.parse({"scale": "x", "seeds": [1, 2], "tracks": TRACKS})
    for name, cell in expand(settings).cells.items():
        prepared = text_folder if settings.tracks[cell.track].task.language else digits_folder
        link = root / "data" / cell.track
        if not link.exists():
            shutil.copytree(prepared, link)
        jobs.train(cell, {}, link, root / "runs", root / "cells" / name, "cpu")
    return root


def row(cell: Path, seed: int):
    return read_table(cell / "runs.parquet").set_index("seed").loc[seed]


def trained(results: Path, cell: Path, outputs: int) -> torch.nn.Module:
    """The project's own model of the cell's first run."""
    folder = results / "runs" / row(cell, 1)["digest"]
    spec = RunSpec.model_validate(read_json(folder / "spec.json"))
    return FinishedRun(folder, spec).model(outputs).eval()


def test_a_language_model_keeps_its_loss_and_its_text(results, tmp_path):
    data = load_text(results / "data/gpt2")
    windows = torch.tensor(data.tokens["train"][: 16 * 8].astype("int64")).reshape(8, 16)
    for track in ("gpt2", "llama"):
        for arm in ("dense", "spectral-r0.5"):
            cell = results / "cells" / track / arm
            written, losses = [], []
            for to in ("factorised", "dense"):
                folder = tmp_path / track / arm / to
                done = CliRunner().invoke(main, ["export", str(cell), str(folder), "--to", to])
                assert done.exit_code == 0, done.output
                model = lowrank.from_pretrained(folder).eval()
                assert bool(factors(model)) == (to == "factorised" and arm != "dense")
                with torch.no_grad():
                    losses.append(model(input_ids=windows, labels=windows).loss.item())
                options = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
                written.append(model.generate(windows[:2, :4], **options))
                tokenizer = hf.AutoTokenizer.from_pretrained(folder)
                text = "Return the mean of the array."
                assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
            assert losses[0] == pytest.approx(losses[1], abs=1e-5)
            assert torch.equal(*written)
            logits = trained(results, cell, 300)(windows)[:, :-1].flatten(0, 1)
            own = torch.nn.functional.cross_entropy(logits, windows[:, 1:].flatten())
            assert losses[0] == pytest.approx(own.item(), abs=1e-5)


def test_the_exported_weights_are_those_of_the_seed_asked_for(results, tmp_path):
    from safetensors.torch import load_file

    cell = results / "cells/gpt2/spectral-r0.5"
    for seed in (1, 2):
        done = CliRunner().invoke(
            main, ["export", str(cell), str(tmp_path / str(seed)), "--seed", str(seed)]
        )
        assert done.exit_code == 0, done.output
        own = load_file(results / "runs" / row(cell, seed)["digest"] / "model.safetensors")
        found = load_file(tmp_path / str(seed) / "model.safetensors")
        name = "transformer.h.1.mlp.c_fc.U"
        assert torch.equal(own[name], found[name])


@pytest.mark.parametrize("track", ["vit", "resnet"])
@pytest.mark.parametrize("to", ["factorised", "dense"])
def test_an_image_model_gives_the_logits_that_it_was_trained_to(results, tmp_path, track, to):
    cell = results / "cells" / track / "spectral-r0.5"
    done = CliRunner().invoke(main, ["export", str(cell), str(tmp_path), "--to", to])
    assert done.exit_code == 0, done.output
    own = trained(results, cell, 10)
    images = torch.randn(3, 1, 8, 8)
    with torch.no_grad():
        logits = lowrank.from_pretrained(tmp_path).eval()(pixel_values=images).logits
        torch.testing.assert_close(logits, own(images), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("cell", "options", "sentence"),
    [
        ("wide/spectral-r0.5", [], "transformers has no"),
        ("gpt2/dense", ["--seed", "7"], "seed 7 was not run; there are 1, 2"),
        ("gpt2/nope", [], "runs.parquet"),
    ],
)
def test_what_cannot_be_exported_is_said_and_nothing_is_written(
    results, tmp_path, cell, options, sentence
):
    output = tmp_path / "out"
    done = CliRunner().invoke(
        main, ["export", str(results / "cells" / cell), str(output), *options]
    )
    assert done.exit_code == 2
    assert sentence in done.output
    assert not output.exists()
