"""Putting what is finished in its place so that it outlasts a loss of power.

A rename may reach the disk before the content of what was renamed does, and a new name before the
folder that holds it. So content is synced first, then moved, and the folder is synced last: after a
crash a reader finds the old or the new whole, and what a finished command wrote is there.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import sys
from pathlib import Path

UNFINISHED = re.compile(r"\..*\.[0-9a-f]{8}\.part", re.DOTALL)
"""The name of a folder in which something is being made (`files.scratch`)."""
_EXCHANGE = 2  # RENAME_EXCHANGE of Linux
_FROM_HERE = -100  # AT_FDCWD


def make_folder(path: Path) -> None:
    """Make a folder and its missing parents, each synced into the one that holds it."""
    missing = [folder for folder in (path, *path.parents) if not folder.is_dir()]
    path.mkdir(parents=True, exist_ok=True)
    if not _unfinished(path):
        for folder in missing:
            _sync(folder.parent)


def put(new: Path, path: Path) -> None:
    """Move a file or folder to `path`, in one step and in the place of what is there.

    Within a folder that is itself being made nothing is synced: that is done when it is moved.
    """
    final = not _unfinished(path)
    if final:
        _sync_all(new)
    if not (new.is_dir() and os.path.lexists(path)):
        os.replace(new, path)
    elif not _exchange(new, path):
        # Not in one step: after a crash just between these two, `path` is missing.
        os.rename(path, new.with_name(f"{new.name}.replaced"))
        os.replace(new, path)
    if final:
        _sync(path.parent)


def _unfinished(path: Path) -> bool:
    return any(UNFINISHED.fullmatch(part) for part in path.parts)


def _sync_all(path: Path) -> None:
    """Sync a file, or a folder with everything in it, inner folders first."""
    if path.is_dir():
        for folder, _, names in os.walk(path, topdown=False):
            for name in names:
                _sync(Path(folder, name))
            _sync(Path(folder))
    else:
        _sync(path)


def _sync(path: Path) -> None:
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except PermissionError:  # a folder that one may write in but not list
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # a file system that has no such thing
            raise
    finally:
        os.close(descriptor)


def _exchange(one: Path, other: Path) -> bool:
    """Let two paths change places in one step; False where the system or file system cannot."""
    if not sys.platform.startswith("linux"):
        return False
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    paths = os.fsencode(one), os.fsencode(other)
    if rename(_FROM_HERE, paths[0], _FROM_HERE, paths[1], _EXCHANGE) == 0:
        return True
    if (number := ctypes.get_errno()) in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EXDEV):
        return False
    raise OSError(number, os.strerror(number), str(other))
