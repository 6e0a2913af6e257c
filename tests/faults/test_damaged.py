"""Damaged files are named with what to delete, and never used; names cannot reach a shell."""

from __future__ import annotations

import ast
import contextlib
import json
import random
import re
import shutil
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from faulty import DENSE, LOW, NAME, PRE, ROOT, Track, assert_same_results

from lowrank import files, parquet
from lowrank.data.spec import TextSpec
from lowrank.data.text import load_text, prepare_text
from lowrank.errors import LowrankError
from lowrank.files import read_json
from lowrank.parquet import read_table, write_table


def truncate(path: Path, other: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def cut_the_end(path: Path, other: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2])


def empty(path: Path, other: Path) -> None:
    path.write_bytes(b"")


def swap(path: Path, other: Path) -> None:
    shutil.copyfile(other, path)


def flip(where: float):
    def change(path: Path, other: Path) -> None:
        content = bytearray(path.read_bytes())
        content[min(int(where * len(content)), len(content) - 1)] ^= 4
        path.write_bytes(bytes(content))

    change.__name__ = f"flip_at_{where}"
    return change


DAMAGES = [truncate, cut_the_end, empty, swap, *map(flip, (0.02, 0.31, 0.55, 0.97))]


def run_folder(track: Track, arm: str) -> Path:
    digest = read_table(track.root / f"cells/{NAME}/{arm}/runs.parquet")["digest"][0]
    return track.root / "runs" / digest


# What is damaged, what it is swapped with, and the job that reads it.
DATA = f"data/{NAME}"
ARTEFACTS = {
    "image array": (f"{DATA}/images-train.npy", f"{DATA}/images-test.npy", "train"),
    "labels": (f"{DATA}/labels-test.npy", f"{DATA}/labels-validation.npy", "train"),
    "data manifest": (f"{DATA}/manifest.json", "run/manifest.json", "train"),
    "configuration of a job": ("config.json", f"rates/{NAME}/{LOW}.json", "train"),
    "configuration of all": ("config.json", f"rates/{NAME}/{LOW}.json", "tables"),
    "rate": (f"rates/{NAME}/{LOW}.json", f"rates/{NAME}/{DENSE}.json", "train"),
    "rate in tables": (f"rates/{NAME}/{LOW}.json", f"rates/{NAME}/{DENSE}.json", "tables"),
    "result": ("run/result.json", "trunk/result.json", "train"),
    "weights": ("run/model.safetensors", "trunk/model.safetensors", "evaluate"),
    "history": ("run/history.parquet", "trunk/history.parquet", "train"),
    "layers": ("run/layers.parquet", "trunk/layers.parquet", "evaluate"),
    "spectra": ("run/spectra.parquet", "trunk/spectra.parquet", "train"),
    "run manifest": ("run/manifest.json", "trunk/manifest.json", "train"),
    "test metrics": ("run/test.json", "trunk/test.json", "evaluate"),
    "fork's weights": ("trunk/fork-000000003/model.safetensors", "trunk/model.safetensors", "fork"),
    "fork's optimiser": (
        "trunk/fork-000000003/optimizer.safetensors",
        "trunk/fork-000000003/model.safetensors",
        "fork",
    ),
    "fork's record": ("trunk/fork-000000003/record.json", "trunk/result.json", "fork"),
    "fork's manifest": ("trunk/fork-000000003/manifest.json", "trunk/manifest.json", "fork"),
    "cell's runs": (
        f"cells/{NAME}/{LOW}/runs.parquet",
        f"cells/{NAME}/{DENSE}/runs.parquet",
        "tables",
    ),
    "evaluation": (f"evaluations/{NAME}.parquet", f"interpolation/{NAME}.parquet", "tables"),
}
TABLES_BY_NAME = {"cell's runs", "evaluation"}


@pytest.fixture(scope="module")
def spoiled(whole, tmp_path_factory) -> Track:
    """A copy whose files are damaged and mended one after the other."""
    track = Track(tmp_path_factory.mktemp("spoiled") / "results/tiny")
    shutil.copytree(whole.root, track.root)
    return track


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("artefact", ARTEFACTS)
def test_damage_is_named_with_what_to_delete_and_never_used(artefact, damage, whole, spoiled):
    track = spoiled
    folders = {"run": run_folder(whole, LOW), "trunk": run_folder(whole, DENSE)}

    def place(name: str) -> Path:
        first, _, rest = name.partition("/")
        return (
            track.root / "runs" / folders[first].name / rest
            if first in folders
            else track.root / name
        )

    name, other, reader = ARTEFACTS[artefact]
    path = place(name)
    jobs = {
        **{"train": track.train(LOW), "evaluate": track.evaluate(), "tables": track.tables()},
        "fork": track.train(PRE),
    }
    original = path.read_bytes()
    pre = track.root / "runs" / run_folder(whole, PRE).name
    if reader == "fork":
        shutil.rmtree(pre)
    try:
        damage(path, place(other))
        assert path.read_bytes() != original
        status, message = track.run(jobs[reader])
        if damage is swap and artefact in TABLES_BY_NAME and status == 0:
            pytest.fail("another's table was used")
        if status == 0 and path.suffix == ".parquet":
            # A byte of a footer that says nothing about the contents.
            assert read_table(path).equals(read_table(whole.root / name))
            return
        assert status == 2, message
        assert "\n" not in message
        named = re.search(r"delete (\S+) and run again\.$", message)
        assert named, message
        assert (
            path == Path(named[1])
            or Path(named[1]) in path.parents
            or path in Path(named[1]).parents
        )
        assert str(track.root) in named[1]
    finally:
        path.write_bytes(original)
        if reader == "fork":
            shutil.rmtree(pre, ignore_errors=True)
            shutil.copytree(whole.root / "runs" / pre.name, pre)


