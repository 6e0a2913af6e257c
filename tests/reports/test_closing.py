"""What is said at the end of a run, and of a plan, of runs that need care."""

from __future__ import annotations

import warnings
from pathlib import Path

import click
import pandas as pd
from click.testing import CliRunner

from lowrank.cli import main
from lowrank.experiment import config
from lowrank.reports.closing import cautions
from lowrank.reports.plan import make_plan, show

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
