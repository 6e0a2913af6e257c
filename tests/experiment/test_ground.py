"""What an experiment finds among published results, and what it still needs."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from lowrank.errors import LowrankError
from lowrank.experiment import config
from lowrank.experiment.experiment import Experiment, expect
from lowrank.experiment.ground import Ground, Published
from lowrank.experiment.study import writers
from lowrank.versions import VERSIONS
from lowrank.workflow import building

TRACK = {
    "data": {"kind": "text"},
    "model": {"family": "gpt2", "width": 16, "depth": 1, "heads": 2, "context": 16},
    "training": {"steps": 10, "batch": 4},
    "factors": {"rank_fraction": 0.5},
    "sweep": {"rates": [0.01, 0.02, 0.04], "extend": 1},
    "studies": {
        "initialisation": {"ranks": [0.5], "inits": ["spectral"]},
        "pretraining": {"fractions": [0.5], "inits": ["spectral"]},
        "interpolation": {},
        "posthoc": {"ranks": [0.5], "methods": ["plain"]},
    },
}
DATA = {"language": "digest-of-data"}
DENSE, LOW, PRE = (f"language/{arm}" for arm in ("dense", "spectral-r0.5", "spectral-r0.5-pre0.5"))
STUDIES = ("interpolation", "posthoc")


def experiment(
    *changes: tuple[str, Any], published: Published | None = None, seeds: Iterable[int] = (0, 1)
) -> Experiment:
    """An experiment on one track; a change names a key of the track by its path."""
    track = copy.deepcopy(TRACK)
    for path, value in changes:
        *sections, key = path.split(".")
        place = track
        for section in sections:
            place = place[section]
        place[key] = value
    values = {"scale": "test", "seeds": list(seeds), "tracks": {"language": track}}
    return Experiment(config.parse({**values, "results_from": "published"}), published)


def tables(of: Experiment) -> dict[str, pd.DataFrame]:
    """What is published when all of an experiment was made on `DATA`; every sweep found 0.02."""
    data = DATA["language"]
    found: dict[str, list[dict[str, Any]]] = {
        "rates": [],
        "runs": [],
        "barriers": [],
        "posthoc": [],
    }
    rates = dict.fromkeys(of.grid.sweeps, 0.02)
    for name, group in of.grid.sweeps.items():
        for value in group.values:
            for run in group.runs(value, rates):
                row = {"group": name, "track": "language", "at_edge": False, "validation_loss": 1.0}
                row |= {"learning_rate": run.training.learning_rate, "choice": group.choice}
                row |= {group.choice: value, "chosen": value == 0.02, "seed": run.seed}
                found["rates"].append({**row, "digest": run.identity(data)})
    for cell in of.grid.cells.values():
        for spec in cell.runs(rates):
            row = {"cell": cell.name, "track": "language", "seed": spec.seed, "diverged": False}
            row |= {"digest": spec.identity(data), "data_digest": data}
            row |= {"evaluation_version": VERSIONS["evaluation"], "test_examples": 2048}
            found["runs"].append(row)
    for study, table in (("interpolation", "barriers"), ("posthoc", "posthoc")):
        for seed, digest in of.made_from(study, "language", rates, data).items():
            found[table].append({"track": "language", "seed": seed, "digest": digest})
    for study in ("baselines", "speed"):
        digest = of.made_from(study, "language", {}, data)[None]
        found[study] = [{"track": "language", "digest": digest}]
    return {name: pd.DataFrame(rows) for name, rows in found.items()}


@pytest.fixture(scope="module")
def published() -> dict[str, pd.DataFrame]:
    return tables(experiment())


def on(
    published: dict[str, pd.DataFrame], *changes: tuple[str, Any], data=DATA, **others: Any
) -> tuple[Experiment, Ground]:
    built = experiment(*changes, published=Published(published, data), **others)
    assert built.ground is not None
    return built, built.ground


def missing(ground: Ground) -> dict[str, tuple[int, ...]]:
    cells = ground.experiment.grid.cells.values()
    return {cell.name: seeds for cell in cells if (seeds := ground.missing(cell))}


def measured(ground: Ground) -> set[str]:
    names = ("interpolation", "barriers", "posthoc", "baselines", "speed")
    return {name for name in names if ground.has(writers()[name], "language")}


ALL = {"interpolation", "barriers", "posthoc", "baselines", "speed"}


def test_a_sweep_at_what_another_found_is_there_if_that_is():
    switches = ("sweep.switch_rates", [0.02, 1.0])
    whole = tables(experiment(switches))
    group = f"{LOW}-pre0.5-swept.switch_rate"
    built, ground = on(whole, switches)
    assert not missing(ground) and built.known == {LOW: 0.02, DENSE: 0.02, group: 0.02}
    rates = whole["rates"]
    _, ground = on({**whole, "rates": rates[rates["group"] != LOW]}, switches)
    assert set(ground.rates) == {DENSE}
    assert set(missing(ground)) == {LOW, f"{LOW}-pre0.5-swept"}
    none = rates.assign(
        choice=rates["choice"].mask(rates["choice"] == "switch_rate", "learning_rate")
    )
    assert set(on({**whole, "rates": none}, switches)[1].rates) == {LOW, DENSE}


@pytest.mark.parametrize("data", [DATA, {}], ids=["prepared", "not yet prepared"])
def test_where_all_is_published_nothing_is_missing(published, data):
    built, ground = on(published, data=data)
    assert not missing(ground) and built.trained == []
    assert built.known == {DENSE: 0.02, LOW: 0.02}
    assert measured(ground) == ALL
    # Who asks for a cell by name all the same gets all of it.
    assert built.here(LOW).seeds == (0, 1)


def test_further_seeds_cost_only_themselves(published):
    built, ground = on(published, seeds=(0, 1, 2, 3))
    assert missing(ground) == dict.fromkeys((DENSE, LOW, PRE), (2, 3))
    assert built.here(PRE).seeds == (2, 3) and built.cell(PRE).seeds == (0, 1, 2, 3)
    assert [cell.seeds for cell in built.evaluated("language")] == [(2, 3)] * 3
    assert built.known.keys() == {DENSE, LOW}
    for study in STUDIES:
        assert ground.lacking(study, "language") == (2, 3)
        assert {cell.seeds for cell in built.read_by(study, "language")} == {(2, 3)}
    assert measured(ground) == {"baselines", "speed"}
    assert built.trunk(PRE) == DENSE


def test_a_further_rank_costs_its_sweep_and_its_cell(published):
    wider = ("studies.initialisation.ranks", [0.25, 0.5])
    built, ground = on(published, wider)
    assert missing(ground) == {"language/spectral-r0.25": (0, 1)}
    assert built.known.keys() == {DENSE, LOW}
    assert measured(ground) == ALL - {"speed"}


def test_a_further_fraction_forks_from_a_dense_run_that_is_published(published):
    further = ("studies.pretraining.fractions", [0.3, 0.5])
    built, ground = on(published, further)
    assert missing(ground) == {"language/spectral-r0.5-pre0.3": (0, 1)}
    assert built.trunk("language/spectral-r0.5-pre0.3") is None


def test_other_settings_leave_nothing_there(published):
    built, ground = on(published, ("training.weight_decay", 0.3))
    assert len(missing(ground)) == 3 and not built.known and not measured(ground) - {"baselines"}


@pytest.mark.parametrize(
    ("part", "stays"),
    [
        ("training", {"baselines"}),
        ("interpolation", ALL - {"interpolation", "barriers"}),
        ("posthoc", ALL - {"posthoc"}),
        ("baselines", ALL - {"baselines"}),
        ("speed", ALL - {"speed"}),
    ],
)
def test_what_another_version_made_is_not_there(part, stays, published, raise_version):
    raise_version(part)
    _, ground = on(published)
    assert bool(missing(ground)) == (part == "training")
    assert measured(ground) == stays


def test_runs_of_another_evaluation_are_not_there(published, monkeypatch):
    _, ground = on(published, ("evaluation", {"test_examples": 99}))
    assert len(missing(ground)) == 3
    monkeypatch.setitem(VERSIONS, "evaluation", VERSIONS["evaluation"] + 1)
    _, ground = on(published)
    assert len(missing(ground)) == 3


def test_where_other_data_are_prepared_nothing_of_the_track_is_there(published):
    _, ground = on(published, data={"language": "another"})
    assert len(missing(ground)) == 3 and not ground.rates and not measured(ground) - {"speed"}


def test_a_call_that_took_the_published_data_for_its_own_ends_and_the_next_trains_all(published):
    """As where the published text is of an older version, which is known when the text is prepared."""
    wider = ("studies.initialisation.ranks", [0.25, 0.5])
    before, _ = on(published, wider, data={})
    assert before.trained == ["language/spectral-r0.25"]
    after, ground = on(published, wider, data={"language": "newer"})
    assert len(after.trained) == 4 and not ground.runs and not after.known
    for name in ("rates", "runs", "posthoc", "barriers", "baselines"):
        assert ground.take(name, published[name]).empty
    with pytest.raises(LowrankError, match="the data that it builds on has changed"):
        expect(after.of_evaluate("language"), before.of_evaluate("language"), Path("mine.yaml"))


@pytest.mark.parametrize(
    "change",
    [("sweep.rates", [0.01, 0.02, 0.04, 0.08]), ("sweep.rates", [0.02]), ("sweep.seeds", [5])],
)
def test_a_sweep_of_other_runs_is_made_again(change, published):
    built, ground = on(published, change)
    assert not built.known and len(missing(ground)) == 3


def test_a_sweep_is_there_for_who_would_try_the_same_seeds_alone():
    several = experiment(("sweep.seeds", [5, 6]))
    whole = tables(several)
    assert on(whole, ("sweep.seeds", [6, 5]))[0].known.keys() == several.grid.sweeps.keys()
    for seeds in ([5], [5, 6, 7]):
        assert not on(whole, ("sweep.seeds", seeds))[0].known


def test_a_sweep_that_ends_at_an_edge_goes_on_where_it_may(published):
    at_edge = published["rates"].assign(at_edge=True)
    assert on({**published, "rates": at_edge}, ("sweep.extend", 0))[0].known
    assert not on({**published, "rates": at_edge})[0].known


def test_a_sweep_that_was_extended_is_there_only_for_who_would_extend_it(published):
    further = published["rates"].groupby("group").head(1)
    further = further.assign(digest="x", chosen=False, learning_rate=0.08)
    rates = pd.concat([published["rates"], further])
    assert on({**published, "rates": rates})[0].known == {DENSE: 0.02, LOW: 0.02}
    assert not on({**published, "rates": rates}, ("sweep.extend", 0))[0].known


def test_runs_are_found_by_digest_and_taken_by_the_names_that_they_have_here(published):
    renamed = {**published, "runs": published["runs"].replace({LOW: "language/old-name"})}
    stranger = published["runs"].tail(1).assign(cell="language/strange", digest="?")
    renamed["runs"] = pd.concat([renamed["runs"], stranger])
    _, ground = on(renamed)
    assert not missing(ground)
    layers = renamed["runs"][["cell", "seed"]].assign(layer="a")
    for name, table in (("runs", renamed["runs"]), ("layers", layers)):
        taken = ground.take(name, table)
        assert sorted(taken["cell"].unique()) == [DENSE, LOW, PRE] and len(taken) == 6
        assert list(taken.columns) == list(table.columns)


def test_sweeps_and_measures_are_taken_with_what_they_belong_to(published):
    _, ground = on(
        published, ("studies", {"initialisation": {"ranks": [0.5], "inits": ["spectral"]}})
    )
    assert len(ground.take("rates", published["rates"])) == 6
    assert ground.take("posthoc", published["posthoc"]).empty
    assert len(ground.take("baselines", published["baselines"])) == 1
    _, ground = on(published, seeds=(1, 2))
    assert ground.take("posthoc", published["posthoc"])["seed"].tolist() == [1]
    assert ground.take("barriers", published["barriers"].drop(columns="digest")).empty


def test_models_of_runs_that_diverged_are_not_asked_for(published):
    runs = published["runs"].assign(diverged=lambda t: (t["cell"] == DENSE) & (t["seed"] == 1))
    without = published["posthoc"][published["posthoc"]["seed"] == 0]
    _, ground = on({**published, "runs": runs, "posthoc": without})
    assert ground.lacking("posthoc", "language") == ()
    _, ground = on({**published, "posthoc": without})
    assert ground.lacking("posthoc", "language") == (1,)


# In words


@pytest.fixture
def said(monkeypatch, tmp_path):
    """What is said of published tables before anything is made, and what is built then."""

    def say(published, *changes, **others) -> tuple[Experiment, str]:
        monkeypatch.setattr(building, "read_ground", lambda *_: Published(published, {}))
        of = experiment(*changes, **others)
        return building.build(of.config, tmp_path / "published", tmp_path / "results")

    return say


def test_nothing_is_said_where_nothing_is_missing(said, published):
    built, words = said(published)
    assert words == "" and built.ground is not None


def test_what_is_missing_is_counted_before_it_is_made(said, published, tmp_path):
    wider = ("studies.initialisation.ranks", [0.25, 0.5])
    _, words = said(published, wider, seeds=(0, 1, 2))
    assert words == (
        f"{tmp_path}/published holds 6 of the 12 runs of this configuration: 6 in 4 cells are trained here, "
        "1 sweeps made."
    )


def test_models_that_are_read_again_are_counted_unless_they_are_here(said, published, tmp_path):
    lost = {**published, "posthoc": published["posthoc"][:0]}
    _, words = said(lost)
    assert words.endswith(": 2 published ones trained again because posthoc reads their models.")
    digest = published["runs"].set_index(["cell", "seed"])["digest"][DENSE, 0]
    manifest = tmp_path / "results/runs" / digest / "manifest.json"
    manifest.parent.mkdir(parents=True)
    manifest.touch()
    assert "1 published ones" in said(lost)[1]


@pytest.mark.parametrize("made", [1, VERSIONS["training"]])
def test_tables_none_of_whose_runs_fit_are_taken_as_they_are(said, published, made):
    strange = published["runs"].assign(digest="?", training_version=made)
    built, words = said({**published, "runs": strange})
    assert built.ground is None and built.trained == []
    assert words.startswith("None of the 6 runs in")
    assert ("version 1 of training" in words) == (made == 1)
