"""Python files that register methods of the user's own.

They run with all the permissions of whoever starts the job, like any program: review an extension
from someone else before you use it.
"""

from __future__ import annotations

import ast
import errno
import sys
from collections.abc import Mapping
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType
from typing import Any

from lowrank.errors import LowrankError, last_line
from lowrank.experiment.cell import Extension
from lowrank.experiment.complaints import shortened
from lowrank.experiment.study import STUDIES
from lowrank.files import expect_file, read_sealed, sha256, write_sealed
from lowrank.registry import Registry

PREFIX = "extension_of_lowrank_"
NO_FILE = {errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP}


def declared(name: str, file: Path) -> Extension:
    """An extension as specs carry it; a file that cannot be read, or is no Python, is a LowrankError.

    Nothing of the file is run, so that a slip is found when the configuration is read.
    """
    try:
        expect_file(file, "a Python file")
        ast.parse(file.read_bytes(), str(file))
        return Extension(file=str(file), sha256=sha256(file))
    except LowrankError as error:
        raise LowrankError(f"extensions.{name}: {error}") from None
    except (OSError, ValueError, SyntaxError, RecursionError) as error:
        if isinstance(error, OSError) and error.errno in NO_FILE:
            raise LowrankError(f"extensions.{name}: {_shown(file)} is not a file.") from None
        raise LowrankError(f"extensions.{name}: {_failure(file, error)}.") from None


def load_extensions(extensions: Mapping[str, Extension]) -> None:
    """Import the files of these extensions, each once.

    A file that is gone, is not the one the spec was made from, cannot be imported, or does not
    register the name it stands under is a LowrankError.
    """
    for name, extension in extensions.items():
        path = Path(extension.file)
        if not path.is_file() or sha256(path) != extension.sha256:
            raise LowrankError(
                f"extensions.{name}: {path} is missing or has changed since the workflow began; "
                "run again."
            )
        try:
            found = load_file(path)
        except LowrankError as error:
            raise LowrankError(f"extensions.{name}: {error}") from None
        if name not in (entry for _, entry in found):
            listed = ", ".join(f"the {kind} '{entry}'" for kind, entry in found)
            raise LowrankError(
                f"extensions.{name}: {path} registers {listed or 'nothing'}, and no '{name}': "
                f'decorate its function with @initialisation("{name}"), @decay("{name}") or '
                f'@truncation("{name}"), enter METHODS.add("{name}", ...) or STUDIES.add("{name}", ...), '
                "or name the extension otherwise."
            )


def announce(extensions: Mapping[str, Extension], record: Path) -> list[str]:
    """A line for each extension whose file was not said before as it is now, by what `remember` wrote."""
    said = read_sealed(record) if record.is_file() else {}
    return [
        f"extensions.{name}: {extension.file} is a program that runs with your rights; read it first "
        "if it is not yours."
        for name, extension in extensions.items()
        if said.get(name) != extension.sha256
    ]


def remember(extensions: Mapping[str, Extension], record: Path) -> None:
    """Write which extensions were said."""
    if extensions or record.is_file():
        write_sealed(record, {name: extension.sha256 for name, extension in extensions.items()})


LOADED: dict[str, list[tuple[str, str]]] = {}
"""What the file of each digest registered: (kind, name)."""


def load_module(path: Path) -> ModuleType:
    """The module of a file, imported once for its content, as `load_file` does."""
    load_file(path)
    return sys.modules[_module_name(path)]


def load_file(path: Path) -> list[tuple[str, str]]:
    """Import a file, once for its content, and list what it registers: (kind, name).

    What it raises is a LowrankError with the line, and then nothing of it stays registered.
    """
    from lowrank.factor.decay import DECAYS
    from lowrank.factor.init import INITIALISATIONS
    from lowrank.factor.truncate import TRUNCATIONS
    from lowrank.methods import METHODS
    from lowrank.optimizers import OPTIMIZERS

    registries: tuple[Registry[Any], ...] = (
        *(INITIALISATIONS, DECAYS, TRUNCATIONS),
        *(METHODS, OPTIMIZERS, STUDIES),
    )
    digest = sha256(path)
    if digest in LOADED:
        return LOADED[digest]
    before = [set(registry) for registry in registries]
    name = _module_name(path)
    spec = spec_from_loader(name, SourceFileLoader(name, str(path)))
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickles look their module up
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        for registry, known in zip(registries, before, strict=True):
            for entry in set(registry) - known:
                del registry[entry]
        raise LowrankError(f"{_failure(path, error)}.") from error
    LOADED[digest] = [
        (registry.kind, entry)
        for registry, known in zip(registries, before, strict=True)
        for entry in registry
        if entry not in known
    ]
    return LOADED[digest]


def _module_name(path: Path) -> str:
    return f"{PREFIX}{sha256(path)[:16]}"


def _failure(path: Path, error: BaseException) -> str:
    return f"{_shown(path)} cannot be loaded: {last_line(error, str(path)).rstrip('.')}"


def _shown(path: Path) -> str:
    return shortened(str(path))
