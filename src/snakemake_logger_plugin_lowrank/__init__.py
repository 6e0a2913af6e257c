"""What Snakemake says while it works: a line a job, errors in full, and nothing else.

Snakemake finds this package by its name; `logger: lowrank` in a profile chooses it. `--verbose` or
`--printshellcmds` bring back what Snakemake itself would have said of each job, `--quiet` takes away more.
"""

from __future__ import annotations

import re
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from logging import LogRecord
from pathlib import Path
from typing import Any

from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent

from lowrank import interrupt

LISTED = 20
"""A dry run of no more jobs names each; one of more counts them by rule."""
QUICK = 5.0
"""Seconds that a job is taken to need while none of its rule has finished: most rules are quick."""
WORTH_A_WORD = 10.0
"""Seconds below which the time left goes without saying."""
CHATTER = re.compile(
    "Assuming unrestricted shared|Building DAG|Using shell|Select jobs|Removing output files|Reasons:"
    "|Shutting down|Complete log|Elapsed time|Touching output|Exiting because|This was a dry-run"
    "|Conda environments: ignored|Some jobs were triggered by prov|Rules with provenance triggered"
)
places: Callable[[], str] = str
"""Says where that is which a call asked for, added where nothing is left to do; the workflow sets it."""
SILENT = {
    LogEvent.WORKFLOW_STARTED,
    LogEvent.RESOURCES_INFO,
    LogEvent.JOB_STARTED,
    LogEvent.GROUP_INFO,
    LogEvent.GROUP_ERROR,  # the error of each of its jobs follows
    LogEvent.RULEGRAPH,
}


