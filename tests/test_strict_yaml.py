"""A YAML file means what it looks like, or is refused in one quick sentence; so is any text like ours."""

from __future__ import annotations

import os
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from quick import in_a_second

from lowrank.analysis import ledger
from lowrank.errors import LowrankError
from lowrank.experiment import config
from lowrank.experiment.expand import expand
from lowrank.strict_yaml import parse_yaml, read_yaml

ROOT = Path(__file__).parents[1]
SHIPPED = sorted((ROOT / "config").glob("*.yaml"))


def said_of(text: str) -> str:
    with pytest.raises(LowrankError) as caught:
        parse_yaml(text, "mine.yaml")
    return str(caught.value)


def refusal(text: str) -> str:
    """The sentence that refuses a text, said within a second."""
    sentence = in_a_second(lambda: said_of(text))
    assert sentence.startswith("mine.yaml") and sentence.endswith(".") and len(sentence) < 300
    return sentence


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_files_say_the_same_to_every_reader(path):
    assert read_yaml(path) == yaml.safe_load(path.read_text(encoding="utf-8"))


PLAIN = {
    **{"1e-3": 1e-3, "5E2": 500.0, "+7": 7, "-0.5": -0.5, ".5": 0.5, "3.": 3.0, "0x1F": 31, "0": 0},
    **{
        "true": True,
        "False": False,
        "null": None,
        "~": None,
        "": None,
        "'yes'": "yes",
        '"1:30"': "1:30",
    },
    **{"-.inf": -float("inf"), "a:b": "a:b", "v1_0": "v1_0", "texts/*.parquet": "texts/*.parquet"},
}


@pytest.mark.parametrize("text", PLAIN)
def test_what_is_plain_is_read_as_yaml_1_2(text):
    value = parse_yaml(f"a: {text}", "mine.yaml")["a"]
    assert value == PLAIN[text] and type(value) is type(PLAIN[text])


AMBIGUOUS = ["1:30", "190:20:30.15", "014", "-00", "0o17", "0b101", "1_000", "1_0.5", "007.5"]
AMBIGUOUS += ["yes", "No", "ON", "off", "2001-01-01", "2001-12-14t21:59:43.10-05:00"]


@pytest.mark.parametrize("text", AMBIGUOUS)
def test_what_versions_of_yaml_read_differently_is_refused_with_its_line(text):
    for place in (f"x: 1\na: {text}", f"x: 1\na: [2, {text}]", f"x: 1\n{text}: 1"):
        assert f"line 2: versions of YAML differ on what {text} is" in refusal(place)


def bomb(letters: str = "abcdefghi") -> str:
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    for before, now in pairwise(letters):
        lines.append(f"{now}: &{now} [{', '.join([f'*{before}'] * 9)}]")
    return "\n".join(lines)


REFUSED = {
    "a: 1\nb: 2\na: 3": "line 3: the key 'a' is there twice",
    "a: {b: 1, 'b': 2}": "the key 'b' is there twice",
    "x: &x {a: 1}\ny: {<<: *x, <<: *x}": "the key '<<' is there twice",
    "y:\n  <<: 3": "<< takes a section",
    "1: 2": "the key 1 is no text",
    "null: 2": "the key None is no text",
    "? [a]\n: 2": "a key is no section or list",
    "a: *b": "*b refers to nothing",
    "a: &a [*a]": "*a refers to nothing",
    "a: 1\n---\nb: 2": "line 2: a second document",
    "a: !!python/object/apply:os.system [id]": "the tag tag:yaml.org",
    "a: !!float 1": "the tag tag:yaml.org",
    "a: }": "is not valid YAML: line 1",
    "a:\n\t- 1": "is not valid YAML: line 2",
    "a: \0": "is not valid YAML",
    "a: " + "9" * 5000: "is a number of 5,000 characters",
    "a: 0." + "9" * 5000: "is a number of 5,002 characters",
    "a: " + "[" * 3000 + "]" * 3000: "nested more than 30 deep",
    "a: " + "{a: " * 3000 + "1" + "}" * 3000: "nested more than 30 deep",
    "\n".join(" " * depth + "a:" for depth in range(500)): "line 30: nested more than 30 deep",
    "tracks:\n  " + bomb().replace("\n", "\n  "): "line 6: more than the 20,000 values",
    f"seeds: {list(range(10**5))}": "more than the 20,000 values",
    "\n".join(f"k{number}: 1" for number in range(10**5)): "more than the 20,000 values",
}


