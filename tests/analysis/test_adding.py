"""New runs beside published ones: they join, repeat, contradict, or take a place."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from lowrank.analysis import adding
from lowrank.analysis.adding import add
from lowrank.analysis.processors import differences, in_words
from lowrank.errors import LowrankError
from lowrank.experiment import config
from lowrank.experiment.experiment import Experiment
from lowrank.versions import VERSIONS


def settings(
    ranks=(0.25, 0.5), seeds=(0, 1, 2), steps=10, images=False, widths=()
) -> config.Config:
    """A language track, and one of images if asked for, with a few studies."""
    track = {
        "data": {"kind": "text"},
        "model": {"family": "gpt2", "width": 16, "depth": 1, "heads": 2, "context": 16},
        "training": {"steps": steps, "batch": 4},
        "factors": {"rank_fraction": 0.5},
        "sweep": {"rates": [0.01, 0.02], "extend": 0},
        "studies": {
            "initialisation": {"ranks": list(ranks), "inits": ["spectral"]},
            "posthoc": {"ranks": [0.5], "methods": ["plain"]},
            **({"speed": {"widths": widths, "ranks": [0.5]}} if widths else {}),
        },
    }
    vision = {
        **track,
        "data": {"kind": "images"},
        "model": {"family": "wide_resnet", "width": 1, "depth": 10, "channels": 1},
        "studies": {"initialisation": track["studies"]["initialisation"]},
    }
    tracks = {"language": track, **({"small-images": vision} if images else {})}
    return config.parse({"scale": "test", "seeds": list(seeds), "tracks": tracks})


HERE, THERE = "A, AVX2", "B, AVX512"
CHOSEN = 0.02
"""What every sweep finds."""


def tables(
    *keys: tuple[str, int],
    processor=HERE,
    shift=0.0,
    text="text",
    track="language",
    chosen=CHOSEN,
    of: config.Config | None = None,
    **others: pd.DataFrame,
) -> dict[str, pd.DataFrame]:
    """The runs of these arms and seeds, as a configuration trains them on a text, each with a row of history,
    layers and spectra, and the sweeps and truncations of their arms."""
    experiment = Experiment(of or settings(images=track != "language"))
    best = dict.fromkeys(experiment.grid.sweeps, chosen)

    def run(arm: str, seed: int):
        cell = experiment.cell(f"{track}/{arm}")
        return cell.model_copy(update={"seeds": (seed,)}).runs(best)[0]

    runs = pd.DataFrame(
        {
            "cell": f"{track}/{arm}", "track": track, "family": "gpt2", "seed": seed,
            "digest": run(arm, seed).identity(text), "data_digest": text,
            "processor": processor, "torch": "2", "threads": 1,
            "evaluation_version": VERSIONS["evaluation"], "test_examples": 2048,
            "test_loss": 3.0 + seed + shift, "train_seconds": 1.0 + shift,
        }
        for arm, seed in keys
    )  # fmt: skip
    swept = {group for arm, _ in keys for group in experiment.cell(f"{track}/{arm}").groups}
    rates = pd.DataFrame(
        {
            "group": name, "track": track, "choice": "learning_rate", "learning_rate": value,
            "seed": one.seed, "digest": one.identity(text),
            "chosen": value == chosen, "at_edge": True,
        }
        for name in sorted(swept)
        for value in experiment.sweep(name).values
        for one in experiment.sweep(name).runs(value, best)
    )  # fmt: skip
    parts = {
        name: runs[["cell", "seed"]].assign(of=processor)
        for name in ("history", "layers", "spectra")
    }
    return {"runs": runs, "rates": rates, **parts, **others}


DENSE = [("dense", 0), ("dense", 1)]
LOW = [("spectral-r0.25", 0), ("spectral-r0.25", 1)]


def added(old, new, replace=False, **of_config):
    return add(old, new, settings(**of_config), replace=replace)


def digests(tables: dict[str, pd.DataFrame]) -> dict[tuple[str, int], str]:
    """The digests of runs, by cell and seed."""
    return tables["runs"].set_index(["cell", "seed"])["digest"].to_dict()


def test_the_first_runs_are_all_added():
    found, said = added({}, tables(*DENSE, *LOW))
    assert len(found["runs"]) == len(found["history"]) == len(found["spectra"]) == 4
    assert said == "Of 4 runs 4 added; 4 are published."
    assert "processors" not in found and "posthoc" not in found


def test_new_runs_join_and_known_ones_stay_as_they_are():
    old = tables(*DENSE)
    new = tables(*DENSE, *LOW)
    new["runs"]["train_seconds"] = 99.0
    found, said = added(old, new)
    assert said == "Of 4 runs 2 added, 2 published before; 4 are published."
    assert found["runs"]["train_seconds"].tolist() == [1.0, 1.0, 99.0, 99.0]
    assert not found["history"].duplicated(["cell", "seed"]).any() and len(found["history"]) == 4


@pytest.mark.parametrize("column", ["test_loss", "validation_accuracy", "train_loss"])
@pytest.mark.parametrize(("before", "after"), [(2.0, 2.5), (2.0, np.nan), (np.nan, 2.0)])
def test_other_numbers_of_the_same_digest_and_processor_are_an_error_unless_meant(
    column, before, after
):
    old, new = tables(*DENSE), tables(*DENSE)
    old["runs"][column] = [1.0, before]
    new["runs"][column] = [1.0, after]
    with pytest.raises(
        LowrankError, match=r"other numbers .* \(language/dense seed 1\).*--replace"
    ):
        added(old, new)
    found, said = added(old, new, replace=True)
    np.testing.assert_array_equal(found["runs"][column], [1.0, after])
    assert said.startswith("Of 2 runs 1 put in the place of others, 1 published before")


def test_a_number_that_new_runs_lack_is_another_number():
    old = tables(*DENSE)
    old["runs"]["validation_accuracy"] = 0.5
    with pytest.raises(LowrankError, match="other numbers"):
        added(old, tables(*DENSE))


def test_a_unit_is_told_by_the_columns_that_both_tables_have():
    old = pd.DataFrame({"track": ["a", "b"], "processor": ["X", "Y"], "digest": ["1", "2"]})
    new = pd.DataFrame({"track": ["b", "c"], "digest": ["2", "3"]})
    found = adding._measured(old, new, ["track", "processor"], replace=False)
    assert found["track"].tolist() == ["a", "b", "c"]


@pytest.mark.parametrize("part", ["text", "settings", "training", "evaluation"])
def test_runs_of_another_study_take_the_place_of_a_tracks_published_ones_only_if_that_is_meant(
    part, monkeypatch
):
    """Whether it differs in its text, its settings or the version of what computes it; with other seeds too."""
    old = tables(*DENSE, *LOW, ("dense", 2))
    if part in VERSIONS and part != "text":
        monkeypatch.setitem(VERSIONS, part, VERSIONS[part] + 1)
    steps = 20 if part == "settings" else 10
    another = {"text": "other" if part == "text" else "text", "of": settings(steps=steps)}
    new = tables(*LOW, ("dense", 7), **another)
    with pytest.raises(LowrankError) as error:
        added(old, new, steps=steps)
    assert str(error.value) == (
        "5 published runs are of other data, settings or versions than these (language/spectral-r0.25 seed 0, "
        "language/spectral-r0.25 seed 1, language/dense seed 0, language/dense seed 1, language/dense seed 2): "
        "give --replace to put these in the place of 2 and leave 3 out."
    )
    found, said = added(old, new, replace=True, steps=steps)
    assert digests(found) == digests(new)
    for name in ("history", "layers", "spectra"):
        assert len(found[name]) == 3
    assert set(found["rates"]["digest"]) == set(new["rates"]["digest"])
    assert said == (
        "Of 3 runs 1 added, 2 put in the place of others; 3 are published. "
        "Left out: 3 published runs of other data, settings or versions."
    )


def test_further_seeds_of_the_same_study_join_whatever_the_configuration_says_of_seeds():
    old = tables(*DENSE, *LOW)
    new = tables(("dense", 7), ("spectral-r0.25", 7), processor=THERE)
    found, said = added(old, new, seeds=[7])
    assert digests(found) == digests(old) | digests(new)
    assert said == "Of 2 runs 2 added; 6 are published."


def test_further_seeds_at_a_rate_that_another_processors_sweep_chose_join_only_if_that_is_meant():
    """The sweep's runs have the same digests, its choice is another."""
    old = tables(*DENSE, *LOW)
    new = tables(("dense", 7), processor=THERE, chosen=0.01)
    with pytest.raises(LowrankError) as error:
        added(old, new)
    assert str(error.value) == (
        "1 of these runs are not as the configuration makes them beside what is published of their track, as where "
        "another processor's sweep chose another rate (language/dense seed 7): give --replace to put these runs and "
        "their sweeps in the place of those."
    )
    found, said = added(old, new, replace=True)
    assert digests(found) == digests(tables(*LOW)) | digests(new)
    rates = found["rates"][found["rates"]["chosen"]].set_index("group")["learning_rate"]
    assert rates["language/dense"] == 0.01 and rates["language/spectral-r0.25"] == CHOSEN
    assert said.endswith("Left out: 2 published runs of other data, settings or versions.")


