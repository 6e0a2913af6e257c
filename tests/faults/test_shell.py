"""No string of a configuration reaches a shell but as a checked name."""

from __future__ import annotations

import copy
import re
import subprocess

import pytest
from faulty import NAME, ROOT, VALUES, snakemake

from lowrank.errors import LowrankError
from lowrank.experiment import config
from lowrank.experiment.expand import expand

ATTACKS = [
    '"; touch pwned; "',
    "$(touch pwned)",
    "`touch pwned`",
    "a b",
    "a\ntouch pwned",
    "../../x",
]
SAFE = re.compile(r"[A-Za-z0-9._/-]+")
STRINGS = {
    ("scale",): "{}",
    ("device",): "{}",
    ("results_from",): "{}",
    ("retrain",): ["{}"],
    ("extensions",): {"{}": "README.md"},
    ("tracks", "{}"): VALUES["tracks"][NAME],
    ("tracks", NAME, "data", "image_column"): "{}",
    ("tracks", NAME, "data", "label_column"): "{}",
    ("tracks", NAME, "data", "test_split"): "{}",
    ("tracks", NAME, "data", "path"): "{}",
    ("tracks", NAME, "model", "family"): "{}",
    ("tracks", NAME, "training", "optimizer"): "{}",
    ("tracks", NAME, "factors", "init"): "{}",
    ("tracks", NAME, "factors", "matricisation"): "{}",
    ("tracks", NAME, "factors", "layers"): ["{}"],
    ("tracks", NAME, "factors", "dense_layers"): ["{}"],
    ("tracks", NAME, "factors", "decay"): {"kind": "{}"},
    ("tracks", NAME, "studies", "initialisation"): {"ranks": [0.5], "inits": ["{}"]},
    ("tracks", NAME, "studies", "decay"): {"decays": [{"kind": "{}"}]},
    ("tracks", NAME, "studies", "pretraining", "inits"): ["{}"],
    ("tracks", NAME, "studies", "layers"): {"groups": ["{}"], "dense_blocks": ["first"]},
    ("tracks", NAME, "studies", "posthoc", "methods"): ["{}"],
}


def filled(value, attack: str):
    if isinstance(value, str):
        return value.replace("{}", attack)
    if isinstance(value, list):
        return [filled(one, attack) for one in value]
    if isinstance(value, dict):
        return {filled(key, attack): filled(one, attack) for key, one in value.items()}
    return value


def attacked(place, value, attack: str) -> dict:
    values = copy.deepcopy(VALUES)
    section = values
    for key in place[:-1]:
        section = section.setdefault(key, {})
    section[filled(place[-1], attack)] = filled(value, attack)
    return values


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("place", STRINGS, ids=lambda place: place[-1])
def test_a_string_is_refused_or_in_no_name(place, attack):
    try:
        settings = config.parse(attacked(place, STRINGS[place], attack))
        grid = expand(settings, ROOT)
    except LowrankError as error:
        sentence = str(error)
    else:
        sentence = ""
    assert "\n" not in sentence
    if sentence:
        return
    words = [settings.scale, settings.device, *settings.tracks, *(settings.retrain or ())]
    words += [*grid.cells, *grid.sweeps, *settings.extensions]
    words += [group for cell in grid.cells.values() for group in cell.groups]
    assert all(SAFE.fullmatch(word) and ".." not in word.split("/") for word in words)


@pytest.mark.pipeline
def test_no_command_of_the_workflow_holds_a_string_of_the_configuration(tmp_path):
    """What is not refused, all at once, in the commands that Snakemake would run."""
    values = copy.deepcopy(VALUES)
    section = values["tracks"][NAME]
    attack = '"; touch pwned; "$(touch pwned)'
    section["data"] |= {"source": "local", "path": attack, "train_split": attack}
    section["data"] |= {"test_split": attack, "image_column": attack, "label_column": attack}
    section["factors"] |= {"layers": [attack], "dense_layers": [attack]}
    section["studies"]["layers"] = {"groups": ["conv"], "dense_blocks": ["first", "last"]}
    command = snakemake(tmp_path, "tables", values, "--dry-run", "--printshellcmds")
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "lowrank train" in done.stdout + done.stderr
    assert "pwned" not in done.stdout + done.stderr
    assert not list(tmp_path.rglob("pwned"))
    with pytest.raises(StopIteration):
        next(path for path in (tmp_path / "results").rglob("*") if not SAFE.fullmatch(path.name))
