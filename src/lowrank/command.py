"""What all commands share: the types of their options, and that each ends in a sentence."""

from __future__ import annotations

import errno
import io
import math
import signal
import sys
import tempfile
import threading
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from lowrank import warm
from lowrank.errors import LowrankError, cause

FILE = click.Path(path_type=Path, dir_okay=False)
FOLDER = click.Path(path_type=Path, file_okay=False)
DEVICE = click.Choice(["auto", "cpu", "cuda"])
DEVICE_OPTION = click.option(
    "--device", type=DEVICE, default="auto", show_default=True, help="Where to compute."
)
STUDY = frozenset(
    (
        *(
            "PIL",
            "datasets",
            "filelock",
            "ipykernel",
            "matplotlib",
            "pandas",
            "papermill",
            "psutil",
        ),
        *("pyarrow", "pydantic", "seaborn", "sklearn", "snakemake", "tokenizers", "tqdm"),
        *("transformers", "typst", "yaml"),
    )
)
"""What the extra `study` brings, by the names that it is imported by."""


class FiniteRange(click.FloatRange):
    """A range of numbers, none of which is NaN."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """The number, or click's usage error."""
        number = float(super().convert(value, param, ctx))
        if math.isnan(number):
            self.fail(f"{value} is not a number.", param, ctx)
        return number


class NamedPath(click.ParamType):
    """`name=path`."""

    name = "name=path"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, Path]:
        """The name and the path, or click's usage error."""
        name, _, path = str(value).partition("=")
        if not name or not path:
            self.fail(f"'{value}' is not name=path.", param, ctx)
        return name, Path(path)


def configuration(scale: str, config: Path | None) -> Path:
    """The file of --config, or of --scale; a key of Snakemake's --config is none."""
    if config is None:
        return Path("config") / f"{scale}.yaml"
    key, is_key, value = str(config).partition("=")
    if is_key and not config.exists():
        right = f"write --scale {value}" if key == "scale" else f"set {key} in a configuration"
        raise LowrankError(
            f"--config: {config} is what Snakemake takes, and a file is expected: {right}."
        )
    return config


class Commands(click.Group):
    """A click group whose commands end in one sentence, whatever goes wrong.

    A LowrankError and what the file system does not allow end with status 2; an unexpected error with
    status 1, and its traceback is kept in a file that the sentence names. SIGTERM and a closed
    terminal become an exit that removes temporary files.
    """

    def main(self, args: Sequence[str] | None = None, *others: Any, **more: Any) -> Any:
        """Run a command, in a fork of the workflow's warm process if there is one."""
        arguments = sys.argv[1:] if args is None else list(args)
        status = warm.forward(arguments) if arguments else None
        if status is not None:
            sys.exit(status)
        return super().main(arguments, *others, **more)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGHUP):
                if signal.getsignal(number) is not signal.SIG_IGN:  # nohup
                    signal.signal(number, _terminate)
        # Plan and last lines name such cells once; every model that is built would say it again.
        warnings.filterwarnings("ignore", message="At their rank")
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")  # what the locale's letters lack
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.Abort, click.exceptions.Exit):
            raise
        except LowrankError as error:
            _end(str(error), 2)
        except ModuleNotFoundError as error:
            if error.name is None or error.name.partition(".")[0] not in STUDY:
                _end(*_unforeseen(error))
            where = "pip install '.[study]' in a clone"
            _end(f"{error.name} is not installed: it comes with the extra study, {where}.", 2)
        except Exception as error:
            if isinstance(error, OSError) and error.errno == errno.EPIPE:
                raise  # whoever read the output has left, which click knows how to end
            _end(*_unforeseen(error))


def _end(sentence: str, status: int) -> None:
    click.echo(f"Error: {sentence}", err=True)
    sys.exit(status)


def _unforeseen(error: Exception) -> tuple[str, int]:
    """The sentence and exit status of an error that is no LowrankError."""
    system = isinstance(error, OSError) and error.strerror is not None
    if isinstance(error, OSError) and system:
        what = f"{error.filename}: {error.strerror}" if error.filename else f"{error.strerror}"
    else:
        what = f"{type(error).__name__}: {cause(error)}"
    what = what if len(what) <= 300 else what[:297] + "..."
    text = "".join(traceback.format_exception(error))
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="lowrank-", suffix=".log", delete=False, encoding="utf-8"
        ) as file:
            file.write(text)
    except OSError:
        click.echo(text, err=True)
        return f"{what} (the traceback is above).", 2 if system else 1
    return f"{what} (the traceback is in {file.name}).", 2 if system else 1


def _terminate(number: int, frame: Any) -> None:
    sys.exit(128 + number)
