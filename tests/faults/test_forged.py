"""Numbers that were changed together with every sum over them are found by what follows from them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from faulty import DENSE, LOW, NAME, Track

from lowrank.analysis.publish import read_published
from lowrank.errors import LowrankError
from lowrank.experiment.ground import read_ground
from lowrank.files import MANIFEST, read_json, read_sealed, write_json, write_manifest, write_sealed
from lowrank.parquet import read_table, write_table


@pytest.fixture(scope="module")
def published(whole, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("published") / "tiny"
    assert whole.run(whole.publish(folder)) == (0, "")
    return folder


def test_what_was_just_published_is_believed(published):
    tables = read_published(published)
    assert len(tables["runs"]) == 3 and len(tables["contrasts"]) and len(tables["claims"])
    assert (published / "claims.yaml").is_file()


def change(
    name: str, column: str, value: object, query: str | None = None
) -> Callable[[Path], None]:
    def forge(folder: Path) -> None:
        table = pd.read_parquet(folder / f"{name}.parquet")
        row = (table.query(query, engine="python") if query else table).index[-1]
        table[column] = table[column].astype(object)
        assert table.loc[row, column] != value
        table.loc[row, column] = value
        table.infer_objects().to_parquet(folder / f"{name}.parquet")

    return forge


def leave_out(name: str) -> Callable[[Path], None]:
    def forge(folder: Path) -> None:
        path = folder / f"{name}.parquet"
        pd.read_parquet(path).iloc[:-1].to_parquet(path)

    return forge


def without(name: str) -> Callable[[Path], None]:
    def forge(folder: Path) -> None:
        (folder / f"{name}.parquet").unlink()

    return forge


def other_margin(folder: Path) -> None:
    """A margin so wide that everything is as good as everything."""
    path = folder / "claims.yaml"
    text = path.read_text(encoding="utf-8")
    path.write_text(text.replace("value: 0.0", "value: 0.9"), encoding="utf-8")
    assert path.read_text(encoding="utf-8") != text


FORGERIES = {
    "a loss": (change("runs", "validation_loss", 2.3), "validation_loss"),
    "a test loss": (change("runs", "test_loss", 0.01), "contrasts"),
    "a test accuracy": (change("runs", "test_accuracy", 0.99), "contrasts"),
    "an estimate": (change("contrasts", "estimate", -2.0), "estimate"),
    "an end of an interval": (change("contrasts", "low", -2.0), "low"),
    "the sides of a contrast": (change("contrasts", "arm", f"{NAME}/other"), "arm"),
    "a contrast left out": (leave_out("contrasts"), "rows"),
    "all contrasts": (without("contrasts"), "contrasts"),
    "all histories": (without("history"), "history"),
    "a verdict": (change("claims", "verdict", "supported", "verdict != 'supported'"), "verdict"),
    "a claim's note": (change("claims", "note", "nothing"), "note"),
    "a claim's statement": (change("claims", "statement", "All is well"), "statement"),
    "a claim's estimate": (change("claims", "estimate", 2.0, "estimate.notna()"), "estimate"),
    "a row of claims left out": (leave_out("claims"), "rows"),
    "a margin": (other_margin, "margin"),
    "a truncation": (change("posthoc", "kept_flops", 0.01), "in no run"),
    "a rate": (change("rates", "validation_loss", 0.001, "chosen"), "rates"),
}


@pytest.mark.parametrize(
    ("damaged", "damage"),
    [(MANIFEST, "empty"), ("runs.parquet", "empty"), ("runs.parquet", "missing")],
)
def test_a_damaged_published_folder_is_to_be_restored_not_deleted(
    damaged, damage, published, tmp_path
):
    folder = shutil.copytree(published, tmp_path / "tiny")
    (folder / damaged).unlink()
    if damage == "empty":
        (folder / damaged).touch()
    for read in (read_published, lambda folder: read_ground(folder, tmp_path, [])):
        with pytest.raises(
            LowrankError, match=rf"restore it \(`git checkout {folder}`\)\.$"
        ) as error:
            read(folder)
        assert damaged in str(error.value) and "delete" not in str(error.value)


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_forged_table_is_found_though_the_manifest_fits(forgery, published, tmp_path):
    forge, named = FORGERIES[forgery]
    folder = tmp_path / "tiny"
    shutil.copytree(published, folder)
    forge(folder)
    names = read_json(folder / MANIFEST)["files"]
    write_manifest(folder, [name for name in names if (folder / name).is_file()])
    with pytest.raises(LowrankError) as error:
        read_published(folder)
    assert named in str(error.value) and str(folder) in str(error.value)


def test_runs_alone_are_held_against_their_histories_and_come_without_verdicts(published, tmp_path):
    """As a plan reads them."""
    alone = read_published(published, judged=False)
    assert read_published(published).keys() - alone.keys() == {"contrasts", "claims"}
    folder = tmp_path / "tiny"
    shutil.copytree(published, folder)
    for forgery in ("a verdict", "a loss"):
        forge, named = FORGERIES[forgery]
        forge(folder)
        write_manifest(folder, read_json(folder / MANIFEST)["files"])
        if forgery == "a verdict":
            assert read_published(folder, judged=False).keys() == alone.keys()
    with pytest.raises(LowrankError, match=named):
        read_published(folder, judged=False)


def test_a_file_that_the_manifest_does_not_name_is_refused(published, tmp_path):
    folder = tmp_path / "tiny"
    shutil.copytree(published, folder)
    more = folder / "more.parquet"
    for make in (lambda: more.write_bytes(b""), lambda: more.symlink_to(tmp_path / "nowhere")):
        make()
        with pytest.raises(LowrankError, match=r"more\.parquet is not in the manifest"):
            read_published(folder)
        more.unlink()


def test_tables_that_were_read_before_are_not_changed_by_who_read_them(published):
    read_published(published)["runs"]["train_loss"] += 1.0
    changed, again = (read_published(published)["runs"] for _ in range(2))
    changed.loc[:, "train_loss"] = 0.0
    pd.testing.assert_frame_equal(again, read_published(published)["runs"])
    assert (again["train_loss"] > 0).all()


def test_publishing_again_changes_no_number_and_a_changed_one_is_refused(
    whole, published, tmp_path
):
    folder, track = tmp_path / "tiny", Track(tmp_path / "results/tiny")
    shutil.copytree(published, folder)
    shutil.copytree(whole.root, track.root)
    before = read_published(folder)
    assert track.run(track.publish(folder)) == (0, "")
    after = read_published(folder)
    assert before.keys() == after.keys()
    for name, table in before.items():
        pd.testing.assert_frame_equal(table, after[name])
    runs = before["runs"].assign(train_loss=before["runs"]["train_loss"] + 1.0)
    history = before["history"].assign(train_loss=before["history"]["train_loss"] + 1.0)
    for name, table in (("runs", runs), ("history", history)):
        write_table(track.root / f"tables/{name}.parquet", table)
    status, message = track.run(track.publish(folder))
    assert status == 2 and "3 of these runs are published with other numbers" in message
    assert track.run([*track.publish(folder), "--replace"]) == (0, "")
    assert (read_published(folder)["runs"]["train_loss"] == runs["train_loss"]).all()


def test_published_runs_of_another_corpus_never_stand_beside_new_ones(whole, published, tmp_path):
    """Theirs are another seed's, so no new run takes their place."""
    folder = tmp_path / "tiny"
    shutil.copytree(published, folder)
    for path in folder.glob("*.parquet"):
        table = read_table(path)
        if "seed" in table and path.stem != "rates":
            table["seed"] = 9
        for column in {"digest", "data_digest"} & {*table}:
            table[column] = "other"
        write_table(path, table)
    write_manifest(folder, read_json(folder / MANIFEST)["files"])
    assert set(read_published(folder)["runs"]["seed"]) == {9}
    status, message = whole.run(whole.publish(folder))
    assert status == 2 and "3 published runs are of other data, settings or versions" in message
    assert whole.run([*whole.publish(folder), "--replace"]) == (0, "")
    found, expected = read_published(folder), read_published(published)
    assert found.keys() == expected.keys()
    for name, table in expected.items():
        pd.testing.assert_frame_equal(found[name], table)


