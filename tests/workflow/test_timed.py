"""An experiment trained for a time, in the order of what its claims need, and gone on with."""

from __future__ import annotations

import copy
import shutil
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from click.testing import CliRunner

from lowrank.analysis.ledger import read_ledger
from lowrank.analysis.publish import read_published
from lowrank.cli import main
from lowrank.experiment.config import parse, read_config
from lowrank.experiment.experiment import Experiment, read_experiment
from lowrank.experiment.sections import SweepSpec
from lowrank.files import read_json
from lowrank.parquet import read_table, write_table
from lowrank.train.parallel import held
from lowrank.workflow import partial, timed
from lowrank.workflow.scale import Scale
from lowrank.workflow.timed import in_order

LEDGER = Path(__file__).parents[2] / "config/claims.yaml"
TINY = {
    "scale": "tiny",
    "seeds": [0, 1],
    "tracks": {
        "small-images": {
            "data": {"kind": "images", "source": "embedded", "max_images": 100},
            "model": {"family": "wide_resnet", "depth": 10, "width": 1, "channels": 1},
            "training": {"optimizer": "sgd", "steps": 4, "batch": 8, "probe_points": 1},
            "sweep": {"rates": [0.01, 0.03], "extend": 0},
            "evaluation": {"validation_examples": 10, "test_examples": 10},
            "factors": {"rank_fraction": 0.3, "rank_multiple": 1},
            "studies": {
                "initialisation": {"ranks": [0.3], "inits": ["he", "spectral"]},
                "pretraining": {"fractions": [0.5], "inits": ["spectral"]},
            },
        }
    },
}


POSTHOC = {"ranks": [0.3], "methods": ["plain"], "calibration_batches": 1}