@pytest.mark.parametrize("text", REFUSED, ids=REFUSED.values())
def test_what_no_configuration_says_is_refused_in_a_second(text):
    assert REFUSED[text] in refusal(text)


def test_merged_sections_give_way_to_a_section_s_own_keys_and_to_earlier_ones():
    text = "x: &x {a: 1, b: 1}\ny: &y {a: 2, c: 2}\nz: {c: 3, <<: [*x, *y]}"
    assert parse_yaml(text, "mine.yaml")["z"] == {"a": 1, "b": 1, "c": 3}


@pytest.mark.parametrize("kind", ["folder", "pipe", "device", "large", "binary", "missing"])
def test_what_is_no_yaml_file_is_named(kind, tmp_path):
    path = tmp_path / "mine.yaml"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path = Path("/dev/zero")
    elif kind == "large":
        path.write_text(f"seeds: {list(range(10**6))}", encoding="utf-8")
    elif kind == "binary":
        path.write_bytes(b"a: 1\nb: \xff\xfe\n")
    with pytest.raises(LowrankError) as caught:
        read_yaml(path)
    assert str(path) in str(caught.value) and str(caught.value).endswith(".")
    assert kind != "binary" or "line 2 holds bytes that are not UTF-8" in str(caught.value)


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_bytes(b"\xef\xbb\xbfscale: mine\n")
    assert read_yaml(path) == {"scale": "mine"}


TEXTS = {path.stem: path.read_text(encoding="utf-8") for path in SHIPPED}
WORDS = [
    *(
        "014",
        "1:30",
        "1_000",
        "yes",
        "~",
        "",
        "-",
        "1e-3",
        "1e400",
        "-1",
        "0",
        "0.5",
        "10",
        "3",
        "nan",
    ),
    *(
        ".nan",
        ".inf",
        "9" * 400,
        "9" * 5000,
        "true",
        "'",
        '"',
        "|",
        ">",
        "#",
        "&a",
        "*a",
        "*training",
    ),
    *(
        "<<: *training",
        "!!str",
        "!x",
        "? ",
        ": ",
        ", ",
        "[",
        "]",
        "{",
        "}",
        "[[]]",
        "{}",
        "%",
        "@",
        "`",
    ),
    *("\t", "\r", "\0", "\x85", "\u2028", "\ufeff", "\U0001f600", "\\", "--- ", "..."),
    *(
        "steps: 5",
        "width: 1000000000000",
        "language:",
        "kind: images",
        "x" * 2000,
        "$(id)",
        "../..",
    ),
]


@st.composite
def mutated(draw) -> tuple[str, str]:
    """A shipped file's name, and its text after up to four edits of characters, words or lines."""
    name = draw(st.sampled_from(["imdb", "smoke", "imdb", "claims"]))
    text = TEXTS[name]
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(text) - 1)))
        edit = draw(st.sampled_from(["insert", "cut", "word", "line", "twice", "move", "indent"]))
        start = text.rfind("\n", 0, at) + 1
        end = text.find("\n", at) + 1 or len(text)
        line = text[start:end]
        if edit == "insert":
            text = text[:at] + draw(st.sampled_from(WORDS)) + text[at:]
        elif edit == "cut":
            text = text[:at] + text[at + draw(st.integers(1, 8)) :]
        elif edit == "word":
            key, colon, _ = line.partition(": ")
            text = text[:start] + key + colon + draw(st.sampled_from(WORDS)) + "\n" + text[end:]
        elif edit == "line":
            text = text[:start] + text[end:]
        elif edit == "twice":
            text = text[:start] + line + text[start:]
        elif edit == "move":
            text = text[:start] + text[end:] + line
        else:
            text = text[:start] + " " * draw(st.integers(1, 4)) + text[start:]
    return name, text


@settings(
    max_examples=5000, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
@given(mutated())
def test_any_text_is_a_configuration_or_refused_in_a_quick_sentence(case):
    sentence = in_a_second(lambda: refused(*case))
    if sentence is not None:
        assert "\n" not in sentence and sentence.endswith((".", "?")) and len(sentence) < 800
        assert "Traceback" not in sentence


def refused(name: str, text: str) -> str | None:
    """What refuses a text as a scale or as claims; None if nothing does."""
    try:
        values = parse_yaml(text, "mine.yaml")
        if name == "claims":
            ledger.validated(values, "mine.yaml")
        else:
            expand(config.parse(values, "mine.yaml"), ROOT)
    except LowrankError as error:
        return str(error)
    return None
