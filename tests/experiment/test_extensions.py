"""A file of the user's own is imported once, or refused in a sentence, and leaves nothing behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from lowrank.errors import LowrankError
from lowrank.experiment import config
from lowrank.experiment.cell import Extension
from lowrank.experiment.expand import expand
from lowrank.experiment.extensions import announce, declared, load_extensions, load_file, remember
from lowrank.factor.decay import DECAYS
from lowrank.factor.init import INITIALISATIONS
from lowrank.files import sha256

pytestmark = pytest.mark.usefixtures("forget_extensions")
ROOT = Path(__file__).parents[2]
HEAD = "from lowrank.factor.decay import decay\nfrom lowrank.factor.init import initialisation\n"
GOOD = "@decay('{name}')\ndef same(U, V):\n    return U, V\n"


@pytest.fixture
def load(tmp_path):
    """A function that writes a file and loads it as an extension of some name."""

    def write_and_load(name: str, text: str) -> None:
        path = tmp_path / "idea.py"
        path.write_text(text, encoding="utf-8")
        load_extensions({name: Extension(file=str(path), sha256=sha256(path))})

    return write_and_load


FAULTY = {
    "raises": ("x = 1\n1 / 0\n", r"idea\.py:4: ZeroDivisionError: division by zero\.$"),
    "import": ("import nowhere\n", r"idea\.py:3: ModuleNotFoundError: No module named 'nowhere'"),
    "exit": ("import sys\nsys.exit(0)\n", r"idea\.py:4: SystemExit"),
    "syntax": ("def f(:\n", r"idea\.py:3: SyntaxError"),
    "taken": ("@decay('l2')\ndef f(U, V):\n    return U, V\n", "'l2' is defined twice"),
    "nothing": ("x = 1\n", r"registers nothing, and no 'nothing'"),
    "bare": ("@initialisation\ndef f(w, r, g, s):\n    pass\n", "registers nothing"),
    "other": (GOOD.format(name="another"), r"registers the decay 'another', and no 'other'"),
}


@pytest.mark.parametrize("name", FAULTY)
def test_a_file_that_does_not_register_its_name_is_refused_with_the_line(name, load):
    text, words = FAULTY[name]
    before = set(DECAYS), set(INITIALISATIONS)
    with pytest.raises(LowrankError, match=words) as caught:
        load(name, HEAD + text)
    assert str(caught.value).startswith(f"extensions.{name}: ") and "\n" not in str(caught.value)
    assert name == "other" or (set(DECAYS), set(INITIALISATIONS)) == before


def test_what_a_file_registered_before_it_failed_is_forgotten(load):
    with pytest.raises(LowrankError, match="ZeroDivisionError"):
        load("halfway", HEAD + GOOD.format(name="halfway") + "1 / 0\n")
    assert "halfway" not in DECAYS
    load("halfway", HEAD + GOOD.format(name="halfway"))
    assert "halfway" in DECAYS


def test_one_file_may_register_several_names_and_is_imported_once(tmp_path, load):
    text = HEAD + GOOD.format(name="first") + GOOD.format(name="second")
    for name in ("first", "second", "first"):
        load(name, text)
    assert load_file(tmp_path / "idea.py") == [("decay", "first"), ("decay", "second")]


def test_a_file_may_hold_dataclasses(load):
    text = "from __future__ import annotations\nfrom dataclasses import dataclass\n" + HEAD
    load("record", text + "@dataclass\nclass A:\n    x: int\n" + GOOD.format(name="record"))


def test_a_file_that_changed_since_the_workflow_began_is_not_run(tmp_path):
    path = tmp_path / "idea.py"
    path.write_text("raise SystemExit", encoding="utf-8")
    extension = Extension(file=str(path), sha256="0" * 64)
    with pytest.raises(LowrankError, match="has changed since the workflow began"):
        load_extensions({"mine": extension})


def test_that_a_file_runs_as_a_program_is_said_at_its_first_use_and_when_it_changed(tmp_path):
    record = tmp_path / "extensions.json"
    first, second = (Extension(file="ideas/x.py", sha256=letter * 64) for letter in "ab")
    (line,) = announce({"mine": first}, record)
    assert line.startswith("extensions.mine: ideas/x.py is a program that runs with your rights")
    assert announce({"mine": first}, record) == [line], "nothing has run, and nothing is written"
    remember({"mine": first}, record)
    assert announce({"mine": first}, record) == []
    assert len(announce({"mine": second, "other": first}, record)) == 2
    remember({}, tmp_path / "none.json")
    assert announce({}, tmp_path / "none.json") == [] and not (tmp_path / "none.json").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"def f(:\n", r"idea\.py:1: SyntaxError"),
        (b"\x00\x01", "cannot be loaded"),
        (b"x = '\xff'\n", "cannot be loaded"),
        (b"(" * 5000, "cannot be loaded"),
        ("folder", "a Python file is expected"),
        ("missing", "is not a file"),
    ],
)
def test_a_slip_is_found_when_the_configuration_is_read_and_nothing_is_run(
    content, words, tmp_path
):
    path = tmp_path / "idea.py"
    if content == "folder":
        path.mkdir()
    elif content != "missing":
        path.write_bytes(content)
    with pytest.raises(LowrankError, match=words):
        declared("mine", path)
    values = config.read_yaml(ROOT / "config/smoke.yaml") | {"extensions": {"mine": str(path)}}
    with pytest.raises(LowrankError, match=r"^extensions\.mine: ") as caught:
        expand(config.parse(values))
    assert "\n" not in str(caught.value)
