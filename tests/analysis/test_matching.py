"""What names leave unsaid is read from the columns of the run table."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from lowrank.analysis.matching import own_decays


@pytest.mark.parametrize(
    "coupled",
    [
        pd.Series([False, True, None], dtype=object),
        pd.Series([0.0, 1.0, np.nan]),
        pd.Series([False, True, None], dtype="boolean"),
    ],
)
def test_a_decay_is_coupled_however_a_table_says_so(coupled):
    runs = pd.DataFrame({"cell": ["t/a", "t/b", "t/dense"], "decay": ["l2", "frobenius", None]})
    runs = runs.assign(decay_coupled=coupled)
    assert own_decays(pd.concat([runs, runs])) == {"t/a": "l2", "t/b": "frobenius-coupled"}


def test_tables_without_decays_say_nothing():
    assert own_decays(None) == own_decays(pd.DataFrame({"cell": ["t/a"]})) == {}
