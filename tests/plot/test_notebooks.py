"""Notebooks: stored without outputs, parametrised, runnable from anywhere, and free of torch."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from lowrank.experiment.study import studies
from lowrank.plot.results import locate
from lowrank.workflow import figures

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_stored_clean_and_begins_with_text_and_parameters(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    first, parameters, *_ = notebook.cells
    assert first.cell_type == "markdown"
    assert len(first.source.split("\n\n", 1)[1]) > 100, "says what is shown and how to read it"
    assert parameters.metadata.tags == ["parameters"]
    for name in ("tables", "track", "output"):
        assert re.search(rf"^{name} = ", parameters.source, re.MULTILINE)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert not cell.outputs
            assert cell.execution_count is None
            assert len(cell.source.splitlines()) <= 8, "a notebook computes nothing"
    assert f'publish(figure, table, f"{{output}}/{path.stem}")' in notebook.cells[2].source
    text = path.read_text(encoding="utf-8")
    assert not re.search(r"[\"' (](/home|/root|/work|/tmp|/Users|[A-Z]:\\\\)", text)


def test_every_study_has_a_notebook_or_what_it_measures_is_in_anothers():
    names = {path.stem for path in NOTEBOOKS}
    figures = [figure for study in studies().values() for figure in study.figures]
    drawn = {table for figure in figures if figure.name in names for table in figure.tables}
    for study in studies().values():
        measured = study.job.tables if study.job else ()
        assert names & {figure.name for figure in study.figures} or drawn & {*measured}


def test_every_notebook_is_rendered_by_the_workflow_and_the_other_way_round():
    drawn = {figure.name for study in studies().values() for figure in study.figures}
    assert drawn | {*figures.ACROSS} == {path.stem for path in NOTEBOOKS}


def test_drawing_imports_neither_torch_nor_transformers():
    modules = [path.stem for path in (ROOT / "src/lowrank/plot").glob("[a-z]*.py")]
    code = "import sys\n" + "\n".join(f"import lowrank.plot.{name}" for name in modules)
    code += "\nsys.exit(bool({'torch', 'transformers', 'seaborn'} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_relative_paths_are_meant_from_the_root(tmp_path, monkeypatch):
    (tmp_path / "Snakefile").touch()
    (tmp_path / "notebooks").mkdir()
    for folder in (tmp_path, tmp_path / "notebooks"):
        monkeypatch.chdir(folder)
        assert locate("results/x") == tmp_path / "results/x"
        assert locate(tmp_path / "y") == tmp_path / "y"


@pytest.mark.parametrize(
    "path", [path for path in NOTEBOOKS if path.stem != "claims"], ids=lambda path: path.stem
)
@pytest.mark.parametrize("track", ["language", "small-images"])
def test_every_notebook_draws_its_figure(path, track, tables, tmp_path):
    """Its cells run here, in this process; how papermill runs one is the next test."""
    scope: dict = {}
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code":
            exec(cell.source, scope)
            if "parameters" in cell.metadata.get("tags", []):
                scope |= {"tables": str(tables), "track": track, "output": str(tmp_path)}
    assert (tmp_path / f"{path.stem}.pdf").is_file()
    assert len(scope["table"].numbers)


def test_notebook_runs_alone_from_its_own_folder(tables, tmp_path):
    (tmp_path / "Snakefile").touch()
    folder = tmp_path / "notebooks"
    folder.mkdir()
    shutil.copy(ROOT / "notebooks/initialisation.ipynb", folder)
    shutil.copytree(tables, tmp_path / "results/laptop/tables")
    kernels = tmp_path / "home/.local/share/jupyter/kernels/python3"
    kernels.mkdir(parents=True)  # a foreign kernel in the home folder must not be picked up
    (kernels / "kernel.json").write_text(
        '{"argv": ["false"], "display_name": "x", "language": "python"}', encoding="utf-8"
    )
    env = {**os.environ, "HOME": str(tmp_path / "home"), "JUPYTER_PREFER_ENV_PATH": "1"}
    subprocess.run(
        [
            sys.executable,
            "-m",
            "papermill",
            "initialisation.ipynb",
            "out.ipynb",
            "--no-progress-bar",
        ],
        cwd=folder,
        env=env,
        check=True,
        capture_output=True,
    )
    for ending in ("pdf", "png", "csv", "json", "md", "tex"):
        assert (tmp_path / f"figures/laptop/language/initialisation.{ending}").is_file()
    executed = nbformat.read(folder / "out.ipynb", as_version=4)
    shown = [
        output.data
        for output in executed.cells[-2].outputs + executed.cells[-1].outputs
        if "data" in output
    ]
    assert any("image/png" in data for data in shown)
    assert any("text/html" in data for data in shown)
