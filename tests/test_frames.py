"""Tables put together keep their columns and types."""

from __future__ import annotations

import numpy as np
import pandas as pd

from lowrank.frames import concat


def test_concatenation_keeps_types_and_the_order_of_columns():
    """A column of nulls says nothing of its type; an empty table nothing at all."""
    first = pd.DataFrame({"a": [1, 2], "b": [None, None]})
    second = pd.DataFrame({"a": [3], "c": [True], "b": ["x"]})
    found = concat([first, pd.DataFrame(), second])
    assert list(found.columns) == ["a", "b", "c"]
    assert found["a"].dtype == np.int64
    assert list(found.index) == [0, 1, 2]
    assert found["b"].isna().tolist() == [True, True, False]
    assert len(concat([])) == 0
