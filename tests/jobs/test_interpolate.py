"""The line between two solutions: its weights, its barrier, its distance, its statistics."""

from __future__ import annotations

import math

import pytest
import torch
from stand_ins import MODEL, Run, Task, cell, install
from torch import nn

from lowrank.experiment.build import build_model
from lowrank.experiment.cell import RunSpec
from lowrank.experiment.sections import FactorSpec
from lowrank.factor.convert import effective_weights
from lowrank.jobs import interpolate as interpolation
from lowrank.studies.interpolation import InterpolationStudy

FACTORS = FactorSpec(rank_fraction=0.5, rank_multiple=1, init="he")
LAYERS = [
    f"transformer.h.0.{name}.weight"
    for name in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
]


def run(seed: int, low: bool = False, diverged: bool = False) -> Run:
    spec = RunSpec(
        track="language",
        model=MODEL,
        training=cell().training,
        factors=FACTORS if low else None,
        evaluation=cell().evaluation,
        seed=seed,
    )

    def build() -> nn.Module:
        model = build_model(spec, 20)
        with torch.no_grad():  # away from the draw, so that every weight and bias differs
            for parameter in model.parameters():
                parameter.add_(
                    0.1
                    * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(seed))
                )
        return model

    return Run(spec, build, diverged)


def line(monkeypatch, losses, ends, starts, points=5):
    """The tables of the lines from `starts` to `ends`, the losses on each line told beforehand."""
    told = iter(losses)
    weights = []

    def loss(model):
        weights.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        return next(told)

    task = Task(loss)
    runs = {"language/dense": starts, "language/low": ends}
    install(monkeypatch, interpolation, runs, task)
    study = InterpolationStudy(points=points)
    dense = cell().model_copy(update={"seeds": tuple(start.spec.seed for start in starts)})
    tables = interpolation.interpolate(study, dense, [cell("low")], {}, None, None, "cpu")
    return *tables, weights, task


LOSSES = [2.0, 2.4, 3.1, 2.2, 3.0]


def test_the_barrier_is_the_highest_rise_above_the_straight_line_between_the_ends(monkeypatch):
    """Losses 2.0, 2.4, 3.1, 2.2, 3.0; the chord is 2.0, 2.25, 2.5, 2.75, 3.0: 0.6 at the middle."""
    points, summary, _, task = line(monkeypatch, LOSSES, [run(0, low=True)], [run(0)])
    assert list(points["t"]) == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert list(points["loss"]) == LOSSES
    assert summary["barrier"].tolist() == pytest.approx([0.6])
    assert task.evaluated == [("validation", 11, 5)] * 5
    assert points[["cell", "track", "seed"]].drop_duplicates().to_dict("records") == [
        {"cell": "language/low", "track": "language", "seed": 0}
    ]


def test_a_line_that_sinks_below_its_chord_has_no_barrier(monkeypatch):
    _, summary, _, _ = line(monkeypatch, [3.0, 2.0, 1.0], [run(0, low=True)], [run(0)], points=3)
    assert summary["barrier"].tolist() == [0.0]


def test_every_weight_moves_straight_from_the_dense_model_to_the_product(monkeypatch):
    start, end = run(0), run(0, low=True)
    _, _, weights, _ = line(monkeypatch, LOSSES, [end], [start])
    first, last = effective_weights(start.build()), effective_weights(end.build())
    assert first.keys() == last.keys() == weights[0].keys()
    for t, found in zip((0, 0.25, 0.5, 0.75, 1), weights, strict=True):
        for name, tensor in found.items():
            assert tensor == pytest.approx((1 - t) * first[name] + t * last[name], abs=1e-6), name


def test_the_distance_is_relative_to_the_start_and_over_the_layers_that_may_be_factors(monkeypatch):
    start, end = run(0), run(0, low=True)
    _, summary, _, _ = line(monkeypatch, LOSSES, [end], [start])
    first, last = effective_weights(start.build()), effective_weights(end.build())
    moved = sum(float((last[n].double() - first[n].double()).square().sum()) for n in LAYERS)
    size = sum(float(first[n].double().square().sum()) for n in LAYERS)
    assert summary["distance"].tolist() == pytest.approx([math.sqrt(moved / size)], rel=1e-5)


def test_the_cosine_distance_is_that_of_the_layers_weights_as_one_vector(monkeypatch):
    start, end = run(0), run(0, low=True)
    _, summary, _, _ = line(monkeypatch, LOSSES, [end], [start])
    first, last = effective_weights(start.build()), effective_weights(end.build())
    one, two = (torch.cat([w[n].double().flatten() for n in LAYERS]) for w in (first, last))
    cosine = float(nn.functional.cosine_similarity(one, two, dim=0))
    assert summary["cosine_distance"].tolist() == pytest.approx([1 - cosine], rel=1e-5)


