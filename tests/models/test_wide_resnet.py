"""Wide ResNets: sizes, shapes and which layers may be factorised."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from lowrank.errors import LowrankError
from lowrank.models import wide_resnet
from lowrank.models.networks.wide_resnet import Block

torch.set_num_threads(1)


def spec(depth=10, width=1, channels=3, dropout=0.0):
    return SimpleNamespace(depth=depth, width=width, channels=channels, dropout=dropout)


def parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("depth", "width", "outputs", "count"),
    [(28, 10, 100, 36_536_884), (28, 10, 10, 36_479_194), (16, 8, 10, 10_961_370)],
)
def test_parameters_are_as_many_as_published(depth, width, outputs, count):
    with torch.device("meta"):
        model = wide_resnet.build(spec(depth, width), outputs)
    assert parameters(model) == count


@pytest.mark.parametrize(
    ("depth", "width", "channels", "side"),
    [
        (10, 1, 1, 8),
        (10, 2, 3, 32),
        (16, 1, 1, 8),
        (22, 1, 3, 28),
    ],
)
def test_logits_have_one_column_per_class(depth, width, channels, side):
    model = wide_resnet.build(spec(depth, width, channels), 7)
    assert model(torch.randn(3, channels, side, side)).shape == (3, 7)


def test_targets_are_all_convolutions_but_the_first():
    model = wide_resnet.build(spec(16, 2), 10)
    convolutions = [name for name, m in model.named_modules() if isinstance(m, nn.Conv2d)]
    targets = wide_resnet.targets(model)
    assert sorted(target.name for target in targets) == sorted(set(convolutions) - {"stem"})
    assert {target.group for target in targets} == {"conv"}
    assert {target.scale for target in targets} == {1.0}
    for target in targets:
        assert target.name.split(".")[1] == str(target.block)
    assert {target.block for target in targets} == set(range(6))


def test_a_block_without_shortcut_passes_its_input_on_untouched():
    """Pre-activation: the residual path carries neither normalisation nor activation."""
    block = Block(8, 8, 1, 0.0)
    nn.init.zeros_(block.conv2.weight)
    x = torch.randn(2, 8, 4, 4)
    assert block.shortcut is None
    assert torch.equal(block(x), x)


def test_a_shortcut_projects_the_activated_input():
    block = Block(8, 16, 2, 0.0)
    nn.init.zeros_(block.conv2.weight)
    x = torch.randn(2, 8, 4, 4)
    assert block.shortcut is not None
    torch.testing.assert_close(block(x), block.shortcut(block.bn1(x).relu()))


def test_the_groups_halve_the_image_twice():
    model = wide_resnet.build(spec(), 10)
    shapes = []
    for block in model.blocks:
        block.register_forward_hook(lambda _, __, output: shapes.append(tuple(output.shape[1:])))
    model(torch.randn(2, 3, 32, 32))
    assert shapes == [(16, 32, 32), (32, 16, 16), (64, 8, 8)]


def test_convolutions_are_drawn_by_he_for_their_fan_out():
    torch.manual_seed(0)
    model = wide_resnet.build(spec(10, 4), 10)
    for module in model.modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 10_000:
            fan_out = module.out_channels * module.kernel_size[0] ** 2
            assert module.weight.std().item() == pytest.approx((2 / fan_out) ** 0.5, rel=0.05)


def test_dropout_acts_in_training_only():
    model = wide_resnet.build(spec(dropout=0.5), 10)
    x = torch.randn(4, 3, 8, 8)
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


@pytest.mark.parametrize("depth", [4, 12, 27])
def test_a_depth_that_does_not_exist_is_refused(depth):
    with pytest.raises(LowrankError, match=f"Depth {depth} is not of the form 6n"):
        wide_resnet.build(spec(depth), 10)


def test_every_parameter_gets_a_gradient():
    model = wide_resnet.build(spec(channels=1), 10)
    model(torch.randn(4, 1, 8, 8)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