def test_tracks_of_which_nothing_is_new_stay_as_they_are(monkeypatch):
    """Even if another version made them: nothing is compared across tracks."""
    vision = tables(*DENSE, track="small-images", text="images")
    language = tables(*DENSE, *LOW)
    old = {name: pd.concat([vision[name], language[name]]) for name in vision}
    monkeypatch.setitem(VERSIONS, "training", VERSIONS["training"] + 1)
    new = tables(*DENSE, text="other")
    with pytest.raises(LowrankError, match="in the place of 2 and leave 2 out"):
        added(old, new, images=True)
    found, said = added(old, new, replace=True, images=True)
    assert digests(found) == digests(vision) | digests(new)
    assert set(found["rates"]["digest"]) == {*vision["rates"]["digest"], *new["rates"]["digest"]}
    assert said == (
        "Of 2 runs 2 put in the place of others; 4 are published. Left out: 2 published runs of other data, "
        "settings or versions, rows of rates made from other runs."
    )


@pytest.mark.parametrize(
    ("own", "kept"),
    [
        ({"track": ["small-images"]}, 1),
        ({"track": ["small-images", "language"]}, 1),
        ({"track": ["language"]}, 0),
        ({"track": ["elsewhere"]}, 0),  # the configuration lacks it
        ({"value": [1.0]}, 0),
    ],
)
def test_a_table_of_a_study_that_is_not_here_stays_where_nothing_is_new_or_is_named(own, kept):
    own = pd.DataFrame(own)
    old = {**tables(*DENSE), "sharpness": own, "claims": own, "contrasts": own}
    found, said = added(old, tables(*LOW), images=True)
    assert found.get("sharpness", own[:0]).equals(own[:kept])
    assert not {"claims", "contrasts"} & set(found)
    left = " Left out: rows of sharpness that no study here writes."
    assert said == "Of 2 runs 2 added; 4 are published." + left * (kept < len(own))


