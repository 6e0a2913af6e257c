"""Reading YAML so that a file means what it looks like, or is an error that names its line.

PyYAML takes the last of two equal keys, reads `1:30` as 90 and `014` as 12 (YAML 1.1), lets a few
aliases stand for billions of values, and follows nesting until Python gives up. Here each of these
is one sentence, found before the value is built. Plain numbers are YAML 1.2's, so `1e-3` is one.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from lowrank.errors import LowrankError
from lowrank.files import expect_file

LARGEST_FILE = 2**20
LARGEST_COUNT = 20_000
"""Values in a file, those that aliases stand for counted each time; the shipped ones have 400."""
DEEPEST = 30
LONGEST_NUMBER = 40

INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]*)|0x[0-9a-fA-F]+")
FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
WORDS: dict[str, bool | None] = {"true": True, "false": False, "null": None, "~": None, "": None}
# What one version of YAML takes for a number, a truth or a date, and another for text or a different
# number: octal and binary numbers, digits in groups, sixtieths, yes and no, dates.
AMBIGUOUS = re.compile(
    r"[-+]?0[0-9_]+(?:\.[0-9_]*)?|0o[0-7]+|[-+]?0b[01_]+|[-+]?[0-9][0-9_]*_[0-9_]*(?:\.[0-9_]*)?"
    r"|[-+]?[0-9][0-9_]*(?::[0-5]?[0-9])+(?:\.[0-9_]*)?|yes|no|on|off"
    r"|[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}(?:[tT \t].*)?",
    re.IGNORECASE,
)


def read_yaml(path: Path | str) -> Any:
    """The plain values of a YAML file: dicts with text as keys, lists, text, numbers, truths, None.

    A missing or malformed file, or one that says a thing twice or ambiguously, or that is larger or
    deeper than any configuration, is a LowrankError that names the file and, where it can, the line.
    """
    path = Path(path)
    try:
        return parse_yaml(_text(path), str(path))
    except FileNotFoundError:
        beside = {*path.parent.glob("[!.]*.yaml"), *Path("config").glob("[!.]*.yaml")}
        names = sorted(map(str, beside))
        near = difflib.get_close_matches(str(path), names, n=1)
        hint = f"did you mean {near[0]}? There" if near and len(names) > 1 else "there"
        raise LowrankError(
            f"{path} is missing; {hint} are {', '.join(names) or 'no such files'}."
        ) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise LowrankError(f"{path} cannot be read as a YAML file: {reason}.") from None


def _text(path: Path) -> str:
    expect_file(path, "a YAML file")
    with path.open("rb") as file:
        content = file.read(LARGEST_FILE + 1)
    if len(content) > LARGEST_FILE:
        raise LowrankError(
            f"{path} is larger than the {LARGEST_FILE:,} bytes that a configuration has at most."
        )
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise LowrankError(
            f"{path} is not valid YAML: line {line} holds bytes that are not UTF-8."
        ) from None


def parse_yaml(text: str, source: str) -> Any:
    """The plain values of a YAML text; `source` names it in errors, which are as `read_yaml` says."""
    try:
        return _build(_events(text), source)
    except yaml.YAMLError as error:
        raise LowrankError(f"{source} is not valid YAML: {_reason(error)}.") from None


def _events(text: str) -> Iterator[yaml.Event]:
    return iter(yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)))


def _reason(error: yaml.YAMLError) -> str:
    """A parser's complaint with its line, on one line."""
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    if mark is None or problem is None:
        return " ".join(str(error).split()).rstrip(".")
    return f"line {mark.line + 1}: {' '.join(problem.split())}"


