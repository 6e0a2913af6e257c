"""The documentation corpus."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

from lowrank.data import embedded
from lowrank.data.spec import TextSpec
from lowrank.data.text import prepare_text
from lowrank.errors import LowrankError

SOURCE = '''
"""Module."""
class A:
    """Class.

        Indented.
    """
    if True:
        def f(self):
            """Method \\ud800 in a branch."""
    try:
        def tried():
            """In a try."""
    except ValueError:
        async def g():
            """In a handler."""
            def inner():
                """Inner."""
def none():
    x = """Not a docstring."""
def blank():
    """   """
match 1:
    case 1:
        def h():
            """In a case."""
'''


def test_docstrings_are_found_in_every_block_in_order():
    assert embedded.docstrings(SOURCE.encode()) == [
        "Module.",
        "Class.\n\nIndented.",
        "Method  in a branch.",
        "In a try.",
        "In a handler.",
        "Inner.",
        "In a case.",
    ]


def test_docstrings_equal_those_of_a_full_walk():
    source = Path(ast.__file__).read_bytes()
    scopes = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, scopes)]
    expected = [text for node in nodes if (text := ast.get_docstring(node))]
    assert sorted(embedded.docstrings(source)) == sorted(expected)
    assert len(expected) > 30


@pytest.mark.parametrize("source", [b'"""', b'"""\0"""', b'# coding: nonsense\n"""x"""'])
def test_a_file_that_does_not_parse_has_no_docstrings(source):
    assert embedded.docstrings(source) == []


def test_source_files_cover_the_packages_and_leave_tests_out():
    names = [name for name, _ in embedded.source_files()]
    assert {name.split("/")[0] for name in names} == set(embedded.PACKAGES)
    assert not [name for name in names if {"tests", "test", "__config__.py"} & set(name.split("/"))]
    assert len(set(names)) == len(names) > 1000


def test_a_smaller_corpus_is_the_beginning_of_a_larger_one_without_repeated_docstrings():
    small = embedded.documents(max_characters=50_000, workers=1)
    large = embedded.documents(max_characters=400_000, workers=1)
    assert small["text"][:] == large["text"][: len(small)]
    assert sum(map(len, large["text"])) >= 400_000
    packages = {name.split("/")[0] for name in large["file"]}
    assert len(packages) >= 3
    files = dict(embedded.source_files())
    seen: set[str] = set()
    for name, text in zip(large["file"], large["text"], strict=True):
        fresh = []
        for string in embedded.docstrings(files[name].read_bytes()):
            if string not in seen:
                seen.add(string)
                fresh.append(string)
        assert text == "\n\n".join(fresh)


def test_reading_imports_nothing():
    before = set(sys.modules)
    embedded.documents(max_characters=20_000, workers=1)
    new = {name.split(".")[0] for name in set(sys.modules) - before}
    assert not new & {"transformers", "sklearn"}


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(embedded.PACKAGES, "no_such_package", "no-such-package")
    with pytest.raises(LowrankError, match="'no-such-package', which is not installed"):
        embedded.source_files()


def test_versions_name_every_package():
    assert set(embedded.versions()) == set(embedded.PACKAGES.values())


def test_the_locked_packages_hold_the_corpus_that_is_published():
    lock = (Path(__file__).parents[2] / "requirements.lock").read_text(encoding="utf-8")
    locked = {
        name: line.split("==")[1].split()[0]
        for name in embedded.PACKAGES.values()
        for line in lock.splitlines()
        if line.startswith(f"{name}==")
    }
    assert embedded.versions() == locked, "the environment is not that of the lock"
    assert embedded.digest() == embedded.DIGEST
    # numpy's distutils is in the wheels of the same version for Python 3.11, and not for 3.12 and 3.13.
    assert not [name for name, _ in embedded.source_files() if "/distutils/" in name]


def test_the_digest_knows_names_and_contents(monkeypatch, tmp_path):
    files = []
    for name in ("a.py", "b.py"):
        (tmp_path / name).write_text(name, encoding="utf-8")
        files.append((f"p/{name}", tmp_path / name))
    monkeypatch.setattr(embedded, "source_files", lambda: files)
    first = embedded.digest()
    (tmp_path / "a.py").write_text("c", encoding="utf-8")
    second = embedded.digest()
    files[0] = ("p/c.py", tmp_path / "a.py")
    assert len({first, second, embedded.digest()}) == 3


def test_another_corpus_than_the_published_one_is_said(monkeypatch, tmp_path):
    monkeypatch.setattr(embedded, "DIGEST", "another")
    with pytest.warns(UserWarning, match="another corpus .*requirements.lock"):
        prepare_text(TextSpec(max_characters=60_000), tmp_path / "text", workers=1)