def test_after_deleting_what_is_named_everything_is_made_again(whole, tmp_path):
    track = Track(tmp_path / "results/tiny")
    shutil.copytree(whole.root, track.root)
    rng = random.Random(0)
    victims = [path for path in track.root.rglob("*") if path.suffix in (".npy", ".safetensors")]
    for victim in victims:
        flip(rng.random())(victim, victim)
    shutil.rmtree(track.root / "runs" / run_folder(whole, PRE).name)
    deleted = 0
    for job in track.jobs()[1:]:
        while (found := track.run(job))[0] != 0:
            named = re.search(r"delete (\S+) and run again\.$", found[1])
            assert named, found
            shutil.rmtree(named[1])
            deleted += 1
            if named[1].endswith(f"data/{NAME}"):
                assert track.run(track.prepare()) == (0, "")
    assert deleted >= 4
    assert_same_results(whole, track)


def test_a_run_in_the_place_of_another_is_named(whole, tmp_path):
    track = Track(tmp_path / "results/tiny")
    shutil.copytree(whole.root, track.root)
    run, trunk = (track.root / "runs" / run_folder(whole, arm).name for arm in (LOW, DENSE))
    shutil.rmtree(run)
    shutil.copytree(trunk, run)
    status, message = track.run(track.train(LOW))
    assert status == 2
    assert message.endswith(f"it holds the run {trunk.name}): delete {run} and run again.")


@pytest.mark.parametrize("damage", [truncate, empty, flip(0.5), swap], ids=lambda d: d.__name__)
def test_a_damaged_checkpoint_is_named_and_an_older_state_taken(damage, whole, tmp_path, capfd):
    """A checkpoint only saves time: without it the run is the same, so nothing needs deleting."""
    from lowrank.experiment.cell import Cell
    from lowrank.jobs import train as jobs
    from lowrank.train import checkpoint
    from lowrank.train.run import ensure_run

    track = Track(tmp_path / "results/tiny")
    shutil.copytree(whole.root / "data", track.root / "data")
    cell: Cell = whole.grid.cells[f"{NAME}/{LOW}"]
    (spec,) = cell.runs(jobs.read_rates(whole.root / "rates", [cell]))
    data, cache = track.root / "data" / NAME, track.root / "runs"
    ensure_run(spec, data, cache, "cpu", until=4)
    folder = cache / run_folder(whole, LOW).name
    newest = checkpoint.saved(folder)[-1][1]
    victim = newest / "model.safetensors"
    damage(victim, run_folder(whole, LOW) / "model.safetensors")
    ensure_run(spec, data, cache, "cpu")
    out = capfd.readouterr().out
    assert f"Not resuming from {newest.name}: {victim} does not match its manifest" in out
    for name in ("history", "layers", "spectra"):
        a, b = (read_table(f / f"{name}.parquet") for f in (folder, run_folder(whole, LOW)))
        drop = ["seconds"] if "seconds" in a else []
        assert a.drop(columns=drop).equals(b.drop(columns=drop))


def test_another_runs_checkpoint_is_not_taken_up(whole, tmp_path):
    from lowrank.experiment.build import build_model
    from lowrank.train import checkpoint

    fork = run_folder(whole, DENSE) / "fork-000000003"
    strange = tmp_path / "0123456789abcdef" / fork.name
    shutil.copytree(fork, strange)
    model = build_model(whole.grid.cells[f"{NAME}/{DENSE}"].runs({f"{NAME}/{DENSE}": 0.1})[0], 10)
    with pytest.raises(LowrankError, match=rf"it is step 3 of run {fork.parent.name}.*delete"):
        checkpoint.load(strange, model)
    later = tmp_path / fork.parent.name / "fork-000000004"
    shutil.copytree(fork, later)
    with pytest.raises(LowrankError, match="it is step 3"):
        checkpoint.load(later, model)


TEXT_FILES = ("tokens-train.bin", "tokens-test.bin", "tokenizer.json", "manifest.json")


