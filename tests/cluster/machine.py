"""A whole Slurm on one machine, for a test: no systemd, no accounting, nothing left behind.

Needs root and Debian's slurmctld, slurmd, slurm-client and munge. Every daemon is a child of this process or
carries its mark in the environment, so that the end of the test ends exactly those.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "setpriv")
ENDING = ("setpriv", "--pdeathsig", "KILL")
"""What makes a daemon end with the process that started it, however that ends."""
SYSTEM = Path("/etc/slurm")
FILES = ("slurm.conf", "gres.conf")
MARK = "LOWRANK_TEST_CLUSTER"

CONTROLLER = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
AuthInfo=socket={folder}/munge.socket
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
ReturnToService=0
MinJobAge=3600
AccountingStorageType=accounting_storage/none
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdSpoolDir={folder}/spool-%n
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmdLogFile={folder}/slurmd-%n.log
GresTypes=gpu
"""
# The sizes are pretended (config_overrides): only Slurm's own book-keeping looks at them.
NODE = "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=2 RealMemory=64000{gres}\n"


def why_not() -> str | None:
    """Why a Slurm cannot be brought up here, as the reason of a skipped test; None if it can."""
    missing = [name for name in PROGRAMS if not _program(name)]
    if missing:
        return f"{', '.join(missing)} not installed (apt-get install slurmctld slurmd slurm-client munge)"
    if os.geteuid() != 0:
        return "a Slurm of one's own needs root"
    for link in (SYSTEM / name for name in FILES):
        if os.path.lexists(link) and not _stale(link):
            return f"{link} exists: this machine has a Slurm"
    return None


def _program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def _stale(link: Path) -> bool:
    """Whether this is the link of a test that was killed before it could tidy up."""
    if not link.is_symlink() or not link.readlink().parent.name.startswith("slurm-test-"):
        return False
    with contextlib.suppress(OSError, ValueError):
        os.kill(int((link.readlink().parent / "slurmctld.pid").read_text(encoding="utf-8")), 0)
        return False
    return True


def free_ports(count: int) -> list[int]:
    """Ports nobody listens on; all are held until the last is found, so that they differ."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def wait_until(fact: Callable[[], Any], seconds: float, what: str) -> Any:
    """The first true value of `fact`, asked ten times a second; TimeoutError says what never came."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if value := fact():
            return value
        time.sleep(0.1)
    raise TimeoutError(f"after {seconds:.0f} s still waiting for {what}")


def processes(**facts: str) -> list[int]:
    """Ids of the processes whose environment has all of these values."""
    wanted = {f"{name}={value}".encode() for name, value in facts.items()}
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                if wanted <= set((entry / "environ").read_bytes().split(b"\0")):
                    found.append(int(entry.name))
    return found


class Machine:
    """A running Slurm: nodes n1, n2 and, each with a stand-in GPU, g1 to g3."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.daemons: list[subprocess.Popen[bytes]] = []
        self.environment = {**os.environ, MARK: str(folder)}
        for name in [name for name in os.environ if name.startswith(("SLURM_", "SBATCH_"))]:
            del self.environment[name]

    def start(self) -> None:
        """Write the configuration, link it where all of Slurm finds it, start the daemons."""
        nodes = dict.fromkeys(("n1", "n2"), "") | dict.fromkeys(("g1", "g2", "g3"), " Gres=gpu:1")
        host = socket.gethostname()
        port, *ports = free_ports(1 + len(nodes))
        text = CONTROLLER.format(host=host, port=port, folder=self.folder)
        for (name, gres), number in zip(nodes.items(), ports, strict=True):
            text += NODE.format(name=name, host=host, port=number, gres=gres)
        text += f"PartitionName=main Default=YES Nodes={','.join(nodes)}\n"
        (self.folder / "slurm.conf").write_text(text, encoding="utf-8")
        # Slurm wants a device file, and any file will do; a count alone leaves the node invalid.
        (self.folder / "gpu").touch()
        (self.folder / "gres.conf").write_text(
            f"NodeName=g[1-3] Name=gpu File={self.folder}/gpu\n", encoding="utf-8"
        )
        (self.folder / "state").mkdir()
        SYSTEM.mkdir(exist_ok=True)
        for name in FILES:  # the job step plugin drops SLURM_CONF, so the system's folder it is
            with contextlib.suppress(FileNotFoundError):
                (SYSTEM / name).unlink()
            (SYSTEM / name).symlink_to(self.folder / name)
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o400)
        own = [
            f"--{option}={self.folder}/munge.{option}"
            for option in ("socket", "seed-file", "log-file")
        ]
        own += [f"--pid-file={self.folder}/munge.pid", f"--key-file={key}"]
        self._daemon("munged", "--foreground", "--force", *own)
        wait_until((self.folder / "munge.socket").exists, 20, "munged")
        self._daemon("slurmctld", "-D", "-c")
        for name in nodes:
            self._daemon("slurmd", "-D", "-N", name)
        wait_until(lambda: len(self._ask("sinfo", "-hN", "-o%N")) == len(nodes), 30, "slurmctld")
        wait_until(self._usable, 60, "the nodes")

    def _usable(self) -> bool:
        states = dict(line.split() for line in self._ask("sinfo", "-hN", "-o%N %T"))
        for name in (name for name, state in states.items() if state != "idle"):
            self.command("scontrol", "update", f"nodename={name}", "state=resume", check=False)
        return bool(states) and set(states.values()) == {"idle"}

    def _daemon(self, name: str, *arguments: str) -> None:
        program = _program(name)
        assert program
        with (self.folder / "daemons.log").open("ab") as log:
            self.daemons.append(
                subprocess.Popen(
                    [*ENDING, program, *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=self.environment,
                )
            )

    def command(self, *words: str, check: bool = True) -> str:
        """What a Slurm command prints."""
        done = subprocess.run(words, env=self.environment, capture_output=True, text=True)
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(words)}: {done.stderr.strip()}")
        return done.stdout

    def _ask(self, *words: str) -> list[str]:
        return self.command(*words, check=False).splitlines()

    def jobs(self) -> list[dict[str, str]]:
        """Every job since the start: id, what (rule and wildcards), state, nodes, memory."""
        names = ("id", "what", "state", "nodes", "memory")
        lines = self._ask(
            "squeue", "--states=all", "--noheader", "--sort=i", "--format=%i|%k|%T|%N|%m"
        )
        return [dict(zip(names, line.split("|"), strict=True)) for line in lines]

    def stop(self) -> None:
        """End the jobs, the daemons and whatever they started; take the links away."""
        with contextlib.suppress(RuntimeError, OSError):
            self.command("scancel", "--state=RUNNING,PENDING", "--user=root", check=False)
        for daemon in reversed(self.daemons):  # slurmd, slurmctld, munged
            daemon.terminate()
        for daemon in self.daemons:
            with contextlib.suppress(subprocess.TimeoutExpired):
                daemon.wait(10)
        for process in processes(**{MARK: str(self.folder)}):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        for name in FILES:
            if (SYSTEM / name).is_symlink() and (SYSTEM / name).readlink().parent == self.folder:
                (SYSTEM / name).unlink()


@contextlib.contextmanager
def machine() -> Iterator[Machine]:
    """A Slurm for the length of a with block, in a folder of its own with a short path."""
    folder = Path(tempfile.mkdtemp(prefix="slurm-test-"))
    running = Machine(folder)
    try:
        running.start()
        yield running
    finally:
        running.stop()
        shutil.rmtree(folder, ignore_errors=True)
