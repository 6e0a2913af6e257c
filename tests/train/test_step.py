"""One step: the mean loss of the parts, the gradient of the whole batch, one update at the given rate."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from lowrank.experiment.sections import TrainingSpec
from lowrank.train import step
from lowrank.train.optimizer import Optimizer
from lowrank.train.step import train_step


class Squares:
    """A task whose loss is the mean squared output."""

    device = torch.device("cpu")

    def loss(self, model, batch):
        return model(batch).square().mean()


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("clip", [None, 0.01])
def test_a_step_over_parts_is_the_step_over_the_whole_batch(count, clip):
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    batch = torch.randn(8, 3)
    spec = TrainingSpec(
        steps=1, batch=8, optimizer="sgd", momentum=0.0, weight_decay=0.0, clip=clip
    )
    loss = model(batch).square().mean()
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    norm = torch.cat([g.flatten() for g in gradients]).norm()
    scale = 1.0 if clip is None else clip / float(norm)
    expected = [
        p.detach() - 0.5 * scale * g for p, g in zip(model.parameters(), gradients, strict=True)
    ]
    found = train_step(model, Squares(), batch.chunk(count), Optimizer(model, spec, None), 0.5)
    assert float(found[0]) == pytest.approx(float(loss.detach()), rel=1e-6)
    assert float(found[1]) == pytest.approx(float(norm), rel=1e-6)
    assert not found[0].requires_grad
    for parameter, value in zip(model.parameters(), expected, strict=True):
        assert parameter.detach() == pytest.approx(value, rel=1e-4, abs=1e-6)
        assert parameter.grad is None


def test_an_update_of_a_methods_own_may_take_the_same_batchs_gradients_again():
    model, batch = nn.Linear(3, 2), torch.randn(8, 3)
    spec = TrainingSpec(steps=1, batch=8, clip=None)
    seen = []

    def update(rate, norm, again):
        seen.append((rate, norm, model.weight.grad.clone()))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(2.0)
        seen.append((rate, again(), model.weight.grad.clone()))

    loss = model(batch).square().mean().detach()
    found = train_step(model, Squares(), batch.chunk(2), Optimizer(model, spec, None), 0.5, update)
    (rate, norm, first), (_, twice, second) = seen
    assert rate == 0.5 and found[0] == pytest.approx(loss) and found[1] == norm
    assert second == pytest.approx(2 * first) and twice == pytest.approx(2 * norm)


def test_devices_exchange_gradients_at_the_last_part_alone(monkeypatch):
    told = []
    monkeypatch.setattr(step.parallel, "communicate", lambda model, now: told.append(now))
    model = nn.Linear(3, 2)
    spec = TrainingSpec(steps=1, batch=8)
    train_step(model, Squares(), torch.ones(8, 3).chunk(4), Optimizer(model, spec, None), 0.5)
    assert told == [False, False, False, True]
