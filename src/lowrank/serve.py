"""The process that `lowrank.warm` starts: it forks for each job, once it has imported what the job needs.

It computes nothing itself, and starts no threads, so that its forks are as good as programs of their own.
"""

from __future__ import annotations

import gc
import json
import os
import pkgutil
import selectors
import shutil
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from lowrank.cli import main
from lowrank.warm import PASSED_ON, PLACE

COSTS = "LOWRANK_COSTS"
"""The environment variable that names a file which gets a line for each job: its name, CPU seconds."""
ALWAYS = ("lowrank.experiment.experiment", "pandas", "pyarrow.dataset", "pyarrow.parquet")
"""What every job imports."""
MODELS = (
    *("lowrank.factor.*", "lowrank.methods.*", "lowrank.models.networks.*"),
    "torch.utils._device",
)
DRAWING = (
    *("lowrank.plot", "lowrank.plot.*", "matplotlib.backends.backend_agg"),
    *("matplotlib.backends.backend_pdf", "fontTools.subset", "fontTools.ttLib.tables.*"),
    *("PIL.BmpImagePlugin", "PIL.GifImagePlugin", "PIL.JpegImagePlugin", "PIL.PpmImagePlugin"),
    *("lowrank.reports.notebook", "IPython.core.*", "black"),
)
NEEDS: dict[str, tuple[str, ...]] = {
    "prepare": ("lowrank.data.images", "lowrank.data.text", "PIL.ImageOps"),
    **dict.fromkeys(("train", "sweep", "evaluate"), ("lowrank.jobs.train", *MODELS)),
    "tables": ("lowrank.analysis.tables", "scipy.optimize"),
    "claims": ("lowrank.analysis.claims", "scipy.optimize"),
    "render": DRAWING,
    "paper": ("lowrank.reports.paper", "scipy.optimize"),
}
"""What is imported besides before the first job of a command; `*` stands for all modules of a package."""


def needs(arguments: Sequence[str]) -> Sequence[str]:
    """The modules to import before a job, whose configuration has been read: of a study as its record says."""
    command, *rest = arguments
    if command == "measure":
        from lowrank.experiment.study import jobs

        job = jobs().get(rest[0]) if rest else None
        command = "train" if job and (job.arms or job.times) else "prepare"
    return NEEDS.get(command, ())


def named(arguments: Sequence[str]) -> str:
    """A job's name: its command, and after a slash the study that `measure` is told, `measure/posthoc`."""
    return "/".join(arguments[: 2 if arguments[0] == "measure" else 1])


@dataclass
class Job:
    """A fork at work, and the connection of who waits for it."""

    name: str
    process: int
    """Its id."""
    ended: int
    """A descriptor that can be read once it has ended."""
    caller: socket.socket


