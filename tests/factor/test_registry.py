"""A registry refuses duplicates and names what it knows."""

from __future__ import annotations

import pytest

from lowrank.errors import LowrankError
from lowrank.factor.registry import Registry


def test_entries_are_found_by_name_and_duplicates_and_strangers_are_errors():
    registry: Registry[int] = Registry("dish")
    registry.add("soup", 1)
    assert registry.register("salad")(2) == 2
    assert dict(registry) == {"soup": 1, "salad": 2}
    with pytest.raises(LowrankError, match="The dish 'soup' is defined twice"):
        registry.add("soup", 3)
    assert registry["soup"] == 1
    with pytest.raises(LowrankError, match=r"Unknown dish 'sou': did you mean 'soup'\? known are"):
        registry["sou"]
    assert "sou" not in registry
