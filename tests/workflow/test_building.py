"""A scale without published tables is told in a sentence that names a way out."""

from __future__ import annotations

import pytest

from lowrank.errors import LowrankError
from lowrank.workflow.building import manifest_of


def test_a_scale_that_is_not_published_is_told_which_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "workflow"
    with pytest.raises(LowrankError, match=r"the scale mine has no .* publish` where it was\.$"):
        manifest_of("mine", root)
    for path in ("published/other", "workflow/published/laptop"):
        (tmp_path / path).mkdir(parents=True)
        (tmp_path / path / "manifest.json").touch()
    with pytest.raises(LowrankError, match=r"or keep `scale: laptop` or `other` in your"):
        manifest_of("mine", root)
    assert manifest_of("laptop", root).parent.name == "laptop"