@dataclass
class _Open:
    """A mapping or list that is being read."""

    line: int
    values: Any
    anchor: str | None = None
    count: int = 1
    key: Any = None
    """A mapping's key whose value comes next; None: a key comes next."""
    merged: dict[str, Any] = field(default_factory=dict)
    """What `<<` brought in: a key that stands in the mapping itself wins."""

    def add(self, value: Any, complain: Any) -> None:
        """Take up the next key or value."""
        if isinstance(self.values, list):
            self.values.append(value)
        elif self.key is None:
            if not isinstance(value, str):
                raise complain(f"the key {_short(value)} is no text: quote it if it is meant")
            if value in self.values or (value == "<<" and self.merged):
                raise complain(f"the key '{_short(value)}' is there twice: keep one")
            self.key = value
        elif self.key == "<<":
            for section in reversed(value if isinstance(value, list) else [value]):
                if not isinstance(section, dict):
                    raise complain("<< takes a section, or a list of them, from elsewhere")
                self.merged |= section
            self.key = None
        else:
            self.values[self.key] = value
            self.key = None

    def close(self) -> Any:
        """The finished value."""
        if self.merged:
            own = dict(self.values)
            self.values.clear()
            self.values.update({**self.merged, **own})
        return self.values


def _build(events: Iterator[yaml.Event], source: str) -> Any:
    """The value that a stream of events describes, without recursion, checked as it grows."""
    anchors: dict[str, tuple[Any, int]] = {}
    root = _Open(0, [])
    stack = [root]
    line = 0

    def complain(what: str) -> LowrankError:
        return LowrankError(f"{source}: line {line}: {what}.")

    def grow(count: int) -> None:
        stack[-1].count += count
        if sum(part.count for part in stack) > LARGEST_COUNT:
            raise complain(f"more than the {LARGEST_COUNT:,} values that a configuration has")

    for event in events:
        line = event.start_mark.line + 1
        if isinstance(event, yaml.DocumentStartEvent) and root.values:
            raise complain("a second document begins; a file holds one")
        tag = getattr(event, "tag", None)
        if tag not in (None, "!"):
            raise complain(f"the tag {_short(tag)} is not taken: leave it out")
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in anchors:
                raise complain(f"*{_short(event.anchor)} refers to nothing before it")
            value, count = anchors[event.anchor]
            grow(count)
            stack[-1].add(value, complain)
        elif isinstance(event, yaml.ScalarEvent):
            plain = event.implicit[0] and not event.style
            value = _scalar(event.value, complain) if plain else event.value
            grow(1)
            if event.anchor:
                anchors[event.anchor] = value, 1
            stack[-1].add(value, complain)
        elif isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent):
            if isinstance(stack[-1].values, dict) and stack[-1].key is None:
                raise complain("a key is no section or list")
            stack.append(_Open(line, {} if isinstance(event, yaml.MappingStartEvent) else []))
            stack[-1].anchor = event.anchor
            if len(stack) > DEEPEST:
                raise complain(f"nested more than {DEEPEST} deep")
        elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
            done = stack.pop()
            value = done.close()
            if done.anchor:
                anchors[done.anchor] = value, done.count
            grow(done.count)
            stack[-1].add(value, complain)
    return root.values[0] if root.values else None


def _scalar(text: str, complain: Any) -> Any:
    """The value of a plain (unquoted) scalar."""
    if text.lower() in WORDS and text in (text.lower(), text.capitalize(), text.upper()):
        return WORDS[text.lower()]
    if text.lstrip("+-").lower() == ".inf":
        return float(text.replace(".", ""))
    if text.lower() == ".nan":
        return float("nan")
    number = INTEGER.fullmatch(text)
    if number or FLOAT.fullmatch(text):
        if len(text) > LONGEST_NUMBER:
            raise complain(f"{_short(text)} is a number of {len(text):,} characters")
        return int(text, 0) if number else float(text)
    if AMBIGUOUS.fullmatch(text):
        raise complain(
            f"versions of YAML differ on what {_short(text)} is: write true or false for a truth, "
            "digits without leading zeros, _ or : for a number, or quotes around a text"
        )
    return text


def _short(value: Any) -> str:
    text = "".join(islice(str(value), 43))
    return text if len(text) <= 40 else text[:37] + "..."