def test_published_cells_that_the_configuration_lacks_are_named_and_go_only_if_that_is_meant():
    old = tables(*DENSE, *LOW)
    with pytest.raises(LowrankError, match=r"1 published cells .* \(language/spectral-r0.25\)"):
        added(old, tables(*DENSE), ranks=[0.5])
    found, _ = added(old, tables(*DENSE), ranks=[0.5], replace=True)
    assert set(found["runs"]["cell"]) == set(found["spectra"]["cell"]) == {"language/dense"}


def test_a_run_made_again_on_another_processor_is_kept_beside_the_published_one():
    old, new = tables(*DENSE), tables(*DENSE, processor=THERE, shift=0.25)
    found, said = added(old, new)
    assert said == "Of 2 runs 2 made again on another processor; 2 are published."
    pd.testing.assert_series_equal(found["runs"]["test_loss"], old["runs"]["test_loss"])
    again = found["processors"]
    assert again["processor"].tolist() == [THERE] * 2
    assert again["test_loss"].tolist() == [3.25, 4.25]
    assert "train_seconds" not in again and set(found["history"]["of"]) == {HERE}
    # A third time it is known, and has to be what it was.
    twice, said = added(found, new)
    assert said.startswith("Of 2 runs 2 published before") and len(twice["processors"]) == 2
    with pytest.raises(LowrankError, match="with other numbers"):
        added(found, tables(*DENSE, processor=THERE, shift=0.5))


def test_what_was_made_again_goes_with_the_run_that_it_repeats():
    found, _ = added(tables(*DENSE, *LOW), tables(*DENSE, *LOW, processor=THERE))
    assert len(found["processors"]) == 4
    after, _ = added(found, tables(*DENSE), ranks=[0.5], replace=True)
    assert set(after["processors"]["cell"]) == {"language/dense"}
    after, _ = added(found, tables(*DENSE, text="other"), replace=True)
    assert "processors" not in after


def test_the_difference_between_processors_is_said_by_track():
    first, _ = added(tables(*DENSE, *LOW), tables(*DENSE, processor=THERE, shift=0.25))
    both, _ = added(first, tables(("spectral-r0.25", 0), processor=THERE, shift=-1.0))
    (row,) = differences(both).to_dict("records")
    assert (row["track"], row["metric"], row["runs"]) == ("language", "test_loss", 3)
    assert (row["median"], row["largest"]) == (0.25, 1.0)
    assert in_words(differences(both)) == (
        "On language 3 runs were made on several processors (A, AVX2, B, AVX512): test loss of the same "
        "run differs by 0.25 nats/token (median), at most by 1."
    )
    assert in_words(differences(tables(*DENSE))) == ""


