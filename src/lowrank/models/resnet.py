"""Bottleneck residual networks of any depth and width, ResNet-50 among them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from lowrank.errors import LowrankError
from lowrank.models import FAMILIES, Family, Target

if TYPE_CHECKING:
    from torch import nn

    from lowrank.experiment.sections import ModelSpec

CONVOLUTION = re.compile(
    r"resnet\.encoder\.stages\.(\d+)\.layers\.(\d+)\.(layer\.\d+|shortcut)\.convolution"
)


def build(spec: ModelSpec, outputs: int) -> nn.Module:
    """A ResNet of `spec.depths` bottleneck blocks a stage, with `outputs` classes.

    Stage i is `spec.width` * 2^i channels wide and the stem a quarter of `spec.width`: ResNet-50 is
    width 256 with depths 3, 4, 6, 3 (25.6 M parameters at 1000 classes). Images shrink fourfold in the
    stem, so that 8 x 8 still works.
    """
    from lowrank.models.networks.resnet import ResNet

    assert spec.depths is not None
    if spec.dropout:
        raise LowrankError(f"dropout {spec.dropout} cannot be had: ResNet has none, set it to 0.")
    if spec.width % 4:
        raise LowrankError(
            f"width {spec.width} is not a multiple of 4, the bottleneck's reduction."
        )
    return ResNet(spec.channels, spec.width // 4, _widths(spec), spec.depths, outputs)


def transformers(spec: ModelSpec, outputs: int) -> Any:
    """transformers' ResNet of the same parameters."""
    from transformers import ResNetConfig, ResNetForImageClassification

    settings: dict[str, Any] = {
        "num_channels": spec.channels,
        "embedding_size": spec.width // 4,
        "hidden_sizes": _widths(spec),
        "depths": list(spec.depths or ()),
        "layer_type": "bottleneck",
        "num_labels": outputs,
    }
    return ResNetForImageClassification(ResNetConfig(**settings))


def _widths(spec: ModelSpec) -> list[int]:
    return [spec.width * 2**stage for stage in range(len(spec.depths or ()))]


def targets(model: Any) -> list[Target]:
    """Every convolution of every block, 1 x 1 shortcuts included; not the stem's."""
    blocks: dict[tuple[str, str], int] = {}
    found = []
    for name, _ in model.named_modules():
        if match := CONVOLUTION.fullmatch(name):
            block = blocks.setdefault((match[1], match[2]), len(blocks))
            found.append(Target(name, "conv", block))
    return found


FAMILIES.add(
    "resnet",
    Family(
        label="ResNet",
        task="images",
        groups=("conv",),
        needs=("depths",),
        takes=("channels", "dropout", "pretrained"),
        build=build,
        targets=targets,
        convolutions=True,
        transformers=transformers,
    ),
)
