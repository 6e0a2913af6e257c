"""Named, interchangeable entries: a second entry of one name or an unknown name is an error.

A registry may be filled by a package, one module an entry: all its modules are imported at the first
look-up, so that whoever holds the registry need not import who fills it. `names` asks the package's
folder instead and imports nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, MutableMapping
from importlib import import_module
from importlib.util import find_spec
from pkgutil import iter_modules
from typing import TypeVar

from lowrank.errors import LowrankError, unknown
from lowrank.escape import visible

T = TypeVar("T")
NAME = re.compile(r"[a-z][a-z0-9_]{0,59}")
"""As in configurations (`experiment.sections.Name`)."""


class Registry(MutableMapping[str, T]):
    """Entries of one kind by name; a missing name raises LowrankError."""

    def __init__(self, kind: str, package: str | None = None) -> None:
        self.kind = kind
        self._entries: dict[str, T] = {}
        self._package = self._unread = package

    def add(self, name: str, entry: T) -> None:
        """Enter `entry` as `name`; one already taken, or that no configuration could hold, raises LowrankError."""
        if not NAME.fullmatch(name):
            raise LowrankError(
                f"A name of the kind {self.kind} has lower-case letters, digits and underscores, a letter first, and "
                f"at most 60 of them: '{visible(name)}' has not."
            )
        if name in self._entries:
            raise LowrankError(f"The {self.kind} '{name}' is defined twice: give one another name.")
        self._entries[name] = entry

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator that enters what it decorates as `name`."""

        def enter(entry: T) -> T:
            self.add(name, entry)
            return entry

        return enter

    def names(self) -> list[str]:
        """The names of the package's modules and of what is entered already, sorted."""
        return sorted({*self.built_in, *self._entries})

    @property
    def built_in(self) -> set[str]:
        """The names of the package's modules."""
        return set(_modules(self._package))

    def _filled(self) -> dict[str, T]:
        if self._unread is not None:
            package, self._unread = self._unread, None  # its modules may look entries up themselves
            try:
                for name in _modules(package):
                    import_module(f"{package}.{name}")
            except BaseException:
                self._unread = package
                raise
        return self._entries

    def __getitem__(self, name: str) -> T:
        entries = self._filled()
        if name not in entries:
            raise unknown(self.kind, name, entries)
        return entries[name]

    def get(self, name: str, default: T | None = None) -> T | None:  # type: ignore[override]
        """The entry of a name, or the default."""
        return self._filled().get(name, default)

    def __contains__(self, name: object) -> bool:
        return name in self._filled()

    def __setitem__(self, name: str, entry: T) -> None:
        self._filled()[name] = entry

    def __delitem__(self, name: str) -> None:
        del self._filled()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._filled())

    def __len__(self) -> int:
        return len(self._filled())


def _modules(package: str | None) -> list[str]:
    """The modules of a package that hold an entry: not its folders, nor `base`."""
    spec = find_spec(package) if package else None
    places = spec.submodule_search_locations if spec else None
    return sorted(
        module.name
        for module in iter_modules(places or [])
        if not module.ispkg and module.name != "base"
    )
