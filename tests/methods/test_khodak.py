"""Khodak's is plain factors with two entries of the section, which must say so."""

from __future__ import annotations

import pytest
from lives import begun, run_of, same

from lowrank.errors import LowrankError
from lowrank.experiment.sections import DecaySpec
from lowrank.train.run import ensure_run


def test_its_runs_are_those_of_the_same_section_without_a_method(invented_text, tmp_path):
    spec = run_of("khodak")
    plain = run_of(None, factors=spec.factors.model_copy(update={"method": None}))
    same(*(ensure_run(s, invented_text, tmp_path, "cpu") for s in (spec, plain)))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"init": "he"}, r"factors\.init: he is not the method khodak's: give spectral"),
        ({"decay": DecaySpec(kind="l2")}, r"factors\.decay\.kind: l2 is not .*: give frobenius"),
    ],
)
def test_another_initialisation_or_decay_is_refused(change, said, invented_text, tmp_path):
    factors = run_of("khodak").factors.model_copy(update=change)
    with pytest.raises(LowrankError, match=said):
        begun(run_of("khodak", factors=factors), invented_text, tmp_path / "run")
