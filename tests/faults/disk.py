"""A disk that forgets at a loss of power whatever was not synced, played within one process.

The files are real; `Disk` keeps books of what `os.fsync` has made safe: the content of a file, the
names in a folder. What a crash leaves is uncertain where nothing was synced: a file's content is lost
whole, and of every folder either the synced names may be found or those that it has by now.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from lowrank import durable

LOST = "lost"
"""Stands for the content of a file that was not synced."""


class Disk:
    """What a crash would leave of a folder; `check` is called before each step that changes it."""

    def __init__(self, root: Path, monkeypatch, check: Callable[[Disk], None] = lambda _: None):
        self.root, self.check, self.steps = root, check, []
        self.contents: dict[int, str] = {}
        self.names: dict[int, dict[str, int]] = {}
        self.held: list[int] = []
        for folder, _, files in os.walk(root):  # all that was there before is safe
            for path in (Path(folder), *(Path(folder, name) for name in files)):
                self._keep(os.open(path, os.O_RDONLY))
        for module, name in (
            (os, "fsync"),
            (os, "replace"),
            (os, "rename"),
            (durable, "_exchange"),
        ):
            monkeypatch.setattr(module, name, self._traced(name, getattr(module, name)))

    def _traced(self, name: str, call: Callable) -> Callable:
        def traced(*arguments):
            self.steps.append((name, *arguments))
            self.check(self)
            result = call(*arguments)
            if name == "fsync":
                self._keep(os.dup(arguments[0]))
            return result

        return traced

    def _keep(self, descriptor: int) -> None:
        """Note what the file or folder holds. It is held open, so that its inode is nobody else's."""
        self.held.append(descriptor)
        number, path = os.fstat(descriptor).st_ino, f"/proc/self/fd/{descriptor}"
        if os.path.isdir(path):
            self.names[number] = {entry.name: entry.inode() for entry in os.scandir(path)}
        else:
            self.contents[number] = hashlib.sha256(Path(path).read_bytes()).hexdigest()

    def close(self) -> None:
        for descriptor in self.held:
            os.close(descriptor)

    def after_a_crash(self, written: Path) -> Iterator[dict[str, str]]:
        """What may be found: the SHA-256 of every file's content by its path from the root. The names
        in the folder `written` may be the synced ones or the present, and so may those in all others."""
        present: dict[int, dict[str, int]] = {}
        for folder, _, _ in os.walk(self.root):
            entries = {entry.name: entry.inode() for entry in os.scandir(folder)}
            present[os.stat(folder).st_ino] = entries
        own = os.stat(written).st_ino
        for here in (self.names, present):
            for elsewhere in (self.names, present):
                found: dict[str, str] = {}
                folders = set(self.names) | set(present)

                def walk(number: int, path: str) -> None:
                    source = here if number == own else elsewhere  # noqa: B023
                    for name, inode in source.get(number, {}).items():
                        if inode in folders:  # noqa: B023
                            walk(inode, f"{path}{name}/")
                        else:
                            found[f"{path}{name}"] = self.contents.get(inode, LOST)  # noqa: B023

                walk(os.stat(self.root).st_ino, "")
                yield found
