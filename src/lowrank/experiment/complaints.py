"""What is wrong with a configuration, in one sentence: which key, which value, what would be right."""

from __future__ import annotations

import difflib
import typing
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ValidationError

from lowrank.errors import LowrankError, unknown

SHOULD = {
    "greater_than": "must be above {gt:,.12g}",
    "greater_than_equal": "must be at least {ge:,.12g}",
    "less_than": "must be below {lt:,.12g}",
    "less_than_equal": "must be at most {le:,.12g}",
    "finite_number": "must be a finite number",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_parsing_size": "must be a whole number of fewer digits",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "string_type": "must be text",
    "string_too_long": "must have at most {max_length} characters",
    "string_too_short": "must have at least {min_length} characters",
    "tuple_type": "must be a list such as [1, 2]",
    "dict_type": "must be a section of keys",
    "model_type": "must be a section of keys",
    "model_attributes_type": "must be a section of keys",
    "too_short": "must have at least {min_length} of its kind",
    "too_long": "must have at most {max_length} of its kind",
    "union_tag_not_found": "must have the key kind: {tags}",
}
PATTERNS = {
    r"^[a-z][a-z0-9_]*$": "must be lower-case letters, digits and _, a letter first",
    r"^[a-z][a-z0-9-]*$": "must be lower-case letters, digits and -, a letter first",
    r"^[a-z][a-z0-9-]*/[A-Za-z0-9._-]+$": "must give a name of letters, digits, ., _ and - alone",
}


def complaint(
    error: ValidationError, source: str, values: Any, model: type[BaseModel]
) -> LowrankError:
    """The first thing pydantic finds wrong with `values`, which were to be a `model`."""
    # A misspelt key is both unknown and missing: the unknown one is said.
    first = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
    location = _location(first["loc"], values)
    path = ".".join(shortened(str(part)) for part in location)
    context = {name: value for name, value in first.get("ctx", {}).items() if name != "error"}
    kind, value = first["type"], first.get("input")
    if kind == "extra_forbidden":
        section = _section(first["loc"][:-1], model)
        return LowrankError(
            f"{source}: {path}: {unknown('key', str(location[-1]), section.model_fields)}"
        )
    if kind == "missing":
        field = _section(first["loc"][:-1], model).model_fields[str(first["loc"][-1])]
        what = f" ({field.description.rstrip('.')})" if field.description else ""
        return LowrankError(f"{source}: {path} is missing: give it{what}.")
    if kind == "value_error":
        message = first["msg"].removeprefix("Value error, ").rstrip(".")
        return LowrankError(f"{source}: {path + ': ' if path else ''}{message}.")
    if kind == "literal_error":
        return LowrankError(f"{source}: {path}: {shown(value)} {_one_of(value, context)}.")
    if kind == "union_tag_invalid":
        value = shortened(context["tag"])
        return LowrankError(
            f"{source}: {path}.kind: {shown(value)} must be one of {context['expected_tags']}."
        )
    if kind == "string_pattern_mismatch":
        should = PATTERNS.get(context["pattern"], f"must match {context['pattern']}")
    elif kind in SHOULD:
        should = SHOULD[kind].format(tags="text or images", **context)
    else:
        should = first["msg"].replace("Input should", "should").rstrip(".")
    return LowrankError(f"{source}: {path}: {shown(value)} {should}.")


def shortened(text: str) -> str:
    """A text cut to what a sentence can hold."""
    return text if len(text) <= 60 else text[:57] + "..."


def shown(value: Any) -> str:
    """A value as it stands in a sentence, short and on one line."""
    if isinstance(value, dict | BaseModel):
        return "a section of keys"
    if isinstance(value, int) and value.bit_length() > 1000:
        return "a number of more than 300 digits"
    if isinstance(value, list | tuple):
        first = ", ".join(shown(one) for one in value[:20])
        return shortened(f"[{first}{', ...' if len(value) > 20 else ''}]")
    return shortened(" ".join(repr(value).split()))


def _one_of(value: Any, context: dict[str, Any]) -> str:
    expected = context["expected"]
    names = [name.strip("'\" ") for name in expected.replace(" or ", ", ").split(",")]
    near = difflib.get_close_matches(shortened(str(value)), names, n=1)
    hint = f" (did you mean '{near[0]}'?)" if near else ""
    return f"must be {'one of ' if len(names) > 1 else ''}{expected}{hint}"


def _location(parts: tuple[int | str, ...], values: Any) -> list[int | str]:
    """The keys that lead to the place in the values: pydantic adds names of alternatives to them."""
    found: list[int | str] = []
    for index, part in enumerate(parts):
        inside = isinstance(values, dict) and part in values
        inside = inside or (isinstance(values, list | tuple) and isinstance(part, int))
        if inside:
            values = values[part]  # type: ignore[index]
        if inside or (index == len(parts) - 1 and isinstance(values, dict) and part != "[key]"):
            found.append(part)
    return found


def _section(parts: tuple[int | str, ...], model: type[BaseModel]) -> type[BaseModel]:
    """The class of the section that a location leads to."""
    choices = [model]
    for part in parts:
        field = next((m.model_fields[part] for m in choices if part in m.model_fields), None)
        if field is not None and isinstance(part, str):
            choices = list(_models(field.annotation))
        elif len(choices) > 1:
            choices = [m for m in choices if m.model_fields["kind"].default == part] or choices
    return choices[0]


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    """The sections an annotation speaks of."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in typing.get_args(annotation):
        yield from _models(argument)
