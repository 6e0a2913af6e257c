"""How the workflow is interrupted: jobs end, the lock on the folder is given back, nothing is lost."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import threading
from types import FrameType, TracebackType

import psutil

KEPT = "All finished work is kept: run the same command to continue."
PAUSE = 0.05
asked = threading.Event()
"""Set once somebody has interrupted the workflow: what jobs die of then is no failure."""


def on_signals() -> None:
    """Let Ctrl-C, a closed terminal and SIGTERM end Snakemake, and this process's jobs with it.

    Snakemake would die of a hang-up without giving back its lock, wait for jobs that were started
    as the key was pressed, and trip over an interrupt that comes within its event loop. A signal that
    is ignored, as nohup has it, stays ignored. (Once jobs run, Snakemake takes SIGTERM for itself: it
    waits for them and starts no more.)
    """
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, _interrupt)
    sys.excepthook = _without_traceback


def _interrupt(number: int, frame: FrameType | None) -> None:
    asked.set()
    if not threading.main_thread().is_alive():
        return  # the jobs' end was the workflow's, and the interpreter is on its way out
    if asyncio._get_running_loop() is not None:
        # To the main thread: it may wait for a lock by then, and only a signal of its own wakes it.
        main = threading.main_thread().ident
        threading.Timer(PAUSE, signal.pthread_kill, [main, number]).start()
        return
    for job in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            job.terminate()
    raise KeyboardInterrupt


def _without_traceback(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    if issubclass(kind, KeyboardInterrupt):
        print(f"Interrupted. {KEPT}", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, traceback)
