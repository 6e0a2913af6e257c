"""Text files are UTF-8 whatever the locale says."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = {
    str(path.relative_to(ROOT)): path
    for pattern in ("src/**/*.py", "tests/**/*.py", "notebooks/*.ipynb")
    for path in sorted(ROOT.glob(pattern))
}
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def code(path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = json.loads(text)["cells"]
        return "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "code")
    return text


def by_locale(call: ast.Call) -> bool:
    """Whether a call opens a file as text in the encoding of the locale."""
    function = call.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    if any(keyword.arg == "encoding" for keyword in call.keywords):
        return False
    if name == "open":
        given = [*call.args, *(keyword.value for keyword in call.keywords)]
        texts = [str(value.value) for value in given if isinstance(value, ast.Constant)]
        binary = any(re.fullmatch(r"[rwax]\+?b\+?", text) for text in texts)
        return not binary and ast.unparse(function) not in ("os.open", "Image.open", "archive.open")
    if isinstance(function, ast.Name):  # the project's own function, which writes UTF-8
        return False
    first = call.args[0].value if call.args and isinstance(call.args[0], ast.Constant) else None
    return name == "write_text" or (name == "read_text" and first != "utf-8")


@pytest.mark.parametrize("name", SOURCES)
def test_every_text_file_is_opened_with_its_encoding(name):
    calls = [
        node for node in ast.walk(ast.parse(code(SOURCES[name]))) if isinstance(node, ast.Call)
    ]
    assert [ast.unparse(call) for call in calls if by_locale(call)] == []


def test_the_workflow_opens_text_files_with_their_encoding():
    for path in [ROOT / "Snakefile", *(ROOT / "workflow/rules").glob("*.smk")]:
        for call in re.findall(r"(?:read_text|write_text|\bopen)\([^)]*\)", code(path)):
            assert "encoding=" in call, f"{path.name}: {call}"


def test_a_figures_files_hold_any_letter_under_an_ascii_locale(tmp_path):
    script = r"""
import matplotlib.pyplot as plt, pandas as pd, sys
from lowrank.plot.output import publish
from lowrank.plot.table import Column, Table
table = Table(pd.DataFrame({"arm": ["Gr\xf6\xdfe \u2264 5"]}), [Column("arm", lambda row: row.arm)])
figure, axes = plt.subplots()
axes.set_title("Gr\xf6\xdfe \u2264 5")
publish(figure, table, sys.argv[1] + "/figure")
"""
    run = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)],
        env=os.environ | ASCII,
        capture_output=True,
        encoding="utf-8",
    )
    assert run.returncode == 0, run.stderr
    for ending in ("csv", "md", "tex", "html"):
        assert "Größe" in (tmp_path / f"figure.{ending}").read_text(encoding="utf-8")