@pytest.fixture(scope="module")
def texts(tmp_path_factory) -> list[Path]:
    """Two prepared texts."""
    folder = tmp_path_factory.mktemp("texts")
    made = []
    for name in ("one", "two"):
        lines = [f"{name} line {i} of {i * i} words" for i in range(60)]
        (folder / f"{name}.txt").write_text("\n".join(lines), encoding="utf-8")
        spec = TextSpec(source="local", train=str(folder / f"{name}.txt"), vocabulary=270)
        made.append(prepare_text(spec, folder / name))
    return made


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
@pytest.mark.parametrize("name", TEXT_FILES)
def test_damaged_text_is_named_with_what_to_delete(name, damage, texts):
    path, other = (folder / name for folder in texts)
    original = path.read_bytes()
    try:
        damage(path, other)
        if path.read_bytes() != original:
            with pytest.raises(LowrankError, match=rf"delete {texts[0]} and run again\.$"):
                load_text(texts[0])
    finally:
        path.write_bytes(original)
    load_text(texts[0])


def test_prepared_files_are_hashed_once_a_process_and_again_when_written(texts, monkeypatch):
    load_text(texts[0])
    hashed = []
    original = files.sha256
    monkeypatch.setattr(files, "sha256", lambda path: (hashed.append(path), original(path))[1])
    load_text(texts[0])
    assert hashed == []
    (texts[0] / "tokenizer.json").touch()
    load_text(texts[0])
    assert [Path(path).name for path in hashed] == ["tokenizer.json"]


def test_every_flipped_bit_of_a_table_is_noticed_or_harmless(whole, tmp_path):
    source = whole.root / "rates" / NAME / f"{LOW}.json"
    table = whole.root / f"cells/{NAME}/{LOW}/layers.parquet"
    good, path = read_table(table), tmp_path / "layers.parquet"
    content = table.read_bytes()
    start, end = parquet.FILE_SEALED.search(content).span()
    for position in {*range(0, len(content), 23), *range(start, end)}:
        path.write_bytes(
            content[:position] + bytes([content[position] ^ 16]) + content[position + 1 :]
        )
        try:
            table = read_table(path)
        except LowrankError:
            continue
        # Only the key was changed under which the digest stands, so that there is none.
        assert table.equals(good) and start <= position < start + len(parquet.FILE_SEAL)
    content, path = source.read_bytes(), tmp_path / NAME / source.name
    path.parent.mkdir()
    good = files.read_sealed(source)
    for position in range(len(content)):
        path.write_bytes(
            content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :]
        )
        with contextlib.suppress(LowrankError):
            values = files.read_sealed(path)
            # Only white space was changed, or the word under which the digest stands.
            assert values == good or b'"seal"' not in path.read_bytes()


def test_a_table_that_should_have_a_digest_and_has_none_is_refused(tmp_path):
    path = tmp_path / "t.parquet"
    write_table(path, pd.DataFrame({"loss": [1.0]}))
    content = path.read_bytes()
    (seal,) = parquet.FILE_SEALED.findall(content)
    path.write_bytes(content.replace(seal, seal.upper()))
    with pytest.raises(LowrankError, match="not what was written"):
        read_table(path)


def test_a_table_of_an_earlier_version_is_refused(tmp_path):
    arrow = pa.Table.from_pandas(pd.DataFrame({"loss": [1.0]}), preserve_index=False)
    older = arrow.replace_schema_metadata({**arrow.schema.metadata, "seal": "0123456789abcdef"})
    pq.write_table(older, tmp_path / "t.parquet")
    with pytest.raises(LowrankError, match="by an earlier version"):
        read_table(tmp_path / "t.parquet")


@pytest.mark.parametrize(
    "table",
    [
        pd.DataFrame({"0" * 64: [1]}),
        pd.DataFrame({"file-seal@@" + "a" * 64: [1]}),
        pd.DataFrame({"text": ["file-seal\x18@" + "0" * 64, "0" * 64]}),
        pd.DataFrame({"none": []}),
        pd.DataFrame(),
    ],
)
def test_no_healthy_table_is_refused(table, tmp_path):
    write_table(tmp_path / "t.parquet", table)
    found = read_table(tmp_path / "t.parquet")
    pd.testing.assert_frame_equal(found, table, check_dtype=False, check_column_type=False)


def test_nothing_is_unpickled():
    """No module loads pickles: weights are safetensors, arrays have no objects."""
    forbidden = {"pickle", "cPickle", "dill", "joblib", "shelve", "marshal", "cloudpickle"}
    for path in sorted((ROOT / "src").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name.split(".")[0] for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [(node.module or "").split(".")[0]]
            elif isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in ("torch.load", "pd.read_pickle", "pandas.read_pickle"), path
                assert called not in ("eval", "exec", "yaml.load", "os.system"), (path, called)
                for keyword in node.keywords:
                    assert keyword.arg not in ("allow_pickle", "shell"), (path, called)
            assert not forbidden & set(names), path


def test_tests_of_seals_would_notice_a_missing_one(whole):
    assert "seal" in read_json(whole.root / "rates" / NAME / f"{LOW}.json")
    assert "seal" in json.loads(
        (whole.root / "data" / NAME / "manifest.json").read_text(encoding="utf-8")
    )
