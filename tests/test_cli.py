"""Whatever a command is given, it ends in one sentence; nobody is told to delete a file of their own."""

from __future__ import annotations

import os
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from lowrank import command, files
from lowrank.cli import main
from lowrank.data.spec import TextSpec
from lowrank.data.text import prepare_text
from lowrank.errors import LowrankError

ROOT = Path(__file__).parents[1]


def refused(*arguments: object, status: int = 2) -> str:
    """The last line of a command that ends with this status."""
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == status, result.output
    assert isinstance(result.exception, SystemExit)
    sentence = result.output.rstrip().splitlines()[-1]
    assert sentence.startswith("Error: ") and "Traceback" not in result.output
    return sentence


JOB = {"--data": "d", "--cache": "c"}
OPTIONS = [
    (["plan", "--peak", "-5"], "--peak"),
    (["plan", "--peak", "0"], "--peak"),
    (["plan", "--peak", "nan"], "not a number"),
    (["plan", "--peak", "inf"], "--peak"),
    (["plan", "--peak", "fast"], "not a valid float"),
    (["plan", "--utilisation", "4"], "--utilisation"),
    (["plan", "--utilisation", "0"], "--utilisation"),
    (["plan", "--utilisation", "nan"], "not a number"),
    (["tables", "--config", "x", "--other", "speed", "--output", "o"], "--other"),
    (["tables", "--config", "x", "--other", "=x", "--output", "o"], "not name=path"),
    (
        ["tables", "--config", ROOT / "config/smoke.yaml", "--other", "sped=x", "--output", "o"],
        "did you mean 'speed'",
    ),
    *(
        ([*start, *(part for pair in JOB.items() for part in pair), *option], option[0])
        for start in (
            ["train", "--config", "x", "--cell", "c", "--rates", "r", "--output", "o"],
            ["sweep", "--config", "x", "--cell", "c", "--rates", "r", "--output", "o"],
        )
        for option in (["--device", "gpu"], ["--device", "cuda:0"], ["--parallel", "dp"])
    ),
]


@pytest.mark.parametrize(("arguments", "words"), OPTIONS, ids=lambda value: str(value)[:60])
def test_an_option_outside_its_domain_is_named(arguments, words):
    assert words in refused(*arguments)


def test_every_number_and_device_of_every_command_has_a_domain():
    """No plain integer or float is left among the options, and no device that any word would do for."""
    for name, one in main.commands.items():
        for option in one.params:
            plain = type(option.type) in (type(click.INT), type(click.FLOAT))
            assert not plain, (name, option.name)
            assert option.name != "device" or option.type is command.DEVICE, name


def test_a_plan_is_not_written_where_there_is_no_folder(tmp_path):
    """Said before anything is computed."""
    place = tmp_path / "none/plan.csv"
    sentence = refused("plan", "--config", ROOT / "config/paper.yaml", "--output", place)
    assert f"no folder {place.parent}" in sentence and not place.parent.exists()


OWN = {
    "README.md": "# Mine\n",
    "seal.txt": "the seal of the manifest",
    "config.yaml": "scale: mine\n",
    "notes.json": '{"kind": "nothing"}',
    "list.json": "[1, 2]",
    "half.json": '{"kind": "te',
    "deep.json": "[" * 100_000,
    "digits.json": '{"a": ' + "9" * 5000 + "}",
    "twice.json": '{"a": 1, "a": 2}',
    "empty.json": "",
    "binary": "\x00\x01\x02",
    "empty.parquet": "",
}


