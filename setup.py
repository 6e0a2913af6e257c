"""What pyproject.toml cannot say: the wheel carries the study's files, which `lowrank init` copies."""

from __future__ import annotations

import shutil
import tomllib
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent


def project_files() -> list[str]:
    """The files that `tool.lowrank.project` in pyproject.toml names, relative to the repository."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    found = (path for glob in settings["tool"]["lowrank"]["project"] for path in ROOT.glob(glob))
    return sorted({path.relative_to(ROOT).as_posix() for path in found if path.is_file()})


class WithProject(build_py):
    """Puts the study's files into the package's folder `project`, but for an editable installation."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        for file in project_files():
            target = Path(self.build_lib, "lowrank/project", file)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / file, target)

    def get_source_files(self) -> list[str]:
        """What a source distribution holds."""
        return [*super().get_source_files(), *project_files()]


setup(cmdclass={"build_py": WithProject})
