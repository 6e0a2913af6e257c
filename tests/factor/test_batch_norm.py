"""Recomputed batch-norm statistics are the plain means over the batches, and nothing else moves."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lowrank.errors import LowrankError
from lowrank.factor.batch_norm import recompute_batch_norm


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3),
        nn.Dropout(0.5),
        nn.BatchNorm2d(4, momentum=0.3),
        nn.ReLU(),
        nn.Flatten(),
    )


@pytest.fixture
def batches():
    generator = torch.Generator().manual_seed(3)
    # Of different sizes: each counts as one batch.
    return [5 * k + torch.randn(k + 2, 3, 6, 6, generator=generator) for k in range(4)]


def run(model, batch):
    return model(batch)


@pytest.mark.parametrize("training", [False, True])
def test_every_batch_counts_alike_and_mode_and_momentum_stay(model, batches, training):
    model.train(training)
    model[3].train(not training)
    norm, weights = model[2], [p.clone() for p in model.parameters()]
    with torch.no_grad():
        seen = [model[0](batch) for batch in batches]
    assert recompute_batch_norm(model, iter(batches), run)
    means = torch.stack([x.mean((0, 2, 3)) for x in seen]).mean(0)
    variances = torch.stack([x.transpose(0, 1).flatten(1).var(1) for x in seen]).mean(0)
    torch.testing.assert_close(norm.running_mean, means)
    torch.testing.assert_close(norm.running_var, variances)
    assert norm.momentum == 0.3
    assert [m.training for m in model] == [training] * 3 + [not training, training]
    assert all(torch.equal(a, b) for a, b in zip(weights, model.parameters(), strict=True))


def test_a_second_time_changes_nothing(model, batches):
    recompute_batch_norm(model, batches, run)
    first = {name: value.clone() for name, value in model.state_dict().items()}
    recompute_batch_norm(model, batches, run)
    assert all(torch.equal(first[name], value) for name, value in model.state_dict().items())


def test_a_model_without_statistics_runs_nothing():
    def refuse(model, batch):
        raise AssertionError

    plain = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2, track_running_stats=False))
    assert not recompute_batch_norm(plain, [torch.ones(2, 2)], refuse)


def test_a_norm_that_no_batch_reaches_and_one_whose_batches_fail_keep_theirs(model, batches):
    model.train()(batches[0])
    spare = nn.BatchNorm2d(4)
    spare.running_mean.fill_(7.0)
    both = nn.ModuleList([model, spare])
    recompute_batch_norm(both, batches, lambda m, batch: m[0](batch))
    assert (spare.running_mean == 7.0).all()
    before = {name: value.clone() for name, value in both.state_dict().items()}
    with pytest.raises(LowrankError, match="at least one"):
        recompute_batch_norm(both, [], run)
    with pytest.raises(RuntimeError):
        recompute_batch_norm(model, [batches[0], torch.ones(1, 2, 6, 6)], run)
    assert all(torch.equal(before[name], value) for name, value in both.state_dict().items())
    assert (model[2].momentum, spare.momentum, model.training) == (0.3, 0.1, True)
