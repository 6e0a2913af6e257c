"""The route of one cell that docs/workflow.md describes leads through files and names that are there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
STATION = re.compile(r"^\|[^|]+\| `([^`]+)` \| `([^`]+)` \|$", re.MULTILINE)


def test_every_station_of_a_cells_route_is_there():
    stations = STATION.findall((ROOT / "docs/workflow.md").read_text(encoding="utf-8"))
    assert len(stations) > 10
    for file, name in stations:
        text = (ROOT / file).read_text(encoding="utf-8")
        assert re.search(rf"^ *(?:def|rule) {name}\b", text, re.MULTILINE), (file, name)
