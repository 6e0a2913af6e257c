"""What is said at the end of a run, and of a plan, of runs that need care."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from types import SimpleNamespace

import click
import pandas as pd
import pytest
from click.testing import CliRunner

from lowrank.cli import main
from lowrank.experiment import config
from lowrank.reports.closing import cautions, closing
from lowrank.reports.plan import make_plan, show
from lowrank.workflow import closing as closing_of_call

ROOT = Path(__file__).parents[2]


def runs(**columns: list) -> pd.DataFrame:
    cells = [f"language/he-r0.{n}" for n in range(1, 6)]
    plain = {"cell": cells, "diverged": [False] * 5, "kept_parameters": [0.5] * 5}
    return pd.DataFrame({**plain, **columns})


def test_nothing_is_said_of_runs_that_went_well():
    assert list(cautions(runs())) == []


def test_runs_that_diverged_are_counted_and_some_named():
    (line,) = cautions(runs(diverged=[True, None, True, True, True]))
    assert line == (
        "4 runs diverged: language/he-r0.1, language/he-r0.3, language/he-r0.4 and 1 other cell."
    )


# The claims


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """A folder with the runs of a cell, the tables made from them, and the claims judged on these, in which
    nothing is newer than what is made from it."""
    monkeypatch.chdir(tmp_path)
    claims = pd.DataFrame(
        [
            {"level": level, "claim": "a", "statement": "It holds", "track": track, "verdict": "supported",
             "control": False, "setting": "reduced", "supported": 1, "refuted": 0, "ran": 1, "metric": "test_loss",
             "smallest_settled": 0.1, "margin": 0.2, "unit": "absolute", "kind": "better", "note": "",
             "arm": "x", "reference": "y", "against": None, "estimate": 1.0, "low": 0.5, "high": 1.5,
             "p_corrected": 0.01, "p_against": 1.0, "pairs": 5}
            for level, track in (("member", "language"), ("test", "language"), ("claim", "all"))
        ]
    )  # fmt: skip
    tables = {
        "cells/language/dense/runs": runs(),
        "tables/runs": runs(diverged=[True, False, False, False, False]),
        "tables/claims": claims,
    }
    for name, table in tables.items():
        path = tmp_path / f"results/tiny/{name}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        table.to_parquet(path)
        os.utime(path, (1e9, 1e9))
    return tmp_path / "results/tiny"


FIGURES = "The figures are in figures/tiny; claims.md there is the one to open first."
LOST = "1 run diverged: language/he-r0.1."


def said(project: Path) -> list[str]:
    cells = [project / "cells/language/dense/runs.parquet"]
    return closing(project / "tables", Path("figures/tiny"), cells).splitlines()


def test_figures_verdicts_and_cautions_are_said_at_the_end(project):
    assert said(project) == [FIGURES, "It holds: language supported (1 of 1)", LOST]


@pytest.mark.parametrize("newer", ["cells/language/dense/runs", "tables/runs"])
def test_verdicts_that_are_older_than_a_run_are_not_said(newer, project):
    os.utime(project / f"{newer}.parquet", (2e9, 2e9))
    assert said(project) == [
        FIGURES,
        "The claims were not judged since the last run: no verdicts.",
        LOST,
    ]


def test_tables_that_are_missing_are_no_complaint(project):
    (project / "tables/claims.parquet").unlink()
    assert len(said(project)) == 3 and "no verdicts" in said(project)[1]
    (project / "cells/language/dense/runs.parquet").unlink()
    (project / "tables/runs.parquet").unlink()
    assert said(project) == [FIGURES]


@pytest.mark.parametrize(
    ("targets", "touch", "expected"),
    [
        (["figures"], False, True),
        (["methods"], False, True),
        (["figures", "paper"], False, True),
        (["paper"], False, True),
        (["figures"], True, False),
        (
            ["train_cell", "train_cell"],
            False,
            False,
        ),  # what `--until train_cell` makes of the targets
        (["render_figure", "collect_tables"], False, False),
        ([], False, False),
    ],
)
def test_a_call_that_left_figures_out_or_made_nothing_says_nothing(
    targets, touch, expected, project
):
    jobs = [SimpleNamespace(rule=SimpleNamespace(name=name)) for name in targets]
    workflow = SimpleNamespace(dag=SimpleNamespace(targetjobs=jobs), touch=touch)
    scale = SimpleNamespace(
        runs=lambda: ["results/tiny/cells/language/dense/runs.parquet"],
        results="results/tiny",
        figures=SimpleNamespace(folder="figures/tiny"),
        paper="paper/tiny/paper.pdf",
    )
    closing = closing_of_call(workflow, scale)  # type: ignore[arg-type]
    assert bool(closing) == expected
    assert ("The report is paper/tiny/paper.pdf." in closing) == ("paper" in targets)


def test_cells_larger_than_dense_are_named_once_in_a_plan_and_not_where_models_are_built():
    values = config.read_yaml(ROOT / "config/smoke.yaml")
    values["tracks"] = {"language": values["tracks"]["language"]}
    values["tracks"]["language"]["studies"] = {
        "initialisation": {"ranks": [1.0], "inits": ["he", "spectral"]}
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shown = show(make_plan(config.parse(values)))
    assert shown.splitlines()[-1] == (
        "At a rank above break-even, so larger than dense: language/he-r1, language/spectral-r1."
    )


def test_commands_keep_the_warning_of_ranks_to_themselves():
    """A model above break-even would say so with a source line, once a run."""

    @main.command()
    def warn() -> None:
        warnings.warn("At their rank 2 of 3 layers", stacklevel=1)
        click.echo("built")

    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            assert CliRunner().invoke(main, ["warn"]).output == "built\n"
        assert caught == []
    finally:
        main.commands.pop("warn")
