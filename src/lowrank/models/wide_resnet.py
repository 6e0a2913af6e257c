"""Wide residual networks (Zagoruyko and Komodakis 2016), pre-activation, of any depth and width."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lowrank.models import FAMILIES, Family, Target

if TYPE_CHECKING:
    from torch import nn

    from lowrank.experiment.sections import ModelSpec


def build(spec: ModelSpec, outputs: int) -> nn.Module:
    """WRN-`depth`-`width` with `outputs` classes; 28 and 10 give the paper's 36.5 M parameters."""
    from lowrank.models.networks.wide_resnet import WideResNet

    assert spec.depth is not None
    return WideResNet(spec.depth, spec.width, outputs, spec.channels, spec.dropout)


def targets(model: Any) -> list[Target]:
    """Every convolution of every block, 1 x 1 shortcuts included; not the first convolution."""
    return [
        Target(f"blocks.{number}.{layer}", "conv", number)
        for number, block in enumerate(model.blocks)
        for layer in ("conv1", "conv2", "shortcut")
        if getattr(block, layer) is not None
    ]


def problem(spec: ModelSpec) -> str | None:
    """The depth must be one that there is."""
    if (spec.depth or 0) % 6 != 4:
        return f"depth: {spec.depth} must be 6n + 4, such as 10, 16 or 28"
    return None


FAMILIES.add(
    "wide_resnet",
    Family(
        label="Wide ResNet",
        task="images",
        groups=("conv",),
        needs=("depth",),
        takes=("channels", "dropout"),
        build=build,
        targets=targets,
        problem=problem,
        convolutions=True,
    ),
)
