"""Named, interchangeable functions: a second entry of one name or an unknown name is an error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from lowrank.errors import LowrankError, unknown

T = TypeVar("T")


class Registry(dict[str, T], Generic[T]):
    """Entries of one kind by name, filled by decorators; a missing name raises LowrankError."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def add(self, name: str, entry: T) -> None:
        """Enter `entry` as `name`; a name already taken raises LowrankError."""
        if name in self:
            raise LowrankError(f"The {self.kind} '{name}' is defined twice: give one another name.")
        self[name] = entry

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator that enters what it decorates as `name`."""

        def enter(entry: T) -> T:
            self.add(name, entry)
            return entry

        return enter

    def __missing__(self, name: str) -> T:
        raise unknown(self.kind, name, self)