def readers(path: Path) -> dict[str, list[object]]:
    """Every option that takes a file which the project wrote, given another."""
    job = ["--rates", "r", "--data", "d", "--cache", "c", "--output", "o"]
    smoke = ROOT / "config/smoke.yaml"
    tables = ["tables", "--config", smoke, "--output", "o"]
    return {
        "prepare": ["prepare", "--config", path, "--track", "t", "--output", "o"],
        "sweep": ["sweep", "--config", path, "--cell", "t/dense", *job],
        "train": ["train", "--config", path, "--cell", "t/dense", *job],
        "evaluate": ["evaluate", "--config", path, "--track", "t", *job],
        "measure": ["measure", "posthoc", "--config", path, "--track", "t", *job],
        "evaluation": [*tables, "--evaluation", path],
        "rates": [*tables, "--rates", path],
        "other": [*tables, "--other", f"speed={path}"],
        "config": ["plan", "--config", path],
        "ledger": ["claims", "--config", smoke, "--ledger", path, "--tables", "t", "--output", "o"],
    }


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("reader", readers(Path()))
def test_nobody_is_told_to_delete_a_file_of_their_own(reader, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / name
    path.write_text(OWN[name], encoding="utf-8")
    sentence = refused(*readers(path)[reader])
    said = sentence.replace(str(path), "PATH")
    assert "PATH" in said and "delete" not in said and "damaged" not in said
    assert sentence.endswith((".", "?")) and len(sentence) < 700


@pytest.mark.parametrize("reader", readers(Path()))
def test_a_pipe_or_a_folder_is_not_read(reader, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    assert "is expected" in refused(*readers(tmp_path / "pipe")[reader])
    assert "director" in refused(*readers(tmp_path)[reader]) or reader == "other"


@pytest.mark.parametrize("manifest", [None, '{"name": "app"}', '{"files": {}}', "{", "[]"])
def test_a_folder_of_the_users_own_is_not_called_damaged(manifest, tmp_path):
    if manifest is not None:
        (tmp_path / files.MANIFEST).write_text(manifest, encoding="utf-8")
    for arguments in (
        ["measure", "baselines", "--data", tmp_path, "--output", tmp_path / "o.parquet"],
        [
            "tables",
            "--config",
            ROOT / "config/smoke.yaml",
            "--published",
            tmp_path,
            "--output",
            "o",
        ],
    ):
        said = refused(*arguments).replace(str(tmp_path), "PATH")
        assert "delete" not in said and "damaged" not in said


@pytest.mark.parametrize("rest", [0, 0.5, 0.9])
def test_a_manifest_cut_short_is_still_the_projects(rest, tmp_path):
    source = tmp_path / "text.txt"
    source.write_text("\n".join(f"line {i} of {i * i} words" for i in range(60)), encoding="utf-8")
    folder = prepare_text(
        TextSpec(source="local", train=str(source), vocabulary=270), tmp_path / "t"
    )
    manifest = folder / files.MANIFEST
    content = manifest.read_bytes()
    manifest.write_bytes(content[: int(rest * len(content))])
    with pytest.raises(LowrankError, match=rf"is damaged.*delete {folder} and run again\.$"):
        files.check_manifest(folder)


def test_tables_that_are_not_there_are_missed(tmp_path):
    arguments = ["claims", "--config", ROOT / "config/smoke.yaml", "--tables", tmp_path]
    arguments += ["--ledger", ROOT / "config/claims.yaml", "--output", tmp_path / "o.parquet"]
    assert "holds no tables" in refused(*arguments)


UNFORESEEN = {
    ValueError("a value\nover two lines"): ("ValueError: a value over two lines", 1),
    RecursionError("maximum recursion depth exceeded"): ("RecursionError: maximum", 1),
    MemoryError(): ("MemoryError", 1),
    KeyError("x" * 10_000): ("KeyError", 1),
    PermissionError(13, "Permission denied", "/a/b"): ("/a/b: Permission denied", 2),
    OSError(28, "No space left on device"): ("No space left on device", 2),
    OSError("of a library's own"): ("OSError: of a library's own", 1),
}


@pytest.mark.parametrize("error", UNFORESEEN, ids=lambda error: type(error).__name__)
def test_what_nobody_foresaw_ends_in_a_sentence_that_says_where_the_traceback_lies(
    error, tmp_path, monkeypatch
):
    def fail(path):
        raise error

    words, status = UNFORESEEN[error]
    monkeypatch.setattr("lowrank.experiment.config.read_config", fail)
    monkeypatch.setattr(command.tempfile, "tempdir", str(tmp_path))
    sentence = refused("plan", status=status)
    assert words in sentence and len(sentence) < 500
    (kept,) = tmp_path.glob("lowrank-*.log")
    assert str(kept) in sentence and "in fail" in kept.read_text(encoding="utf-8")


def test_a_traceback_that_cannot_be_kept_is_printed(tmp_path, monkeypatch):
    def fail(path):
        raise ValueError("odd")

    monkeypatch.setattr("lowrank.experiment.config.read_config", fail)
    monkeypatch.setattr(command.tempfile, "tempdir", str(tmp_path / "none"))
    result = CliRunner().invoke(main, ["plan"])
    assert result.exit_code == 1 and "in fail" in result.output
    assert result.output.endswith("Error: ValueError: odd (the traceback is above).\n")


@pytest.mark.parametrize("name", ["plan", "power"])
def test_a_key_of_snakemakes_in_the_place_of_a_configuration_is_told_its_own_option(name):
    assert refused(name, "--config", "scale=smoke").endswith("write --scale smoke.")
    assert refused(name, "--config", "seeds=[1]").endswith("set seeds in a configuration.")


def test_of_a_configuration_that_is_missing_those_there_are_listed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config").mkdir()
    for there in (".hooks.yaml", "config/one.yaml", "config/.two.yaml"):
        (tmp_path / there).touch()
    said = refused("plan", "--config", "none.yaml")
    assert said.endswith("none.yaml is missing; there are config/one.yaml.")
    assert refused("plan", "--scale", "none").endswith("is missing; there are config/one.yaml.")
    (tmp_path / "config/smoke.yaml").touch()
    assert refused("plan", "--scale", "smok").endswith(
        "config/smok.yaml is missing; did you mean config/smoke.yaml? There are config/one.yaml, config/smoke.yaml."
    )


def test_a_folder_without_a_readme_has_its_reference(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config").mkdir()
    (tmp_path / "published").symlink_to(Path(__file__).parents[1] / "published")
    result = CliRunner().invoke(main, ["reference"])
    assert result.exit_code == 0, result.output
    assert {path.name for path in (tmp_path / "config").iterdir()} == {"README.md", "schema.json"}
