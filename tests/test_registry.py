"""A registry refuses duplicates and names what it knows."""

from __future__ import annotations

import sys

import pytest

from lowrank.errors import LowrankError
from lowrank.registry import Registry


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


@pytest.mark.parametrize(
    "name", ["pea soup", "Soup", "_soup", "1soup", "", "s" * 61, "soup\n", "sóup"]
)
def test_a_name_that_no_configuration_could_hold_is_refused_in_a_sentence(name):
    registry: Registry[int] = Registry("dish")
    with pytest.raises(LowrankError, match=r"A name of the kind dish has .* has not\.$"):
        registry.add(name, 1)
    registry.add("s" * 60, 1)
    assert list(registry) == ["s" * 60]


@pytest.fixture
def dishes(tmp_path, monkeypatch):
    """A package `dishes`, one module a dish, and the registry it fills."""
    folder = tmp_path / "dishes_of_a_test"
    folder.mkdir()
    (folder / "__init__.py").write_text(
        "from lowrank.registry import Registry\nDISHES = Registry('dish', package=__name__)\n",
        encoding="utf-8",
    )
    for number, name in enumerate(("salad", "soup")):
        text = f"from dishes_of_a_test import DISHES\nDISHES.add('{name}', {number})\n"
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
    (folder / "base.py").write_text("what all dishes share, and no Python", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield folder
    for name in [name for name in sys.modules if name.startswith("dishes_of_a_test")]:
        del sys.modules[name]


def test_a_package_fills_its_registry_at_the_first_look_up_and_tells_names_before(dishes):
    from dishes_of_a_test import DISHES

    assert DISHES.names() == ["salad", "soup"]
    assert "dishes_of_a_test.soup" not in sys.modules
    assert DISHES["soup"] == 1
    assert dict(DISHES) == {"salad": 0, "soup": 1}


def test_a_module_imported_by_itself_enters_once(dishes):
    from dishes_of_a_test import DISHES, soup

    assert soup and dict(DISHES) == {"salad": 0, "soup": 1}


def test_a_module_that_fails_fails_again_at_the_next_look_up(dishes):
    (dishes / "stew.py").write_text("1 / 0", encoding="utf-8")
    from dishes_of_a_test import DISHES

    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            len(DISHES)
