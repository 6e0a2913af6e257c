"""Each study compares what it is about, and nothing else."""

from __future__ import annotations

from lowrank.analysis.contrasts import contrasts
from lowrank.experiment import config


def families(family: str = "gpt2", **studies) -> dict[str, list[tuple[str, str]]]:
    """The pairs of each study of a track, without the track's name."""
    shape = {
        "gpt2": {"width": 16, "depth": 2, "heads": 2, "context": 16},
        "wide_resnet": {"width": 1, "depth": 10},
    }
    track = {
        "data": {"kind": "text" if family == "gpt2" else "images"},
        "model": {"family": family, **shape[family]},
        "training": {"steps": 10, "batch": 4},
        "factors": {"rank_fraction": 0.5},
        "sweep": {"rates": [0.01]},
        "studies": studies,
    }
    name = "language" if family == "gpt2" else "small-images"
    found = contrasts(config.parse({"scale": "test", "seeds": [0], "tracks": {name: track}}))
    assert {track for track, _ in found} <= {name}
    for pairs in found.values():
        assert all(cell.startswith(f"{name}/") for pair in pairs for cell in pair)
    return {
        study: [tuple(cell.split("/", 1)[1] for cell in pair) for pair in pairs]
        for (_, study), pairs in found.items()
    }


def test_initialisations_against_dense_and_against_spectral_of_the_same_rank():
    assert families(initialisation={"ranks": [0.25, 0.5], "inits": ["he", "spectral"]}) == {
        "initialisation": [
            ("he-r0.25", "dense"),
            ("he-r0.25", "spectral-r0.25"),
            ("spectral-r0.25", "dense"),
            ("he-r0.5", "dense"),
            ("he-r0.5", "spectral-r0.5"),
            ("spectral-r0.5", "dense"),
        ]
    }


def test_decays_against_the_tracks_own_at_the_same_rate_and_lower_rates_against_the_full_one():
    decays = [{"kind": "frobenius"}, {"kind": "l2"}]
    assert families(decay={"decays": decays, "rate_factors": [1.0, 0.5]}) == {
        "decay": [
            ("spectral-r0.5-frobenius", "spectral-r0.5"),
            ("spectral-r0.5-frobenius-halfrate", "spectral-r0.5-halfrate"),
            ("spectral-r0.5-frobenius-halfrate", "spectral-r0.5-frobenius"),
            ("spectral-r0.5-halfrate", "spectral-r0.5"),
        ]
    }


def test_switches_against_scratch_and_dense_and_variants_against_the_plain_switch():
    study = {"fractions": [0.25], "inits": ["spectral"], "variants_at": [0.25], "longer": [2.0]}
    low = "spectral-r0.5"
    assert families(pretraining=study) == {
        "pretraining": [
            (f"{low}-pre0.25", low),
            (f"{low}-pre0.25", "dense"),
            (f"{low}-pre0.25-rate1", low),
            (f"{low}-pre0.25-rate1", "dense"),
            (f"{low}-pre0.25-rate1", f"{low}-pre0.25"),
            (f"{low}-pre0.25-reset", low),
            (f"{low}-pre0.25-reset", "dense"),
            (f"{low}-pre0.25-reset", f"{low}-pre0.25"),
            (f"{low}-long2", low),
            (f"{low}-long2", "dense"),
        ]
    }


def test_widths_are_compared_within_themselves():
    low = "spectral-r0.5"
    assert families(scaling={"widths": [8, 16], "fraction": 0.25}) == {
        "scaling": [
            (f"{low}-w8", "dense-w8"),
            (f"{low}-pre0.25-w8", "dense-w8"),
            (f"{low}-pre0.25-w8", f"{low}-w8"),
            (low, "dense"),
            (f"{low}-pre0.25", "dense"),
            (f"{low}-pre0.25", low),
        ]
    }


def test_choices_of_layers_against_all_layers_and_against_dense():
    study = {"groups": ["mlp"], "dense_blocks": ["first"]}
    low = "spectral-r0.5"
    assert families(layers=study) == {
        "layers": [
            (low, "dense"),
            (f"{low}-mlp", low),
            (f"{low}-mlp", "dense"),
            (f"{low}-dense_first_block", low),
            (f"{low}-dense_first_block", "dense"),
        ]
    }
    assert families("wide_resnet", layers={"matricisations": ["spatial"]})["layers"][1:] == [
        (f"{low}-spatial", low),
        (f"{low}-spatial", "dense"),
    ]


def test_lines_to_pretrained_ends_against_the_line_to_the_one_from_scratch():
    found = families(interpolation={"fractions": [0.25, 0.5]})
    assert found == {
        "interpolation": [(f"spectral-r0.5-pre{f}", "spectral-r0.5") for f in (0.25, 0.5)]
    }
