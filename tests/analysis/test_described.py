"""Facts of arms in tables that lack them, from the runs or from the configuration."""

from __future__ import annotations

import pandas as pd

from lowrank.analysis.described import described, of_cells
from lowrank.experiment import config

RUNS = pd.DataFrame(
    {
        "cell": ["t/a", "t/a", "t/b"],
        "seed": [0, 1, 0],
        "init": ["he", "he", "dense"],
        "width": [8, 8, 16],
        "test_loss": [1.0, 2.0, 3.0],
    }
)


def test_a_table_of_cells_has_the_facts_that_runs_have_of_them_once_a_row():
    table = pd.DataFrame({"cell": ["t/b", "t/a", "t/gone"], "barrier": [0.1, 0.2, 0.3]})
    found = of_cells(table, RUNS)
    assert found["cell"].tolist() == ["t/b", "t/a", "t/gone"]
    assert found["init"].fillna("unknown").tolist() == ["dense", "he", "unknown"]
    assert set(found.columns) == {"cell", "barrier", "init", "width"}, "facts, and no results"


def test_what_a_table_says_itself_stays():
    table = pd.DataFrame({"cell": ["t/a"], "init": ["mine"]})
    found = of_cells(table, RUNS)
    assert (found["init"].item(), found["width"].item()) == ("mine", 8)


def test_without_cells_or_runs_a_table_is_what_it_is():
    table = pd.DataFrame({"cell": ["t/a"]})
    assert of_cells(table, None) is table
    assert of_cells(table, RUNS.drop(columns="cell")) is table
    bare = pd.DataFrame({"track": ["t"]})
    assert of_cells(bare, RUNS) is bare
    assert list(of_cells(table, RUNS[:0]).columns) == ["cell"]


def test_runs_and_rates_have_the_facts_of_the_configurations_cells_and_sweeps():
    track = {
        "data": {"kind": "text"},
        "model": {"family": "gpt2", "width": 16, "depth": 1, "heads": 2, "context": 16},
        "training": {"steps": 10, "batch": 4},
        "factors": {"rank_fraction": 0.5},
        "sweep": {"rates": [0.01]},
        "studies": {"initialisation": {"ranks": [0.5], "inits": ["he"]}},
    }
    settings = config.parse({"scale": "s", "seeds": [0], "tracks": {"t": track}})
    runs = pd.DataFrame({"cell": ["t/he-r0.5", "t/dense", "t/gone"], "width": [8, 8, 8]})
    rates = pd.DataFrame({"group": ["t/dense", "t/he-r0.5"]})
    found = described(settings, {"runs": runs, "rates": rates})
    assert found["runs"]["init"].fillna("unknown").tolist() == ["he", "dense", "unknown"]
    assert found["runs"]["rank_fraction"].fillna(0).tolist() == [0.5, 0, 0]
    assert found["runs"]["width"].tolist() == [8, 8, 8], "what the table says stays"
    assert found["rates"]["init"].tolist() == ["dense", "he"]
    assert found["rates"]["width"].tolist() == [16, 16]
    for lacking in ({"runs": runs}, {"runs": runs, "rates": rates[:0]}):
        assert list(described(settings, lacking)) == ["runs"]
