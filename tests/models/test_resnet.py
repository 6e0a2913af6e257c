"""Bottleneck ResNets: those of transformers by names and logits, and which layers may be factorised."""

from copy import deepcopy
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import ResNetConfig, ResNetForImageClassification

from lowrank.errors import LowrankError
from lowrank.models import resnet

torch.set_num_threads(1)


def spec(depths=(1, 2), width=32, channels=1, dropout=0.0):
    return SimpleNamespace(depths=depths, width=width, channels=channels, dropout=dropout)


def test_resnet_50_has_its_published_parameters_and_layers():
    with torch.device("meta"):
        model = resnet.build(spec((3, 4, 6, 3), 256, 3), 1000)
    assert sum(parameter.numel() for parameter in model.parameters()) == 25_557_032
    targets = resnet.targets(model)
    assert len(targets) == 16 * 3 + 4
    assert {target.block for target in targets} == set(range(16))


@pytest.mark.parametrize(
    ("depths", "width", "channels", "side"),
    [((1, 1), 16, 1, 8), ((1, 1, 1, 1), 16, 1, 8), ((2, 1, 1), 32, 3, 64)],
)
def test_logits_are_a_tensor_with_one_column_per_class(depths, width, channels, side):
    model = resnet.build(spec(depths, width, channels), 7)
    logits = model(torch.randn(3, channels, side, side))
    assert isinstance(logits, torch.Tensor)
    assert logits.shape == (3, 7)


def test_logits_and_names_are_those_of_transformers():
    model = resnet.build(spec((1, 2, 1), channels=3), 5)
    sizes = {"embedding_size": 8, "hidden_sizes": [32, 64, 128], "depths": [1, 2, 1]}
    stock = ResNetForImageClassification(ResNetConfig(num_channels=3, num_labels=5, **sizes))
    assert list(model.state_dict()) == list(stock.state_dict())
    x = torch.randn(2, 3, 64, 64)
    for source, target in ((stock, model), (model, stock)):
        for parameter in source.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        target.load_state_dict(source.state_dict())
        for mode in (True, False):
            logits, expected = model.train(mode)(x), stock.train(mode)(x).logits
            torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


def test_gradients_are_those_of_transformers():
    model = resnet.build(spec(), 5)
    sizes = {"embedding_size": 8, "hidden_sizes": [32, 64], "depths": [1, 2]}
    stock = ResNetForImageClassification(ResNetConfig(num_channels=1, num_labels=5, **sizes))
    stock.load_state_dict(model.state_dict())
    x = torch.randn(4, 1, 32, 32)
    for logits in (model.train()(x), stock.train()(x).logits):
        torch.nn.functional.cross_entropy(logits, torch.arange(4)).backward()
    for (name, parameter), twin in zip(model.named_parameters(), stock.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, twin.grad, rtol=1e-3, atol=1e-5, msg=name)


def test_targets_are_all_convolutions_but_the_stem():
    model = resnet.build(spec(), 10)
    convolutions = [name for name, m in model.named_modules() if isinstance(m, nn.Conv2d)]
    targets = resnet.targets(model)
    assert {target.name for target in targets} == {
        name for name in convolutions if not name.startswith("resnet.embedder")
    }
    assert len(targets) == len(convolutions) - 1
    assert {target.group for target in targets} == {"conv"}
    assert {target.block for target in targets} == {0, 1, 2}


def test_targets_keep_their_names_when_layers_are_replaced():
    model = resnet.build(spec(), 10)
    before = resnet.targets(model)
    for target in before:
        model.set_submodule(target.name, nn.Sequential(model.get_submodule(target.name)))
    assert resnet.targets(model) == before


def test_a_model_can_be_copied():
    model = resnet.build(spec(), 10).eval()
    x = torch.randn(2, 1, 8, 8)
    assert torch.equal(deepcopy(model)(x), model(x))


def test_the_initialisation_is_hes_for_the_fan_out_and_seeded():
    torch.manual_seed(0)
    first = resnet.build(spec(), 10)
    torch.manual_seed(0)
    second = resnet.build(spec(), 10)
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)
    weight = first.get_submodule("resnet.encoder.stages.1.layers.0.layer.1.convolution").weight
    assert weight.std().item() == pytest.approx((2 / (weight.shape[0] * 9)) ** 0.5, rel=0.05)


def test_what_resnet_does_not_have_is_refused():
    with pytest.raises(LowrankError, match="ResNet has none"):
        resnet.build(spec(dropout=0.1), 10)
    with pytest.raises(LowrankError, match="width 30 is not a multiple of 4"):
        resnet.build(spec(width=30), 10)