def with_truncation() -> dict[str, Any]:
    """TINY with what is measured on models of its dense cell."""
    values = copy.deepcopy(TINY)
    values["tracks"]["small-images"]["studies"]["posthoc"] = POSTHOC
    return values


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The lines of a study of TINY from beginning to end, and its folder."""
    folder = tmp_path_factory.mktemp("finished")
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return study(path, 60), folder


@pytest.fixture
def done(finished, config):
    """`config`, whose study is done; returns what it said."""
    lines, folder = finished
    shutil.copytree(folder / "results", config.parent / "results")
    return lines


def lowrank(*words: str | Path) -> str:
    done = CliRunner().invoke(main, list(map(str, words)), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def study(config: Path, minutes: float, *more: str) -> list[str]:
    options = ["--config", config, "--ledger", LEDGER, "--minutes", minutes]
    return [line for line in lowrank("study", *options, *more).splitlines() if "cells" in line]


def publish(folder: Path, output: str = "published") -> str:
    options = ["--config", folder / "config.json", "--ledger", LEDGER]
    tables = ["--tables", folder / "slice/tables", "--output", output]
    return lowrank("publish", *options, *tables).splitlines()[-1]


def test_what_most_comparisons_need_comes_first_and_a_trunk_before_what_forks_from_it():
    experiment = Experiment(parse(with_truncation()))
    names = in_order(experiment, read_ledger(LEDGER))
    assert sorted(names) == sorted(experiment.trained)
    # The dense one for what is truncated.
    assert names[:3] == [f"small-images/{arm}" for arm in ("dense", "he-r0.3", "spectral-r0.3")]
    # Of two that nothing is compared with the pre-trained one alone, but what it forks from comes before.
    experiment.__dict__["trained"] = ["small-images/spectral-r0.3-pre0.5", "small-images/dense"]
    assert in_order(experiment, read_ledger(LEDGER))[0] == "small-images/dense"


def test_comparisons_with_published_cells_count_and_controls_come_last():
    values = copy.deepcopy(TINY)
    inits = ["he_scaled", "spectral", "he"]
    values["tracks"]["small-images"]["studies"] = {
        "initialisation": {"ranks": [0.3], "inits": inits}
    }
    experiment = Experiment(parse(values))
    experiment.__dict__["trained"] = ["small-images/he_scaled-r0.3", "small-images/he-r0.3"]
    names = in_order(experiment, read_ledger(LEDGER))
    assert names == ["small-images/he-r0.3", "small-images/he_scaled-r0.3"]


def test_all_is_trained_and_evaluated_and_a_second_call_trains_nothing(done, config, tmp_path):
    count = len(read_experiment(config).trained)
    assert len(done) == count and done[-1].startswith(f"{count} of {count} cells")
    results = tmp_path / "results/tiny"
    for name in read_experiment(config).trained:
        assert len(pd.read_parquet(results / f"cells/{name}/runs.parquet")) == 2
    finished = {p: p.stat().st_mtime_ns for p in results.glob("runs/*/result.json")}
    # Every run of a cell, and those of the sweeps at the rates that are not the best.
    assert len(list(results.glob("runs/*/test.json"))) == 2 * count < len(finished)
    study(config, 60)
    assert finished == {p: p.stat().st_mtime_ns for p in results.glob("runs/*/result.json")}


def test_it_ends_when_the_time_is_over_and_goes_on_from_there(config, tmp_path):
    assert study(config, 1e-4) == [
        "The time is over: 0 of 4 cells are done. The same command goes on."
    ]
    assert study(config, 60)[-1].startswith("4 of 4 cells")


@pytest.mark.parametrize("seed", [SweepSpec(rates=(1.0,)).seeds[0], 1])
def test_a_run_that_another_process_is_at_comes_last(seed, done, config, tmp_path, monkeypatch):
    """One of a sweep, and one of a cell: what else is needed is done meanwhile."""
    results, path = tmp_path / "results/tiny", None
    runs = {p.parent.name: read_json(p) for p in results.glob("runs/*/spec.json")}
    for name, spec in runs.items():
        if spec.get("factors") is None and spec["seed"] == seed:
            path = results / f"runs/{name}"
    assert path is not None
    shutil.move(path, tmp_path / "other")
    for folder in ("cells", "rates"):
        shutil.rmtree(results / folder)
    scale, taken, waited = Scale(read_config(config)), [], []
    names = sorted(scale.experiment.trained, key=lambda name: not name.endswith("/dense"))
    with ExitStack() as other:
        other.enter_context(held(results / f"study/{path.name}.lock"))

        def done_there(seconds):
            shutil.move(tmp_path / "other", path)
            other.close()
            waited.append(seconds)

        monkeypatch.setattr("time.sleep", done_there)
        for name in timed._trained(scale, names, set()):
            taken.append(name.removeprefix("small-images/"))
            assert path.exists() == (len(taken) > 2)
    assert taken == ["he-r0.3", "spectral-r0.3", "dense", "spectral-r0.3-pre0.5"]
    assert len(waited) == 1


def test_calls_side_by_side_share_the_cells(config, tmp_path):
    command = [sys.executable, "-m", "lowrank", "study", "--config", str(config)]
    command += ["--ledger", str(LEDGER), "--minutes", "60"]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=300)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    for words in said:
        assert "4 of 4 cells" in words and words.count(" minutes: small-images/") == 4
    claims = pd.read_parquet(tmp_path / "results/tiny/slice/tables/claims.parquet")
    assert claims["verdict"].ne("not run").any()


def test_tables_of_all_are_gathered_by_one_call_at_a_time(done, config, tmp_path):
    command = [sys.executable, "-m", "lowrank", "study", "--config", str(config)]
    command += ["--ledger", str(LEDGER), "--minutes", "60"]
    with held(tmp_path / "results/tiny/study/slice.lock") as mine:
        assert mine
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        while "4 of 4 cells" not in process.stdout.readline():
            assert process.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(3)
    assert process.wait(100) == 0


def test_a_cell_is_finished_when_all_its_tables_are_there(done, config, tmp_path):
    scale, name = Scale(read_config(config)), "small-images/dense"
    for path in map(Path, scale.cell_tables(name)):
        assert timed._finished(scale, name)
        path.unlink()
        assert not timed._finished(scale, name)
        study(config, 60)
        assert path.is_file()


def test_what_was_made_from_another_configuration_is_made_anew(done, config, tmp_path):
    changed = copy.deepcopy(TINY)
    track = changed["tracks"]["small-images"]
    track["data"]["max_images"], track["sweep"]["rates"] = 60, [0.02, 0.04]
    config.write_text(yaml.safe_dump(changed), encoding="utf-8")
    study(config, 60)
    results = tmp_path / "results/tiny"
    assert read_json(results / "data/small-images/manifest.json")["counts"]["train"] == 60
    rates = read_json(results / "rates/small-images/dense.json")["rates"]
    assert [row["learning_rate"] for row in rates] == [0.02, 0.04]
    runs = pd.read_parquet(results / "cells/small-images/dense/runs.parquet")
    assert set(runs["learning_rate"]) <= {0.02, 0.04}


def test_what_is_finished_is_published_while_the_rest_is_not(config, tmp_path, monkeypatch):
    config.write_text(yaml.safe_dump(with_truncation()), encoding="utf-8")
    advance, trained = timed._advance, []

    def until_the_second(scale, name, swept):
        if len(trained) == 2:
            raise timed.TimeOver
        state = advance(scale, name, swept)
        trained.extend([name] if state == "done" else [])
        return state

    results = tmp_path / "results/tiny"
    last = ("dense", "spectral-r0.3-pre0.5")
    with monkeypatch.context() as patch:
        patch.setattr(timed, "_advance", until_the_second)
        patch.setattr(
            timed,
            "in_order",
            lambda *given: sorted(in_order(*given), key=lambda name: name.endswith(last)),
        )
        study(config, 60)
    runs = pd.read_parquet(results / "slice/tables/runs.parquet")
    assert list(runs["cell"].unique()) == trained and runs["test_accuracy"].notna().all()
    assert publish(results) == "Of 4 runs 4 added; 4 are published."
    assert not (results / "slice/tables/posthoc.parquet").exists()
    study(config, 60)
    assert publish(results) == "Of 8 runs 4 added, 4 published before; 8 are published."
    posthoc = read_published(tmp_path / "published")["posthoc"]
    assert sorted(posthoc["seed"]) == [0, 1] and posthoc["digest"].nunique() == 2
    # What is measured is measured once.
    written = (results / "posthoc/small-images.parquet").stat().st_mtime_ns
    study(config, 60)
    assert written == (results / "posthoc/small-images.parquet").stat().st_mtime_ns


def test_a_finished_sweep_is_published_before_its_cell_is_finished(config, tmp_path, monkeypatch):
    train, results = timed.jobs.train, tmp_path / "results/tiny"
    changed = with_truncation()  # its dense cell comes first
    config.write_text(yaml.safe_dump(changed), encoding="utf-8")

    def until_the_second(cell, *more):
        if not cell.name.endswith("dense"):
            raise timed.TimeOver
        train(cell, *more)

    def swept() -> set[str]:
        rates = pd.read_parquet(results / "slice/tables/rates.parquet")
        return set(rates.get("group", ()))

    with monkeypatch.context() as patch:
        patch.setattr(timed.jobs, "train", until_the_second)
        study(config, 60)
        both = {f"small-images/{arm}" for arm in ("dense", "he-r0.3")}
        assert swept() == both
        assert publish(results) == "Of 2 runs 2 added; 2 are published."
        assert set(read_published(tmp_path / "published")["rates"]["group"]) == both
        # One whose values have changed since is left out.
        changed["tracks"]["small-images"]["sweep"]["rates"] = [0.02, 0.03]
        config.write_text(yaml.safe_dump(changed), encoding="utf-8")
        partial.gather(Scale(read_config(config)), read_ledger(LEDGER), ["small-images/dense"])
        assert swept() == set()


def test_models_of_published_cells_are_trained_again_for_what_reads_them(config, tmp_path):
    """On another machine, where nothing but what is published is there; only the seeds that are lacking."""
    values = copy.deepcopy(TINY)
    studies, asked = values["tracks"]["small-images"]["studies"], POSTHOC
    values["results_from"] = "published"
    del studies["initialisation"]
    results = tmp_path / "results/tiny"

    def another_machine(seeds, **more):
        shutil.rmtree(results, ignore_errors=True)
        track = {**values["tracks"]["small-images"], "studies": {**studies, **more}}
        changed = {**values, "seeds": seeds, "tracks": {"small-images": track}}
        if not (tmp_path / "published").exists():
            changed["results_from"] = "train"
        config.write_text(yaml.safe_dump(changed), encoding="utf-8")
        return [line.split(": ")[-1] for line in study(config, 60)]

    another_machine([0])
    assert publish(results, "published/tiny") == "Of 3 runs 3 added; 3 are published."
    shutil.copytree(tmp_path / "published", tmp_path / "before")
    assert another_machine([0], posthoc=asked) == ["small-images/dense"]
    assert publish(results, "published/tiny") == "Of 1 runs 1 published before; 3 are published."
    assert read_published(tmp_path / "published/tiny")["posthoc"]["seed"].tolist() == [0]
    # Nothing is lacking, and nothing is trained or measured.
    assert another_machine([0], posthoc=asked) == []
    assert not list(results.glob("runs/*/result.json"))
    # A further seed is measured beside the first; a published one that nothing was measured of, with it.
    shutil.copytree(tmp_path / "published", tmp_path / "measured")
    for state, again in (("measured", 0), ("before", 1)):
        shutil.rmtree(tmp_path / "published")
        shutil.copytree(tmp_path / state, tmp_path / "published")
        assert "small-images/dense" in another_machine([0, 1], posthoc=asked)
        specs = [read_json(path) for path in results.glob("runs/*/spec.json")]
        assert len([one for one in specs if one["seed"] == 0]) == again
        assert publish(results, "published/tiny") == "Of 3 runs 3 added; 6 are published."
        assert read_published(tmp_path / "published/tiny")["posthoc"]["seed"].tolist() == [0, 1]
    shutil.rmtree(results)
    experiment = Scale(read_config(config)).experiment
    assert experiment.again == {} and experiment.trained == []


def test_a_later_slice_holds_nothing_of_one_that_is_published(done, config, tmp_path):
    values, results = with_truncation(), tmp_path / "results/tiny"
    config.write_text(yaml.safe_dump(values), encoding="utf-8")
    study(config, 60)
    assert publish(results, "published/tiny").endswith("8 are published.")
    values["results_from"] = "published"
    values["tracks"]["small-images"]["studies"]["initialisation"]["inits"] += ["spectral_ones"]
    config.write_text(yaml.safe_dump(values), encoding="utf-8")
    study(config, 60)
    assert not (results / "slice/tables/posthoc.parquet").exists()
    assert publish(results, "published/tiny").endswith("10 are published.")
    assert len(read_published(tmp_path / "published/tiny")["posthoc"]) == 2


def test_data_that_are_not_those_of_the_published_runs_are_refused(done, config, tmp_path):
    publish(tmp_path / "results/tiny", "published/tiny")
    shutil.rmtree(tmp_path / "results")
    values = copy.deepcopy(TINY)
    values["results_from"], values["seeds"] = "published", [0, 1, 2]
    values["tracks"]["small-images"]["data"]["max_images"] = 60
    config.write_text(yaml.safe_dump(values), encoding="utf-8")
    words = ["study", "--config", str(config), "--ledger", str(LEDGER), "--minutes", "1"]
    said = CliRunner().invoke(main, words)
    assert said.exit_code == 2
    assert "small-images that were prepared here are not those" in said.output
    assert not list(tmp_path.glob("results/tiny/runs/*/result.json"))


def test_of_a_dense_run_that_diverged_nothing_is_measured(done, config, tmp_path):
    config.write_text(yaml.safe_dump(with_truncation()), encoding="utf-8")
    study(config, 60)
    scale, path = Scale(read_config(config)), tmp_path / "results/tiny/posthoc/small-images.parquet"
    ((name, track, job),) = partial.to_do(scale)
    assert partial._current(scale, name, track, job)
    rows = read_table(path)
    write_table(path, rows[rows["seed"] == 0])
    assert not partial._current(scale, name, track, job)
    runs = Path(scale.cell_tables("small-images/dense")[0])
    table = read_table(runs)
    write_table(runs, table.assign(diverged=table["seed"] == 1))
    assert partial._current(scale, name, track, job)


def test_what_reads_no_model_waits_for_any_cell_of_its_track_and_what_reads_some_for_them(
    monkeypatch,
):
    monkeypatch.setattr(partial, "_models_here", lambda *_: True)
    scale = Scale(read_config(LEDGER.parent / "smoke.yaml"))
    last = [name for name in scale.experiment.trained if name.startswith("language/")][-1]
    for study, finished, ready in (
        ("baselines", set(), False),
        ("baselines", {"small-images/dense"}, False),
        ("baselines", {last}, True),
        ("posthoc", {last}, False),
        ("posthoc", {"language/dense"}, True),
    ):
        assert partial._ready(scale, study, "language", finished) == ready


def test_a_track_alone_is_trained_where_it_is_named(config, tmp_path):
    both = {**TINY, "tracks": {"other-images": TINY["tracks"]["small-images"], **TINY["tracks"]}}
    config.write_text(yaml.safe_dump(both), encoding="utf-8")
    assert study(config, 60, "--track", "small-images")[-1].startswith("4 of 4 cells")
    assert not (tmp_path / "results/tiny/cells/other-images").exists()
    options = ["--config", str(config), "--ledger", str(LEDGER), "--minutes", "1"]
    done = CliRunner().invoke(main, ["study", *options, "--track", "language"])
    assert done.exit_code == 2 and "Unknown track" in done.output


def test_texts_that_are_missing_are_said_before_anything_is_trained(config, tmp_path):
    values = copy.deepcopy(TINY)
    texts = {"kind": "text", "source": "local", "train": "texts/*.txt", "vocabulary": 300}
    values["tracks"]["language"] = {
        "data": texts,
        "model": {"family": "gpt2", "width": 16, "depth": 1, "heads": 2, "context": 16},
        "training": {"steps": 4, "batch": 8},
        "sweep": {"rates": [0.01], "extend": 0},
        "factors": {"rank_fraction": 0.5, "rank_multiple": 1},
        "studies": {"initialisation": {"ranks": [0.5], "inits": ["spectral"]}},
    }
    config.write_text(yaml.safe_dump(values), encoding="utf-8")
    options = ["--config", str(config), "--ledger", str(LEDGER), "--minutes", "1"]
    done = CliRunner().invoke(main, ["study", *options])
    assert done.exit_code == 2 and "tracks.language.data: No file matches" in done.output
    assert not (tmp_path / "results").exists()
