"""Whatever a configuration says, it is expanded, or refused in one sentence that says what would be
right."""

from __future__ import annotations

import copy
import math
import subprocess
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from quick import in_a_second

from lowrank.analysis.ledger import read_ledger
from lowrank.cli import main
from lowrank.errors import LowrankError
from lowrank.experiment import config
from lowrank.experiment.expand import CELL_NAME, expand

ROOT = Path(__file__).parents[2]
SMOKE = config.read_yaml(ROOT / "config/smoke.yaml")
SMOKE["tracks"]["language"]["studies"] |= {
    "decay": {"decays": [{"kind": "l2"}, {"kind": "frobenius"}]},
    "scaling": {"widths": [16, 32], "fraction": None},
}
MISSING = object()


def places(values, prefix=()) -> list[tuple]:
    """The path of every key and list entry."""
    found = []
    items = (
        values.items()
        if isinstance(values, dict)
        else enumerate(values)
        if isinstance(values, list)
        else ()
    )
    for key, value in items:
        found += [(*prefix, key), *places(value, (*prefix, key))]
    return found


PLACES = places(SMOKE)
KEYS = [place for place in PLACES if isinstance(place[-1], str) and place[0] == "tracks"]
ODD = [
    *(None, True, -1, 0, 1, 3, 1.5, 0.5, 10**30, 1e308, 1e-320),
    *(math.nan, math.inf, -math.inf),
    *("", "many", "0.5", '"; touch pwned', "$(touch pwned)", "../../etc", "spectral\n"),
    *([], [0], [-1, 2], ["he"], [[1]], {}, {"kind": "l2"}, {"kind": "nothing"}),
]


def changed(*changes: tuple[tuple, object]) -> dict:
    """The smoke configuration with values set, or taken out, at some places."""
    values = copy.deepcopy(SMOKE)
    for place, value in changes:
        section = values
        for key in place[:-1]:
            section = section[key]
        if value is MISSING:
            del section[place[-1]]
        else:
            section[place[-1]] = value
    return values


def refusal(values) -> str | None:
    """The sentence with which a configuration is refused; None if all of it is expanded."""
    try:
        grid = expand(config.parse(values, "mine.yaml"), ROOT)
    except LowrankError as error:
        return str(error)
    import re

    assert all(re.fullmatch(CELL_NAME, name) for name in (*grid.cells, *grid.sweeps))
    return None


def assert_one_sentence(text: str, place: tuple) -> None:
    assert "\n" not in text
    assert text.endswith(".")
    assert len(text) < 700
    assert not any(
        word in text for word in ("Input should", "Value error", "Traceback", "pydantic")
    )
    keys = [str(key) for key in place if isinstance(key, str)]
    assert any(key in text for key in keys[-2:]), (text, place)


