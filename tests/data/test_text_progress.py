"""Progress of long loops."""

from __future__ import annotations

import io

from lowrank.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_log_gets_whole_lines_and_only_one_an_interval(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("lowrank.progress.time.monotonic", lambda: clock[0])
    log = io.StringIO()
    with Progress("Reading", 4000, "files", interval=10, stream=log) as progress:
        for _ in range(40):
            clock[0] += 1
            progress.advance(100)
    lines = log.getvalue().splitlines()
    assert lines == [f"Reading: {n},000 of 4,000 files ({25 * n} %)" for n in (1, 2, 3, 4)]


def test_short_work_writes_nothing_to_a_log():
    log = io.StringIO()
    with Progress("Reading", 3, "files", stream=log) as progress:
        progress.advance(3)
    assert log.getvalue() == ""


def test_a_terminal_gets_a_bar():
    screen = Terminal()
    with Progress("Reading", 3, "files", stream=screen) as progress:
        progress.advance(3)
    assert "Reading" in screen.getvalue()
    assert "\r" in screen.getvalue()
