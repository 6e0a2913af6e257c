"""What a run costs at most where its method decides on ranks during the run."""

from __future__ import annotations

import pytest

from lowrank.experiment import config
from lowrank.experiment.cost import shape, sizes, training_flops
from lowrank.experiment.expand import expand

TRACK = {
    "data": {"kind": "text", "vocabulary": 300},
    "model": {"family": "gpt2", "width": 32, "depth": 2, "heads": 2, "context": 16},
    "training": {"steps": 20, "batch": 4, "learning_rate": 0.01},
    "factors": {"rank_fraction": 0.25, "rank_multiple": 1},
    "sweep": {"rates": [0.01]},
    "studies": {"initialisation": {"ranks": [0.25], "inits": ["spectral"]}},
}


def run_of(method: str | None):
    given = {"method": {"name": method}} if method else {}
    track = {**TRACK, "factors": {**TRACK["factors"], **given}}
    study = config.parse({"scale": "test", "seeds": [0], "tracks": {"t": track}})
    cells = expand(study).cells
    low = next(cell for name, cell in cells.items() if name != "t/dense")
    return shape(study.tracks["t"]), cells["t/dense"].runs({})[0], low.runs({})[0]


@pytest.mark.parametrize(("method", "like"), [("inrank", "factored"), ("cuttlefish", "dense")])
def test_growing_ranks_are_expected_at_their_largest_and_layers_that_may_stay_dense_dense(
    method, like
):
    seen, dense, low = run_of(method)
    _, _, plain = run_of(None)
    expected = {"factored": plain, "dense": dense}[like]
    assert training_flops(low, seen) == training_flops(expected, seen)
    ((_, size),), ((_, most),) = (sizes(r.model_dump_json(), seen) for r in (low, expected))
    assert (size.parameters, size.largest_rank) == (most.parameters, most.largest_rank)