HALF = [("spectral-r0.5", 0), ("spectral-r0.5", 1)]
"""Beside dense runs what the truncations are compared with."""


def posthoc(seeds: tuple[int, ...], loss: float, text="text") -> pd.DataFrame:
    """Rows of truncations of the dense runs of a text."""
    experiment = Experiment(settings(seeds=(0, 1, 2)))
    best = dict.fromkeys(experiment.grid.sweeps, CHOSEN)
    made_from = experiment.made_from("posthoc", "language", best, text)
    return pd.DataFrame(
        {"track": "language", "seed": seed, "digest": made_from[seed], "test_loss": loss}
        for seed in seeds
    )


@pytest.mark.parametrize(
    ("made_from", "replace", "expected"),
    [
        ("text", False, {0: 1.0, 1: 1.0, 2: 2.0}),  # what is published stays
        ("text", True, {0: 1.0, 1: 2.0, 2: 2.0}),
        ("other", False, {1: 2.0, 2: 2.0}),  # and goes where it is made from something else
    ],
)
def test_what_is_read_from_models_stays_unless_it_is_made_from_something_else(
    made_from, replace, expected
):
    old = tables(*DENSE, *HALF, ("dense", 2), posthoc=posthoc((0, 1), 1.0, made_from))
    new = tables(*DENSE, posthoc=posthoc((1, 2), 2.0))
    found, said = added(old, new, replace)
    found = found["posthoc"]
    assert dict(zip(found["seed"], found["test_loss"], strict=True)) == expected
    assert said.endswith("Left out: rows of posthoc made from other runs.") == (0 not in expected)


def speed(processor: str, *widths: int) -> dict[str, pd.DataFrame]:
    """Times of steps of models of these widths."""
    made_from = Experiment(settings(widths=widths)).made_from("speed", "language", {}, "text")
    row = {"track": "language", "processor": processor, "digest": made_from[None]}
    return {"speed": pd.DataFrame([row])}


@pytest.mark.parametrize("replace", [False, True])
def test_times_from_another_processor_stay_where_the_same_was_timed(replace):
    """Beside new times of the track; where none are new, whatever was timed."""
    timed = {
        name: [
            tables(*DENSE, **(speed(processor, *widths) if widths else {}))
            for processor, widths in (("A", before), ("B", after))
        ]
        for name, before, after in (
            ("same", (16,), (16,)), ("other", (16, 32), (16,)), ("none", (16, 32), ()),
        )
    }  # fmt: skip
    for name, (old, new) in timed.items():
        found, said = added(old, new, replace, widths=(16,))
        expected = {"same": {"A", "B"}, "other": {"B"}, "none": {"A"}}[name]
        assert set(found["speed"]["processor"]) == expected
        assert said.endswith("Left out: rows of speed made from other runs.") == (name == "other")


def test_sweeps_join_and_a_wider_one_takes_the_place_of_a_narrower():
    def rates(group: str, *digests: str) -> pd.DataFrame:
        return pd.DataFrame({"group": f"language/{group}", "digest": d} for d in digests)

    own = tables(*DENSE)["rates"]["digest"].tolist()
    narrow, wide = rates("dense", own[0]), rates("dense", *own)
    old = {**tables(*LOW), "rates": pd.concat([narrow, tables(*HALF)["rates"]])}
    new = {**tables(*DENSE), "rates": pd.concat([wide, rates("spectral-r0.25", "z")])}
    found = added(old, new, replace=True)[0]["rates"]
    assert found.groupby("group")["digest"].agg(list).to_dict() == {
        "language/dense": own,
        "language/spectral-r0.5": tables(*HALF)["rates"]["digest"].tolist(),
        "language/spectral-r0.25": ["z"],
    }


def test_a_published_sweep_of_another_study_goes_with_its_runs():
    found, said = added(tables(*LOW, text="other"), tables(*DENSE), replace=True)
    assert set(found["rates"]["group"]) == {"language/dense"}
    assert said == (
        "Of 2 runs 2 added; 2 are published. Left out: 2 published runs of other data, settings or versions, "
        "rows of rates made from other runs."
    )


def test_facts_are_those_of_the_configuration_that_all_runs_are_published_with():
    old = tables(*DENSE)
    old["runs"] = old["runs"].assign(studies="gone", init="dense")
    found, _ = added(old, tables(*LOW))
    assert (
        found["runs"]["studies"].tolist() == ["initialisation,posthoc"] * 2 + ["initialisation"] * 2
    )
    assert found["runs"]["init"].tolist() == ["dense"] * 2 + ["spectral"] * 2