class Server:
    """Forks for jobs that are asked for on a listening socket (`descriptor`), until standard input ends."""

    def __init__(self, descriptor: int) -> None:
        self.listener = socket.socket(fileno=descriptor)
        self.folder = Path(self.listener.getsockname()).parent
        self.jobs: list[Job] = []
        self.watched = selectors.DefaultSelector()
        self.watched.register(self.listener, selectors.EVENT_READ)
        self.watched.register(0, selectors.EVENT_READ)
        self.handlers = {number: signal.getsignal(number) for number in PASSED_ON}

    def serve(self) -> list[str] | None:
        """None once all is over; in each fork, the arguments of its job."""
        for number in PASSED_ON:
            signal.signal(number, signal.SIG_IGN)
        while self.jobs or self.listener.fileno() >= 0:
            for key, _ in self.watched.select():
                if key.fileobj == 0:
                    self._close()
                elif key.fileobj is self.listener:
                    if arguments := self._begin():
                        return arguments
                elif key.fileobj is key.data.caller:  # it says nothing more: it has been killed
                    self.watched.unregister(key.data.caller)
                    os.kill(key.data.process, signal.SIGKILL)
                else:
                    self._end(key.data)
        return None

    def _close(self) -> None:
        """Take no more jobs."""
        self.watched.unregister(0)
        self.watched.unregister(self.listener)
        self.listener.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _begin(self) -> list[str] | None:
        """Fork for the next caller; in the fork, returns the arguments of its job."""
        caller, _ = self.listener.accept()
        _, streams, _, _ = socket.recv_fds(caller, 1, 3)
        with caller.makefile("rb") as said:
            line = said.readline()
        if not line.endswith(b"\n"):  # killed before it had said all
            for descriptor in (*streams, caller.detach()):
                os.close(descriptor)
            return None
        asked = json.loads(line)
        _import(ALWAYS)
        _read_configuration(asked["arguments"])
        _import(needs(asked["arguments"]))
        gc.freeze()  # so that collecting garbage does not copy what all forks share
        process = os.fork()
        if not process:
            caller.close()
            self._leave()
            _become(streams, asked)
            return list(asked["arguments"])
        for stream in streams:
            os.close(stream)
        job = Job(named(asked["arguments"]), process, os.pidfd_open(process), caller)
        self.jobs.append(job)
        for watched in (job.ended, job.caller):
            self.watched.register(watched, selectors.EVENT_READ, job)
        _say(caller, process)
        return None

    def _leave(self) -> None:
        """Let go, in a fork, of all that is the server's."""
        for job in self.jobs:
            job.caller.close()
            os.close(job.ended)
        self.watched.close()
        self.listener.close()
        for number, handler in self.handlers.items():
            signal.signal(number, handler)

    def _end(self, job: Job) -> None:
        """Tell the caller the status of a job that has ended."""
        _, status, usage = os.wait4(job.process, 0)
        _say(job.caller, os.waitstatus_to_exitcode(status))
        if path := os.environ.get(COSTS):
            with suppress(OSError), open(path, "a", encoding="utf-8") as file:
                file.write(f"{job.name} {usage.ru_utime + usage.ru_stime:.3f}\n")
        self.jobs.remove(job)
        self.watched.unregister(job.ended)
        os.close(job.ended)
        with suppress(KeyError):  # of a caller that was killed
            self.watched.unregister(job.caller)
        job.caller.close()


def _say(caller: socket.socket, number: int) -> None:
    with suppress(OSError):
        caller.sendall(b"%d\n" % number)


def _import(modules: Sequence[str]) -> None:
    """Import what a job needs; what cannot be imported, the job will say."""
    for name in modules:
        if name in _IMPORTED:
            continue
        _IMPORTED.add(name)
        with suppress(Exception):
            package, star, _ = name.partition(".*")
            module = import_module(package)
            for found in pkgutil.iter_modules(module.__path__ if star else []):
                import_module(f"{package}.{found.name}")


_IMPORTED: set[str] = set()


def _read_configuration(arguments: Sequence[str]) -> None:
    """Read the configuration of a job, which `read_experiment` then knows in every fork; what is wrong with
    it, the job will say."""
    if "--config" in arguments:
        from lowrank.experiment.experiment import read_experiment

        with suppress(Exception):
            read_experiment(Path(arguments[arguments.index("--config") + 1]))


def _become(streams: Sequence[int], asked: Mapping[str, Any]) -> None:
    """Take over the streams, the environment and the folder of the caller."""
    for own, stream in enumerate(streams):
        os.dup2(stream, own)
        os.close(stream)
    for name, own, mode in (("stdin", 0, "r"), ("stdout", 1, "w"), ("stderr", 2, "w")):
        inherited = getattr(sys, name)
        opened = open(  # noqa: SIM115
            own,
            mode,
            buffering=1 if name == "stderr" or os.isatty(own) else -1,
            encoding=inherited.encoding,
            errors=inherited.errors,
            closefd=False,
        )
        setattr(sys, name, opened)
    os.environ.clear()
    os.environ.update(asked["environment"])
    del os.environ[PLACE]
    os.chdir(asked["at"])


if __name__ == "__main__":
    if (job := Server(int(sys.argv[1])).serve()) is not None:
        sys.argv = ["lowrank", *job]
        main(prog_name="lowrank")
