"""The pages of the reference that are written from the code: library, names, command line."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import click

import lowrank
from lowrank.api.advise import advise
from lowrank.cli import main
from lowrank.experiment.study import studies
from lowrank.factor.decay import DECAYS
from lowrank.factor.init import INITIALISATIONS
from lowrank.factor.truncate import TRUNCATIONS
from lowrank.methods import METHODS
from lowrank.models import FAMILIES
from lowrank.optimizers import OPTIMIZERS

LIBRARY = """# The library

`import lowrank` offers these for any model of torch; [Your own model](../how-to/model.md) shows them at
work. What a user got wrong is a `lowrank.errors.LowrankError`, one sentence.
"""
NAMES = """# Names

What configurations and calls may name. Each is one function or one module of its own; [Your own
method](../how-to/method.md) adds to them.
"""
COMMANDS = """# Command line

The workflow calls these; by hand one needs `plan`, `check`, `methods` and `publish`. What a user got wrong is
one sentence, with exit status 2.
"""


def pages() -> dict[str, str]:
    """The pages by name."""
    return {
        "reference/library.md": library(),
        "reference/names.md": registered(),
        "reference/commands.md": commands(),
    }


def library() -> str:
    """Every public name where it is defined, and what its results are."""
    functions = {name: getattr(lowrank, name) for name in lowrank.__all__}
    functions["advise"] = advise
    parts = [LIBRARY]
    for name, function in functions.items():
        parts.append(f"::: {function.__module__}.{name}\n    options: {{heading_level: 2}}\n")
    for name in ("measure.Report", "measure.Layer", "advise.Advice"):
        parts.append(f"::: lowrank.api.{name}\n    options: {{heading_level: 2}}\n")
    return "\n".join(parts)


def registered() -> str:
    """A table of each registry."""
    options = {name: METHODS[name].options.model_fields for name in METHODS.names()}
    parts = [
        NAMES,
        _table(
            "Methods of training",
            "`factors.method.name` of a configuration. Settings go to `factors.method.options`.",
            {name: METHODS[name] for name in METHODS.names()},
            {
                "what it does": lambda name, method: method.summary,
                "source": lambda name, method: method.source,
                "settings": lambda name, _: "<br>".join(
                    f"`{key} = {field.default}`: {field.description}"
                    for key, field in options[name].items()
                ),
            },
        ),
        _table(
            "Initialisations",
            "`init` of `lowrank.factorize` and of a factor section.",
            INITIALISATIONS,
            {"what it does": lambda name, function: _first(function)},
        ),
        _table(
            "Decays",
            "`kind` of `lowrank.attach_decay` and of a decay section.",
            DECAYS,
            {"what it does": lambda name, function: _first(function)},
        ),
        _table(
            "Truncations",
            "`method` of `lowrank.truncate`, and `studies.posthoc.methods`.",
            TRUNCATIONS,
            {"what it does": lambda name, truncation: _first(truncation.factorize)},
        ),
        _table(
            "Studies",
            "`studies` of a track in a configuration.",
            studies(),
            {
                "title": lambda name, study: study.title,
                "what it trains": lambda name, study: (
                    _first(study.section) if study.section else ""
                ),
                "figures": lambda name, study: ", ".join(figure.name for figure in study.figures),
            },
        ),
        _table(
            "Model families",
            "`model.family` of a configuration; the library takes any model.",
            FAMILIES,
            {
                "model": lambda name, family: family.label,
                "task": lambda name, family: family.task,
                "keys": lambda name, family: ", ".join(f"`{key}`" for key in family.needs),
            },
        ),
        _table(
            "Optimisers",
            "`training.optimizer` of a configuration; the library works with any of torch's.",
            OPTIMIZERS,
            {"optimiser": lambda name, algorithm: algorithm.label},
        ),
    ]
    return "\n".join(parts)


def _table(
    title: str, text: str, entries: Mapping[str, Any], columns: Mapping[str, Callable[..., str]]
) -> str:
    rows = [("name", *columns), ("---",) * (len(columns) + 1)]
    for name, entry in entries.items():
        rows.append((f"`{name}`", *(value(name, entry) for value in columns.values())))
    return f"## {title}\n\n{text}\n\n{_rows(rows)}\n"


def _rows(rows: Iterable[Iterable[str]]) -> str:
    return "\n".join(
        f"| {' | '.join(cell.replace('|', '&#124;') for cell in row)} |" for row in rows
    )


def _first(function: Any) -> str:
    return " ".join((function.__doc__ or "").strip().split("\n\n")[0].split())


def commands() -> str:
    """What `--help` says of the program and of each command."""
    parts = [COMMANDS, f"```text\n{_help(main, 'lowrank')}\n```"]
    for name, command in sorted(main.commands.items()):
        parts.append(f"## {name}\n\n```text\n{_help(command, f'lowrank {name}')}\n```")
    return "\n\n".join(parts)


def _help(command: click.Command, name: str) -> str:
    return command.get_help(click.Context(command, info_name=name, max_content_width=100))
