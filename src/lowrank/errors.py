"""The one exception a user is meant to read."""

from __future__ import annotations

import contextlib
import difflib
import re
import sys
import traceback
from collections.abc import Iterable, Iterator

LONGEST_NAME = 150


class LowrankError(Exception):
    """One sentence: what was wrong, with which value, and what would be right.

    The command line prints the sentence alone and exits with status 2. Line ends, which values and
    libraries' messages may bring, become spaces.
    """

    def __init__(self, message: object) -> None:
        super().__init__(re.sub(r"\s*[\r\n]\s*", " ", str(message)))


@contextlib.contextmanager
def one_sentence() -> Iterator[None]:
    """End with a sentence and status 2, as `lowrank` does, where the user got something wrong."""
    try:
        yield
    except LowrankError as error:
        print(f"Error: {error}", file=sys.stderr)
        sys.exit(2)


def unknown(kind: str, name: str, known: Iterable[str]) -> LowrankError:
    """An error for a name that is not in a registry: names the nearest known one and lists all."""
    names = sorted(known)
    name = name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 3] + "..."
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean '{near[0]}'? " if near else ""
    return LowrankError(f"Unknown {kind} '{name}': {hint}known are {', '.join(names)}.")


def cause(error: BaseException) -> str:
    """The innermost cause in one line without a full stop: wrappers say less than what they wrap."""
    while error.__cause__ is not None:
        error = error.__cause__
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def last_line(error: BaseException, file: str) -> str:
    """The last line of a traceback that lies in a file, and the error: `x.py:3: ValueError: ...`."""
    if isinstance(error, SyntaxError):
        return f"{error.filename or file}:{error.lineno or 1}: {type(error).__name__}: {error.msg}"
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == file]
    place = f"{file}:{lines[-1]}: " if lines else ""
    what = cause(error)
    what = what if len(what) <= 300 else what[:297] + "..."
    kind = "" if isinstance(error, LowrankError) else f"{type(error).__name__}: "
    return f"{place}{kind if what != type(error).__name__ else ''}{what}"
