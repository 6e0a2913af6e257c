"""What an arm is called, and in which facts it differs from its track's plain one."""

from __future__ import annotations

import pytest

from lowrank.experiment.config import TrackConfig
from lowrank.experiment.expand import _swept_arm
from lowrank.experiment.sections import DecaySpec, MethodSpec, PretrainingSpec
from lowrank.experiment.track import Arm, Track, arm_name, varied

TRACK = Track.model_validate(
    {
        "data": {"kind": "text"},
        "model": {"family": "gpt2", "width": 32, "depth": 1, "heads": 2, "context": 16},
        "training": {"steps": 20, "batch": 4},
        "factors": {"rank_fraction": 0.5, "decay": {"kind": "l2", "coupled": True}},
        "sweep": {"rates": [0.01]},
    }
)
LOW = Arm(factors=TRACK.factors)
SWITCH = PretrainingSpec(fraction=0.25)


@pytest.mark.parametrize(
    ("arm", "name", "facts"),
    [
        (Arm(), "dense", {"init"}),
        (Arm(width=64, heads=2), "dense-w64", {"init", "width"}),
        (LOW, "spectral-r0.5", set()),
        (LOW.model_copy(update={"width": 32}), "spectral-r0.5", set()),
        (LOW.with_factors(init="he", rank_fraction=0.1), "he-r0.1", {"init", "rank_fraction"}),
        (LOW.with_factors(decay=DecaySpec()), "spectral-r0.5-l2", {"decay_coupled"}),
        (
            LOW.with_factors(decay=DecaySpec(kind="mine", coupled=True, strength=0.1)),
            "spectral-r0.5-mine-coupled0.1",
            {"decay", "decay_strength"},
        ),
        (
            LOW.with_factors(decay=DecaySpec(kind="frobenius", coupled=True, strength="swept")),
            "spectral-r0.5-frobenius-coupled-swept",
            {"decay", "swept"},
        ),
        (
            LOW.with_factors(decay=DecaySpec(coupled=True, strength="swept")),
            "spectral-r0.5-l2-coupled-swept",
            {"swept"},
        ),
        (LOW.with_factors(matricisation="spatial"), "spectral-r0.5-spatial", {"matricisation"}),
        (LOW.with_factors(layers=("mlp",)), "spectral-r0.5-mlp", {"layers"}),
        (
            LOW.with_factors(dense_layers=("first_block",)),
            "spectral-r0.5-dense_first_block",
            {"dense_layers"},
        ),
        (
            LOW.with_factors(method=MethodSpec(name="refactorize")),
            "spectral-r0.5-refactorize",
            {"method"},
        ),
        (
            LOW.model_copy(update={"rate_factor": 0.5}),
            "spectral-r0.5-halfrate",
            {"rate_factor"},
        ),
        (LOW.model_copy(update={"length": 1.5}), "spectral-r0.5-long1.5", {"length"}),
        (
            LOW.model_copy(update={"pretraining": SWITCH}),
            "spectral-r0.5-pre0.25",
            {"pretraining"},
        ),
        (
            LOW.model_copy(
                update={"pretraining": SWITCH.model_copy(update={"rate_factor": "swept"})}
            ),
            "spectral-r0.5-pre0.25-swept",
            {"pretraining", "swept"},
        ),
        (
            Arm(
                factors=TRACK.factors,
                pretraining=SWITCH.model_copy(update={"rate_factor": 1.0, "moments": "reset"}),
            ),
            "spectral-r0.5-pre0.25-rate1-reset",
            {"pretraining", "rate_factor", "moments"},
        ),
    ],
)
def test_a_name_and_the_facts_say_what_is_not_the_tracks_own(arm, name, facts):
    assert arm_name(arm, TRACK) == name
    assert set(varied(arm, TRACK)) == facts


def test_an_arm_is_swept_from_scratch_with_its_own_method_and_its_decay_else_with_the_tracks():
    method = MethodSpec(name="refactorize")
    arm = LOW.with_factors(method=method, decay=DecaySpec(kind="none"), layers=("mlp",))
    arm = arm.model_copy(update={"rate_factor": 0.5, "length": 2.0})
    track = TrackConfig(**{name: getattr(TRACK, name) for name in Track.model_fields})
    kept = LOW.with_factors(method=method, decay=DecaySpec(kind="none"))
    assert _swept_arm(track, arm) == kept
    assert _swept_arm(track, arm.with_factors(method=None)) == LOW