class LogHandler(LogHandlerBase):
    """Turns Snakemake's log records into lines on the terminal."""

    writes_to_stream = True
    writes_to_file = False
    has_filter = False
    has_formatter = False
    needs_rulegraph = False

    def __post_init__(self) -> None:
        self.stream = sys.stdout if self.common_settings.dryrun else sys.stderr
        self.detailed = self.common_settings.verbose or self.common_settings.printshellcmds
        self.jobs: dict[int, dict[str, Any]] = {}
        self.finished: list[int] = []
        self.failed: dict[int, str] = {}
        self.said: set[str] = set()
        self.left = TimeLeft()

    def emit(self, record: LogRecord) -> None:
        """Print what a record says, if it says anything worth a line."""
        try:
            event = getattr(record, "event", None)
            say = getattr(self, f"_{event}", None)
            text = say(**record.__dict__) if say else self._other(event, record)
            if text:
                print(text, file=self.stream, flush=True)
        except (
            OSError,
            ValueError,
        ):  # nobody reads any more: a pipe was closed, a terminal hung up
            return
        except Exception:
            self.handleError(record)

    def _run_info(self, stats: dict[str, int] | None = None, **_: Any) -> str | None:
        if not stats or self.left.stats:  # a dry run counts twice
            return None
        self.left.begin(stats)
        counts = sorted(((count, rule) for rule, count in self.left.stats.items()), reverse=True)
        total = f"{stats['total']} job{'s' if stats['total'] > 1 else ''}"
        if self.common_settings.dryrun:
            rows = [f"{count:6} {rule}" for count, rule in counts]
            return "\n".join([f"A dry run: nothing is made. {total} to do:", *rows])
        return f"{total} to do: {', '.join(f'{count} {rule}' for count, rule in counts)}"

    def _job_info(self, **job: Any) -> str | None:
        self.jobs[job["jobid"]] = {**job, "began": time.monotonic()}
        few = self.common_settings.dryrun and self.left.total <= LISTED
        return self._title(job["jobid"]) if few or self.detailed else None

    def _shellcmd(self, shellcmd: str | None = None, **_: Any) -> str | None:
        return shellcmd  # the default filter has asked whether it is wanted

    def _job_finished(self, job_id: int, **_: Any) -> None:
        self.finished.append(job_id)
        job = self.jobs.get(job_id)
        if job:
            job["seconds"] = time.monotonic() - job["began"]
            self.left.count(job["rule_name"], job["seconds"])

    def _progress(self, done: int, total: int, **_: Any) -> str:
        lines = []
        for number, job_id in enumerate(self.finished, done - len(self.finished) + 1):
            seconds = self.jobs.get(job_id, {}).get("seconds", 0.0)
            took = f", {shown(seconds)}" if seconds >= 1 else ""
            rest = self.left.seconds()
            left = f" (about {shown(rest)} left)" if rest > WORTH_A_WORD else ""
            lines.append(f"[{number:{len(str(total))}}/{total}] {self._title(job_id)}{took}{left}")
        self.finished.clear()
        return "\n".join(lines)

    def _job_error(self, **job: Any) -> str:
        title = self._title(job["jobid"])
        if interrupt.asked.is_set():
            return f"Stopped: {title}"
        logs = [Path(path.removesuffix(" (send to stdout)")) for path in job["log"]]
        self.failed[job["jobid"]] = title
        lines = []
        # What a job says on this machine has been on the terminal; one of a cluster is read from its log.
        if not self.jobs.get(job["jobid"], {}).get("local", True):
            lines = [text for path in logs[:1] if (text := _read(path))]
        where = f"; its log: {', '.join(map(str, logs))}" if logs else ""
        outside = [f"{key}: {value}" for key, value in job["aux"].items() if value]
        return "\n".join([*lines, f"Failed: {title}{where}", *outside])

    def _error(self, msg: str, exception: str = "", **_: Any) -> str | None:
        if exception == "RuleException":
            return None  # the record of the job says more
        if exception == "WorkflowError" and "At least one job did not complete" in msg:
            failed = f"Failed: {'; '.join(self.failed.values())}" if self.failed else "Stopped"
            return f"{'Interrupted' if interrupt.asked.is_set() else failed}. {interrupt.KEPT}"
        return msg

    def _other(self, event: str | None, record: LogRecord) -> str | None:
        text = record.getMessage()
        if event in SILENT or text in ("", "None"):
            return None
        if retried := re.fullmatch(r"Trying to restart job (\d+)\.", text):
            self.failed.pop(int(retried[1]), None)
            return f"Trying again: {self._title(int(retried[1]))}"
        if text.startswith("Terminating processes on user request"):
            return "Interrupted: stopping what runs."
        if text.startswith("Nothing to be done"):
            return f"{text} {places()}".rstrip()
        if text in self.said or (not self.detailed and CHATTER.match(text)):
            return None
        if text.startswith("Will exit after finishing"):  # it would come again with every job
            self.said.add(text)
        return text

    def _title(self, job_id: int) -> str:
        job = self.jobs.get(job_id, {})
        return job.get("rule_msg") or job.get("rule_name") or f"job {job_id}"


class TimeLeft:
    """How long the jobs that are left will take, from how long those of the same rule have taken."""

    def __init__(self) -> None:
        self.stats: Counter[str] = Counter()
        self.took: dict[str, list[float]] = defaultdict(list)
        self.began = time.monotonic()

    @property
    def total(self) -> int:
        return self.stats.total()

    def begin(self, stats: dict[str, int]) -> None:
        """Start the clock with the number of jobs of each rule."""
        self.stats = Counter({rule: count for rule, count in stats.items() if rule != "total"})
        self.began = time.monotonic()

    def count(self, rule: str, seconds: float) -> None:
        """One job of a rule has taken so many seconds."""
        self.took[rule].append(seconds)

    def seconds(self) -> float:
        """Seconds left, if as many jobs run side by side as did so far."""
        work = 0.0
        for rule, count in self.stats.items():
            took = self.took[rule]
            work += (count - len(took)) * (sum(took) / len(took) if took else QUICK)
        spent = sum(map(sum, self.took.values()))
        side_by_side = max(1.0, spent / max(time.monotonic() - self.began, 1e-3))
        return work / side_by_side


def shown(seconds: float) -> str:
    """Seconds in the largest unit that says enough: `14 s`, `3 min`, `2 h 5 min`."""
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
