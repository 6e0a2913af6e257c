"""Bottleneck residual networks from transformers, of any depth and width, ResNet-50 among them."""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, Any

from lowrank.errors import LowrankError
from lowrank.models import FAMILIES, Family, Target

if TYPE_CHECKING:
    from torch import Tensor, nn

    from lowrank.experiment.sections import ModelSpec

CONVOLUTION = re.compile(
    r"resnet\.encoder\.stages\.(\d+)\.layers\.(\d+)\.(layer\.\d+|shortcut)\.convolution"
)


@cache
def _model_class() -> type[nn.Module]:
    """transformers' classifier, returning logits; made late, for its import takes seconds."""
    from transformers.models.resnet.modeling_resnet import ResNetForImageClassification

    class ResNet(ResNetForImageClassification):
        """Maps images (N, channels, H, W) to logits (N, outputs)."""

        def forward(self, pixel_values: Tensor) -> Tensor:
            return super().forward(pixel_values).logits

    return ResNet


def build(spec: ModelSpec, outputs: int) -> nn.Module:
    """A ResNet of `spec.depths` bottleneck blocks a stage, with `outputs` classes.

    Stage i is `spec.width` * 2^i channels wide and the stem a quarter of `spec.width`: ResNet-50 is
    width 256 with depths 3, 4, 6, 3 (25.6 M parameters at 1000 classes). Initialisation is
    transformers' own (He, fan out). Images shrink fourfold in the stem, so that 8 x 8 still works.
    """
    from transformers.models.resnet.configuration_resnet import ResNetConfig

    assert spec.depths is not None
    if spec.dropout:
        raise LowrankError(f"dropout {spec.dropout} cannot be had: ResNet has none, set it to 0.")
    if spec.width % 4:
        raise LowrankError(
            f"width {spec.width} is not a multiple of 4, the bottleneck's reduction."
        )
    if spec.width < 8:  # see factor.layers._convolve: the shortcuts are strided 1 x 1 convolutions
        raise LowrankError(
            f"width {spec.width} is too narrow: torch corrupts memory in shortcuts of fewer than 8 "
            "channels on some processors; use 8 or more."
        )
    config = ResNetConfig(
        num_channels=spec.channels,
        embedding_size=spec.width // 4,
        hidden_sizes=[spec.width * 2**stage for stage in range(len(spec.depths))],
        depths=list(spec.depths),
        layer_type="bottleneck",
        num_labels=outputs,  # type: ignore[call-arg]  # taken by the base class
    )
    return _model_class()(config)


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
        takes=("channels", "dropout"),
        build=build,
        targets=targets,
        convolutions=True,
    ),
)
