"""Tracks are called as their authors like: what they are follows from model and data."""

from __future__ import annotations

import pandas as pd
import pytest

from lowrank import plot
from lowrank.analysis.claims import judge
from lowrank.analysis.ledger import read_ledger
from lowrank.analysis.tables import all_contrasts
from lowrank.errors import LowrankError
from lowrank.experiment import config as settings
from lowrank.experiment.expand import expand
from lowrank.parquet import read_table, write_table
from lowrank.plot import initialisation, interpolation, learning_rate

NAMES = {"language": "wiki", "small-images": "digits-2"}


def renamed(text):
    for old, new in NAMES.items():
        for before, after in ((f"{old}/", f"{new}/"), (f" on {old} are", f" on {new} are")):
            text = text.replace(before, after) if isinstance(text, str) else text
        text = new if isinstance(text, str) and text == old else text
    return text


@pytest.fixture(scope="module")
def own(synthetic):
    values = synthetic.model_dump(mode="json", exclude_none=True)
    values["tracks"] = {NAMES[name]: track for name, track in values["tracks"].items()}
    return settings.parse(values)


@pytest.fixture(scope="module")
def own_tables(tables, tmp_path_factory):
    folder = tmp_path_factory.mktemp("own-tracks")
    for path in tables.glob("*.parquet"):
        write_table(folder / path.name, read_table(path).map(renamed))
    return folder


def test_cells_contrasts_and_claims_are_those_of_any_other_name(synthetic, own, tables, own_tables):
    assert list(expand(own).cells) == [renamed(name) for name in expand(synthetic).cells]
    found = []
    for config, folder in ((synthetic, tables), (own, own_tables)):
        known = {path.stem: read_table(path) for path in folder.glob("*.parquet")}
        known["contrasts"] = all_contrasts(config, known)
        claims = judge(read_ledger("config/claims.yaml"), known, tracks=config.tasks)
        found.append((known["contrasts"], claims.drop(columns=["paper_value", "note"])))
    for before, now in zip(*found, strict=True):
        assert len(now) > 30
        pd.testing.assert_frame_equal(before.map(renamed), now)


@pytest.mark.parametrize("module", [initialisation, interpolation, learning_rate])
@pytest.mark.parametrize("track", NAMES)
def test_figures_show_the_same_under_any_name(tables, own_tables, module, track):
    (before, old), (now, new) = (
        module.draw(plot.read_results(folder, name))
        for folder, name in ((tables, track), (own_tables, NAMES[track]))
    )
    assert [ax.get_ylabel() for ax in now.axes] == [ax.get_ylabel() for ax in before.axes]
    assert new.shown().equals(old.shown())


def test_a_track_that_no_run_is_of_is_named_with_the_nearest(own_tables):
    with pytest.raises(LowrankError, match="did you mean 'digits-2'"):
        plot.read_results(own_tables, "digits")


@pytest.mark.parametrize(
    ("name", "model", "words"),
    [
        ("wiki", {"family": "wide_resnet", "width": 1, "depth": 10}, "wide_resnet on text"),
        ("Wiki", None, "must be lower-case letters, digits and -"),
        ("wiki/2", None, "must be lower-case letters, digits and -"),
    ],
)
def test_data_need_a_model_that_reads_them_and_names_are_those_of_folders(own, name, model, words):
    values = own.model_dump(mode="json", exclude_none=True)
    track = values["tracks"].pop("wiki")
    values["tracks"][name] = track | ({"model": model, "studies": {}} if model else {})
    with pytest.raises(LowrankError, match=words):
        settings.parse(values)