def test_tables_of_two_states_are_not_published_and_what_was_published_stays(
    whole, published, tmp_path
):
    """As when training goes on while its tables are published."""
    track = Track(tmp_path / "results/tiny")
    shutil.copytree(whole.root, track.root)
    shutil.copytree(published, tmp_path / "tiny")
    before = (tmp_path / "tiny" / MANIFEST).read_bytes()
    change("contrasts", "estimate", -2.0)(track.root / "tables")
    status, message = track.run(track.publish(tmp_path / "tiny"))
    assert status == 2 and "cannot be published: estimate of" in message
    assert (tmp_path / "tiny" / MANIFEST).read_bytes() == before
    assert read_published(tmp_path / "tiny").keys() == read_published(published).keys()


@pytest.mark.parametrize(
    ("metrics", "named"),
    [
        ({"test_accuracy": 0.99}, "no model has these metrics"),
        ({"test_accuracy": 1.5}, "no model has these metrics"),
        ({"test_perplexity": 1.5}, "no model has these metrics"),
        ({}, "no model has these metrics"),
    ],
)
def test_impossible_test_metrics_beside_a_run_are_named(metrics, named, whole, tmp_path):
    track = Track(tmp_path / "results/tiny")
    shutil.copytree(whole.root, track.root)
    digest = read_table(track.root / f"cells/{NAME}/{LOW}/runs.parquet")["digest"][0]
    kept = track.root / "runs" / digest / "test.json"
    values = read_sealed(kept)
    write_sealed(kept, {**values, "metrics": {**values["metrics"], **metrics} if metrics else {}})
    status, message = track.run(track.evaluate())
    assert status == 2 and named in message and f"delete {kept} and run again" in message


def test_a_cells_forged_table_is_found_when_tables_are_gathered(whole, tmp_path):
    track = Track(tmp_path / "results/tiny")
    shutil.copytree(whole.root, track.root)
    path = track.root / f"cells/{NAME}/{DENSE}/runs.parquet"
    write_table(path, read_table(path).assign(validation_loss=0.5))
    status, message = track.run(track.tables())
    assert status == 2 and f"validation_loss of {NAME}/{DENSE} seed 0 is 0.5" in message


def test_a_forged_sweep_is_found_when_tables_are_gathered(whole, tmp_path):
    track = Track(tmp_path / "results/tiny")
    shutil.copytree(whole.root, track.root)
    path = track.root / f"rates/{NAME}/{DENSE}.json"
    sweep = read_sealed(path)
    for row in sweep["rates"]:
        row["validation_loss"] *= 0.5
    write_json(path, {"seal": "", **sweep})
    write_sealed(path, sweep)
    status, message = track.run(track.tables())
    assert status == 2 and "validation_loss" in message and "rates" in message