def test_predictions_of_the_ends_are_compared_position_by_position(monkeypatch):
    """Not those of the points between them."""
    start, end = run(0), run(0, low=True)
    _, summary, _, task = line(monkeypatch, LOSSES, [end], [start])
    tokens = task.batch(0, 0, 1)[:, :-1]
    one, two = (each.build().eval()(tokens).argmax(-1) for each in (start, end))
    expected = float((one != two).double().mean())
    assert 0 < expected < 1
    assert summary["disagreement"].tolist() == pytest.approx([expected])
    _, summary, _, _ = line(monkeypatch, LOSSES, [run(0)], [run(0)])
    assert summary[["disagreement", "distance"]].to_numpy().tolist() == [[0, 0]]


def test_the_floor_is_the_distance_to_the_best_matrices_of_the_ends_ranks(monkeypatch):
    """By Eckart and Young the singular values beyond the rank, 4 of 8 in every layer."""
    start, end = run(0), run(0, low=True)
    _, summary, _, _ = line(monkeypatch, LOSSES, [end], [start])
    weights = [effective_weights(start.build())[name].double() for name in LAYERS]
    lost = sum(float(torch.linalg.svdvals(weight)[4:].square().sum()) for weight in weights)
    size = sum(float(weight.square().sum()) for weight in weights)
    assert summary["floor"].tolist() == pytest.approx([math.sqrt(lost / size)], rel=1e-4)
    assert (summary["floor"] < summary["distance"]).all()


def test_the_control_goes_from_each_dense_solution_to_the_next_seeds(monkeypatch):
    starts = [run(0), run(1), run(2)]
    ends = [run(seed, low=True) for seed in range(3)]
    points, summary, weights, _ = line(monkeypatch, LOSSES[:3] * 6, ends, starts, points=3)
    named = list(zip(summary["cell"], summary["seed"], strict=True))
    other = "language/dense-other-seed"
    assert named == [*(("language/low", s) for s in range(3)), *((other, s) for s in range(3))]
    dense = [effective_weights(start.build()) for start in starts]
    for seed in range(3):
        one, _, two = weights[9 + 3 * seed : 12 + 3 * seed]
        for name in LAYERS:
            assert one[name] == pytest.approx(dense[seed][name], abs=1e-7)
            assert two[name] == pytest.approx(dense[(seed + 1) % 3][name], abs=1e-7)
    assert len(points) == 18
    assert summary["floor"].notna().tolist() == [True] * 3 + [False] * 3


@pytest.mark.parametrize("side", ["start", "end"])
def test_a_line_with_a_diverged_end_is_left_out(side, monkeypatch):
    starts = [run(0, diverged=side == "start")]
    ends = [run(0, low=True, diverged=side == "end")]
    points, summary, _, _ = line(monkeypatch, [], ends, starts)
    assert len(points) == len(summary) == 0
    assert list(points.columns) == ["cell", "track", "seed", "t", "loss"]
    assert list(summary.columns) == ["cell", "track", "seed", *interpolation.CLOSENESS]


class Formless(nn.Module):
    """A layer that no dense weight does the work of."""

    bias = None

    def __init__(self) -> None:
        super().__init__()
        self.own = nn.Parameter(torch.ones(2))

    def dense_weight(self):
        return None


@pytest.mark.parametrize("side", ["start", "end"])
def test_a_line_to_weights_that_there_are_not_is_left_out(side, monkeypatch):
    """And the lines after it are not."""
    ends = {"start": [run(0), run(1)], "end": [run(0, low=True), run(1, low=True)]}
    ends[side][0].build = Formless
    points, summary, _, _ = line(
        monkeypatch, LOSSES[:3] * 3, ends["end"], ends["start"][:2], points=3
    )
    kept = summary[summary["cell"] == "language/low"]
    assert kept["seed"].tolist() == [1]
    assert len(points) == 3 * len(summary)


def test_whole_numbers_among_the_weights_are_not_mixed():
    counter = torch.tensor(7)
    assert interpolation._mix(counter, torch.tensor(9), 0.5).equal(counter)
    mixed = interpolation._mix(torch.tensor([1.0]), torch.tensor([3.0]), 0.25)
    assert mixed.item() == 1.5


# Batch norm


def test_statistics_are_recomputed_at_every_point_of_the_line(monkeypatch):
    """A line through weights of other scales with one end's statistics would show a barrier of them."""
    seen = []
    monkeypatch.setattr(
        interpolation,
        "recompute_batch_norm",
        lambda model, batches, forward: seen.append(len(list(batches))),
    )
    line(monkeypatch, LOSSES, [run(0, low=True)], [run(0)])
    assert seen == [8] * 5
