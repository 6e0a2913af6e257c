"""Jobs in forks of a process that has imported what they need: torch and matplotlib once, not once a job.

The workflow starts one such process (`start`; `lowrank.serve`), which ends with it. `lowrank`, called by a rule, hands its
arguments, environment and streams over (`forward`), and passes signals on until the job's status is there.
Where there is no such process (another machine, another environment, a command by hand), a job starts as
any program does, with the same result.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

PLACE = "LOWRANK_WARM"
"""The environment variable that says where the process listens, and for which environment it is."""
PASSED_ON = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals to a caller that are meant for its job."""


def start() -> None:
    """Start the process for the jobs that this one will run, if the system can do it; it ends when this one
    does and its last job has ended."""
    if sys.platform != "linux" or PLACE in os.environ:
        return
    folder = tempfile.mkdtemp(prefix="lowrank-")  # nobody else may enter
    path = f"{folder}/jobs"
    with socket.socket(socket.AF_UNIX) as listener:
        try:
            listener.bind(path)
        except OSError:  # a path longer than such a name may be
            os.rmdir(folder)
            return
        listener.listen(128)
        one = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "MKL", "OPENBLAS")}
        one["JE_ARROW_MALLOC_CONF"] = "background_thread:false"  # of pyarrow's jemalloc
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "lowrank.serve", str(listener.fileno())],
            stdin=subprocess.PIPE,
            env=os.environ | one,
            pass_fds=[listener.fileno()],
            start_new_session=True,  # a key pressed in the terminal is for the callers
        )
    os.environ[PLACE] = f"{sys.prefix}:{path}"
    atexit.register(_stop, process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.close()
    with suppress(subprocess.TimeoutExpired):
        process.wait(5)


# What `lowrank` does with its arguments, when a rule calls it.


def forward(arguments: Sequence[str]) -> int | None:
    """The exit status of these arguments' job, done by the process that the environment names; None if there
    is none for a job of one thread in this environment, and the caller does it himself."""
    prefix, _, path = os.environ.get(PLACE, "").rpartition(":")
    alone = os.environ.get("OMP_NUM_THREADS") == "1" and "RANK" not in os.environ
    if prefix != sys.prefix or not alone:
        return None
    with socket.socket(socket.AF_UNIX) as server:
        try:
            server.connect(path)
            socket.send_fds(server, [b"\0"], [0, 1, 2])
        except OSError:
            return None
        request = {"arguments": list(arguments), "environment": dict(os.environ), "at": os.getcwd()}
        answers = server.makefile("r")
        server.sendall(json.dumps(request).encode() + b"\n")
        job = int(answers.readline())
        _pass_on_signals(job)
        status = int(answers.readline())
    if status < 0:  # as the job died, so does its caller
        if -status != signal.SIGKILL:
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    return status


def _pass_on_signals(job: int) -> None:
    def pass_on(number: int, frame: Any) -> None:
        with suppress(ProcessLookupError):
            os.kill(job, number)

    def pause(number: int, frame: Any) -> None:
        pass_on(signal.SIGSTOP, frame)
        os.kill(os.getpid(), signal.SIGSTOP)
        pass_on(signal.SIGCONT, frame)

    for number in PASSED_ON:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, pass_on)
    signal.signal(signal.SIGTSTP, pause)
