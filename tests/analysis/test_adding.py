"""New runs beside published ones: they join, repeat, contradict, or take a place."""

from __future__ import annotations

import pandas as pd
import pytest

from lowrank.analysis.adding import add
from lowrank.analysis.processors import differences, in_words
from lowrank.errors import LowrankError
from lowrank.experiment import config


def settings(ranks=(0.25, 0.5), seeds=(0, 1, 2)) -> config.Config:
    """A language track of one study."""
    track = {
        "data": {"kind": "text"},
        "model": {"family": "gpt2", "width": 16, "depth": 1, "heads": 2, "context": 16},
        "training": {"steps": 10, "batch": 4},
        "factors": {"rank_fraction": 0.5},
        "sweep": {"rates": [0.01]},
        "studies": {"initialisation": {"ranks": list(ranks), "inits": ["spectral"]}},
    }
    values = {"scale": "test", "seeds": list(seeds), "tracks": {"language": track}}
    return config.parse(values)


HERE, THERE = "A, AVX2", "B, AVX512"


def tables(
    *keys: tuple[str, int], processor=HERE, shift=0.0, digest="", **others: pd.DataFrame
) -> dict[str, pd.DataFrame]:
    """The runs of these arms and seeds, each with a row of history, layers and spectra."""
    runs = pd.DataFrame(
        {
            "cell": f"language/{arm}", "track": "language", "family": "gpt2", "seed": seed,
            "digest": f"{digest}{arm}{seed}", "processor": processor, "torch": "2", "threads": 1,
            "test_loss": 3.0 + seed + shift, "train_seconds": 1.0 + shift,
        }
        for arm, seed in keys
    )  # fmt: skip
    parts = {
        name: runs[["cell", "seed"]].assign(of=processor)
        for name in ("history", "layers", "spectra")
    }
    return {"runs": runs, **parts, **others}


DENSE = [("dense", 0), ("dense", 1)]
LOW = [("spectral-r0.25", 0), ("spectral-r0.25", 1)]


def added(old, new, replace=False, **of_config):
    return add(old, new, settings(**of_config), replace=replace)


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
def test_other_numbers_of_the_same_digest_and_processor_are_an_error_unless_meant(column):
    old, new = tables(*DENSE), tables(*DENSE)
    old["runs"][column] = [1.0, 2.0]
    new["runs"][column] = [1.0, 2.5]
    with pytest.raises(
        LowrankError, match=r"other numbers .* \(language/dense seed 1\).*--replace"
    ):
        added(old, new)
    found, said = added(old, new, replace=True)
    assert found["runs"][column].tolist() == [1.0, 2.5]
    assert said.startswith("Of 2 runs 1 put in the place of others, 1 published before")


def test_a_run_of_another_digest_takes_the_place_of_the_published_one_only_if_that_is_meant():
    old, new = tables(*DENSE, *LOW), tables(*LOW, digest="new", processor=THERE)
    with pytest.raises(LowrankError, match="2 of these runs are published with other settings"):
        added(old, new)
    found, _ = added(old, new, replace=True)
    runs = found["runs"].set_index(["cell", "seed"])["digest"]
    assert sorted(runs) == ["dense0", "dense1", "newspectral-r0.250", "newspectral-r0.251"]
    assert sorted(found["layers"]["of"]) == [HERE] * 2 + [THERE] * 2


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
    found, _ = added(tables(*DENSE), tables(*DENSE, processor=THERE))
    after, _ = added(found, tables(("dense", 0), digest="new"), replace=True)
    assert after["processors"]["digest"].tolist() == ["dense1"]


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


def posthoc(digest: str, seeds: tuple[int, ...], loss: float) -> pd.DataFrame:
    return pd.DataFrame(
        {"track": "language", "seed": seed, "digest": digest, "test_loss": loss} for seed in seeds
    )


@pytest.mark.parametrize(
    ("digest", "replace", "expected"),
    [
        ("a", False, {0: 1.0, 1: 1.0, 2: 2.0}),  # made from the same: what is published stays
        ("b", False, {0: 1.0, 1: 2.0, 2: 2.0}),  # made from something else
        ("a", True, {0: 1.0, 1: 2.0, 2: 2.0}),
    ],
)
def test_what_is_read_from_models_stays_unless_it_is_made_from_something_else(
    digest, replace, expected
):
    old = tables(*DENSE, posthoc=posthoc("a", (0, 1), 1.0))
    new = tables(*DENSE, posthoc=posthoc(digest, (1, 2), 2.0))
    found = added(old, new, replace)[0]["posthoc"]
    assert dict(zip(found["seed"], found["test_loss"], strict=True)) == expected


def test_sweeps_join_and_a_wider_one_takes_the_place_of_a_narrower():
    def rates(group: str, *digests: str) -> pd.DataFrame:
        return pd.DataFrame({"group": f"language/{group}", "digest": d} for d in digests)

    old = tables(*DENSE, rates=pd.concat([rates("dense", "a"), rates("spectral-r0.5", "x", "y")]))
    fresh = pd.concat([rates("dense", "a", "b"), rates("spectral-r0.5", "x")])
    found = added(old, tables(*DENSE, rates=pd.concat([fresh, rates("spectral-r0.25", "z")])))[0]
    groups = found["rates"].groupby("group")["digest"].agg("".join).to_dict()
    assert groups == {
        "language/dense": "ab",
        "language/spectral-r0.5": "xy",
        "language/spectral-r0.25": "z",
    }


def test_facts_are_those_of_the_configuration_that_all_runs_are_published_with():
    old = tables(*DENSE)
    old["runs"] = old["runs"].assign(studies="gone", init="dense")
    found, _ = added(old, tables(*LOW))
    assert set(found["runs"]["studies"]) == {"initialisation"}
    assert found["runs"]["init"].tolist() == ["dense"] * 2 + ["spectral"] * 2