@settings(
    max_examples=1200, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
@given(place=st.sampled_from(PLACES), value=st.sampled_from(ODD))
def test_any_value_anywhere_is_expanded_or_refused_in_a_sentence(place, value):
    text = refusal(changed((place, value)))
    if text is not None:
        assert_one_sentence(text, place)


@settings(
    max_examples=1500, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
@given(first=st.sampled_from(KEYS), second=st.sampled_from(KEYS), data=st.data())
def test_two_odd_values_at_once_are_expanded_or_refused_in_a_sentence(first, second, data):
    nested = first[: len(second)] == second or second[: len(first)] == first
    a, b = data.draw(st.sampled_from(ODD)), data.draw(st.sampled_from(ODD))
    text = refusal(changed((first, a)) if nested else changed((first, a), (second, b)))
    assert text is None or ("\n" not in text and text.endswith("."))


@settings(
    max_examples=300, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
@given(place=st.sampled_from(KEYS), at=st.integers(0, 30), letter=st.sampled_from("exz_"))
def test_a_misspelt_key_is_named_with_the_nearest_known_one(place, at, letter):
    assume(place[:-1] != ("tracks",))  # tracks are called as one likes
    key = place[-1]
    at %= len(key)
    typo = key[:at] + letter + key[at:]
    values = changed((place, MISSING), ((*place[:-1], typo), 1))
    text = refusal(values)
    assert text is not None
    assert typo in text or f"{key} is missing" in text or key in text
    alone = refusal(changed(((*place[:-1], typo), 1)))
    assert alone is not None and f"'{typo}'" in alone and key in alone
    assert_one_sentence(alone, (*place[:-1], typo))


@settings(max_examples=80, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(place=st.sampled_from(PLACES))
def test_a_configuration_without_a_key_is_expanded_or_refused_in_a_sentence(place):
    text = refusal(changed((place, MISSING)))
    if text is not None:
        assert_one_sentence(text, place)


LANGUAGE, IMAGES = ("tracks", "language"), ("tracks", "small-images")
BAD = [
    (((*LANGUAGE, "model", "width"), -3), "width: -3 must be above 0"),
    (((*LANGUAGE, "model", "width"), "wide"), "width: 'wide' must be a whole number"),
    (((*LANGUAGE, "model", "width"), 10**9), "width: 1000000000 must be at most 1,000,000"),
    (((*LANGUAGE, "training", "steps"), 10**12), "steps: 1000000000000 must be at most"),
    (((*LANGUAGE, "training", "steps"), 10**5000), "steps: a number of more than 300 digits must"),
    (((*LANGUAGE, "training", "learning_rate"), 1e300), "learning_rate: 1e+300 must be at most"),
    (((*LANGUAGE, "training", "log_points"), 10**9), "log_points: 1000000000 must be at most"),
    (((*LANGUAGE, "sweep", "rates"), [1 + i for i in range(10**5)]), "100,000 entries must have"),
    ((("seeds",), list(range(10**6))), "of 1,000,000 entries must have at most 1,000"),
    ((("scale",), "a" * 10**6), "must have at most 1,000 characters"),
    ((("x" * 10**6,), 1), "Unknown key 'xxx"),
    ((("extensions",), {"own": "x" * 900}), "is not a file"),
    (((*LANGUAGE, "factors", "layers"), ["x" * 10**5]), "must have at most 1,000 characters"),
    (((*LANGUAGE, "model", "heads"), 3), "heads: 3 do not divide the width 32"),
    (((*LANGUAGE, "model", "family"), "gpt3"), "did you mean 'gpt2'?"),
    (((*LANGUAGE, "model", "context"), 0), "context: 0 must be above 0"),
    (((*LANGUAGE, "training", "steps"), True), "steps: True is neither a number"),
    (((*LANGUAGE, "training", "learning_rate"), math.inf), "learning_rate: inf must be a finite"),
    (((*LANGUAGE, "training", "learning_rate"), math.nan), "learning_rate: nan must be"),
    (((*LANGUAGE, "training", "milestones"), [0.8, 0.3]), "milestones: [0.8, 0.3] must be rising"),
    (((*LANGUAGE, "training", "accumulation"), 3), "accumulation: 3 does not divide the batch 8"),
    (((*LANGUAGE, "training", "betas"), [0.9, 1.0]), "betas: [0.9, 1.0] must lie in 0 to 1"),
    (((*LANGUAGE, "training", "stepz"), 5), "Unknown key 'stepz': did you mean 'steps'?"),
    (((*LANGUAGE, "factors", "rank_fraction"), 0), "rank_fraction: 0 must be above 0"),
    (((*LANGUAGE, "factors", "rank_fraction"), 1.5), "rank_fraction: 1.5 must be at most 1"),
    (((*LANGUAGE, "factors", "layers"), []), "layers: [] names no layer"),
    (((*LANGUAGE, "factors", "init"), "spektral"), "did you mean 'spectral'?"),
    (((*LANGUAGE, "sweep", "rates"), []), "rates: [] must have at least 1"),
    (((*LANGUAGE, "sweep", "rates"), [0.1, 0.1]), "rates: [0.1, 0.1] repeat a value"),
    (((*LANGUAGE, "sweep", "switch_rates"), [1, 1]), "switch_rates: [1.0, 1.0] repeat a value"),
    (
        ((*LANGUAGE, "studies", "decay"), {"decays": [{"strength": "swept"}]}),
        "sweep.decay_strengths: [] has no value to try, and spectral-r0.5-l2-swept is swept",
    ),
    (
        ((*LANGUAGE, "factors", "decay"), {"strength": "swept"}),
        "swept is for the decays of a study",
    ),
    (((*LANGUAGE, "factors", "decay"), {"strength": "sweep"}), "decay.strength: 'sweep'"),
    (((*LANGUAGE, "studies", "decay", "decays"), []), "decays: [] must have at least 1"),
    (
        ((*LANGUAGE, "studies", "decay", "decays"), [{"kind": "l3"}]),
        "'l3': known are frobenius, l2",
    ),
    (((*LANGUAGE, "studies", "layers"), {"groups": ["mpl"]}), "did you mean 'mlp'?"),
    (((*LANGUAGE, "studies", "layers"), {"groups": ['a"; touch p']}), "must be lower-case letters"),
    (((*LANGUAGE, "studies", "layers"), {"matricisations": ["spatial"]}), "has no convolutions"),
    (((*LANGUAGE, "studies", "scaling", "heads"), [2]), "heads: [2] must be as many as the widths"),
    (((*LANGUAGE, "studies", "scaling", "widths"), [16, 33]), "widths: 33 is not divisible by"),
    (((*LANGUAGE, "studies", "posthoc", "methods"), ["plane"]), "did you mean 'plain'?"),
    (((*LANGUAGE, "studies", "pretraining", "longer"), [1e-9]), "longer: 1e-09 times 12 steps"),
    (((*LANGUAGE, "data", "kind"), "texts"), "kind: 'texts' must be one of 'text', 'images'"),
    (((*LANGUAGE, "data"), {"kind": "images"}), "tracks.language: gpt2 on images does not fit"),
    (((*LANGUAGE, "data", "source"), "local"), "source 'local' needs `train`"),
    (((*IMAGES, "model", "depth"), 11), "depth: 11 must be 6n + 4"),
    (((*IMAGES, "factors", "matricisation"), "space"), "must be one of 'channel' or 'spatial'"),
    (((*IMAGES, "training", "optimizer"), MISSING), None),
    (((*IMAGES, "training", "steps"), MISSING), "training.steps is missing: give it (Optimiser"),
    ((("tracks", "Language"), SMOKE["tracks"]["language"]), "must be lower-case letters, digits"),
    ((("tracks", "wiki-2"), SMOKE["tracks"]["language"]), None),
    ((("tracks",), {}), "tracks: a section of keys must have at least 1"),
    ((("seeds",), []), "seeds: [] must have at least 1"),
    ((("seeds",), [0, 1, 0]), "seeds: [0, 1, 0] repeat a seed"),
    ((("seeds",), [-1]), "seeds.0: -1 must be at least 0"),
    ((("seeds",), [2**63]), "must be below 2 ** 63"),
    (((*LANGUAGE, "factors"), {"rank_fracton": 0.5}), "did you mean 'rank_fraction'?"),
    (((*IMAGES, "seeds"), [3, 3]), "tracks.small-images.seeds: [3, 3] repeat a seed"),
    ((("devices",), 3), "training.batch: 8 does not split over 3 devices"),
    ((("scale",), 'x"; touch pwned'), "must be lower-case letters, digits and -"),
    ((("retrain",), ["language/dence"]), "did you mean 'language/dense'?"),
    ((("extensions",), {"own": "nowhere.py"}), "extensions.own: "),
    ((("extensions",), {"he": "README.md"}), "he is built in"),
    ((("extensions",), {'own"; touch p': "x.py"}), "must be lower-case letters"),
    (((*LANGUAGE, "studies", "initialisation", "ranks"), [0.1234567, 0.12345671]), "two different"),
]


@pytest.mark.parametrize(("change", "words"), BAD, ids=[words or "fine" for _, words in BAD])
def test_what_is_wrong_is_said_at_once(change, words):
    values = changed(change)
    text = in_a_second(lambda: refusal(values))
    if words is None:
        assert text is None
    else:
        assert text is not None and words in text
        assert "\n" not in text and text.endswith(".")


def test_lowrank_and_snakemake_refuse_with_status_2_without_a_traceback(tmp_path):
    bad = changed(((*LANGUAGE, "factors", "rank_fraction"), 1.5))
    (tmp_path / "bad.yaml").write_text(yaml.safe_dump(bad), encoding="utf-8")
    kept = tmp_path / "results/smoke/cells/kept.parquet"
    kept.parent.mkdir(parents=True)
    kept.write_text("kept", encoding="utf-8")
    said = "tracks.language.factors.rank_fraction: 1.5 must be at most 1."
    result = CliRunner().invoke(main, ["plan", "--config", str(tmp_path / "bad.yaml")])
    assert result.exit_code == 2 and said in result.output
    twice = f"{yaml.safe_dump(changed())}\nseeds: [5]\n"
    (tmp_path / "twice.yaml").write_text(twice, encoding="utf-8")
    for name, sentence in (("bad", said), ("twice", "the key 'seeds' is there twice")):
        command = ["snakemake", "--cores", "1", "--snakefile", str(ROOT / "Snakefile")]
        command += ["--directory", str(tmp_path), "--configfile", str(tmp_path / f"{name}.yaml")]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 2
        assert sentence in done.stderr and "Traceback" not in done.stderr
    assert kept.read_text(encoding="utf-8") == "kept"
    assert [path.name for path in (tmp_path / "results/smoke").iterdir()] == ["cells"]


def test_valid_variations_are_planned(tmp_path):
    for change in (((*LANGUAGE, "model", "width"), 64), ((*IMAGES, "factors", "init"), "he")):
        path = tmp_path / "valid.yaml"
        path.write_text(yaml.safe_dump(changed(change)), encoding="utf-8")
        result = CliRunner().invoke(main, ["plan", "--config", str(path)])
        assert result.exit_code == 0, result.output


@pytest.mark.parametrize("values", ["[1, 2]", "text", "{", "- \t- x", "\x00"])
def test_a_file_that_is_no_configuration_is_refused(values, tmp_path):
    path = tmp_path / "odd.yaml"
    path.write_text(values, encoding="utf-8")
    with pytest.raises(LowrankError, match=r"odd\.yaml.*\.$"):
        config.read_config(path)


def test_margins_missing_from_the_claims_are_named(tmp_path):
    ledger = config.read_yaml(ROOT / "config/claims.yaml")
    used = {
        test["margin"] for claim in ledger["claims"] for test in claim["tests"] if "margin" in test
    }
    for name in sorted(used):
        margins = {key: value for key, value in ledger["margins"].items() if key != name}
        path = tmp_path / "claims.yaml"
        path.write_text(
            yaml.safe_dump({**ledger, "margins": margins}, allow_unicode=True), encoding="utf-8"
        )
        with pytest.raises(LowrankError) as caught:
            read_ledger(path)
        assert f"'{name}'" in str(caught.value) and "known are" in str(caught.value)
        assert "\n" not in str(caught.value)
    path.write_text(
        yaml.safe_dump({key: ledger[key] for key in ("paper", "claims")}), encoding="utf-8"
    )
    with pytest.raises(LowrankError, match="margins"):
        read_ledger(path)
