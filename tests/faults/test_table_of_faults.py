"""The commands of docs/faults.md try something."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
COMMAND = re.compile(r'`pytest ((?:tests/\S+\.py ?)+)(?:-k "?([^"`]+)"?)?`')


def test_every_command_of_the_table_of_faults_finds_tests():
    commands = COMMAND.findall((ROOT / "docs/faults.md").read_text(encoding="utf-8"))
    assert len(commands) > 10
    for files, words in commands:
        texts = [(ROOT / file).read_text(encoding="utf-8") for file in files.split()]
        names = re.findall(r"^def (test_\w+)", "\n".join(texts), re.MULTILINE)
        for word in (words or "test").split(" or "):
            assert any(word in name for name in names), (files, word)
