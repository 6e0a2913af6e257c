"""Bottleneck residual networks (He et al. 2016), with the parameters of transformers'
ResNetForImageClassification by name and shape: either loads the other's state dict.

As there, a block that halves the image does so in its 3 x 3 convolution.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from lowrank.factor.dense import Conv2d, mean_of_pixels

REDUCTION = 4
"""How many times narrower the middle of a block is than its ends."""


class ConvLayer(nn.Module):
    """A convolution without bias, a batch norm, and a ReLU unless told otherwise."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, active: bool = True
    ) -> None:
        super().__init__()
        self.convolution = Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        self.normalization = nn.BatchNorm2d(outputs)
        self.active = active

    def forward(self, x: Tensor) -> Tensor:
        x = self.normalization(self.convolution(x))
        return F.relu(x, inplace=True) if self.active else x


class Bottleneck(nn.Module):
    """relu(shortcut(x) + 1 x 1 (3 x 3 (1 x 1 (x)))); the shortcut is x itself where the shape stays."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        middle = outputs // REDUCTION
        changes = inputs != outputs or stride != 1
        self.shortcut = ConvLayer(inputs, outputs, 1, stride, False) if changes else nn.Identity()
        self.layer = nn.Sequential(
            ConvLayer(inputs, middle, 1),
            ConvLayer(middle, middle, 3, stride),
            ConvLayer(middle, outputs, 1, active=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.layer(x) + self.shortcut(x), inplace=True)


class Stage(nn.Module):
    """Blocks of one width, the first of which changes the shape."""

    def __init__(self, inputs: int, outputs: int, stride: int, depth: int) -> None:
        super().__init__()
        rest = (Bottleneck(outputs, outputs, 1) for _ in range(depth - 1))
        self.layers = nn.Sequential(Bottleneck(inputs, outputs, stride), *rest)

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x)


class Stem(nn.Module):
    """A 7 x 7 convolution and a pooling, each of which halves the image."""

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        self.embedder = ConvLayer(channels, outputs, 7, stride=2)

    def forward(self, images: Tensor) -> Tensor:
        return F.max_pool2d(self.embedder(images), 3, stride=2, padding=1)


class Encoder(nn.Module):
    """The stages, each but the first of which halves the image."""

    def __init__(self, stem: int, widths: Sequence[int], depths: Sequence[int]) -> None:
        super().__init__()
        sizes = zip([stem, *widths], widths, depths, strict=False)
        self.stages = nn.Sequential(
            *(Stage(a, b, 2 if number else 1, depth) for number, (a, b, depth) in enumerate(sizes))
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.stages(x)


class Body(nn.Module):
    """All but the classifier: images (N, channels, H, W) to features (N, widths[-1])."""

    def __init__(
        self, channels: int, stem: int, widths: Sequence[int], depths: Sequence[int]
    ) -> None:
        super().__init__()
        self.embedder = Stem(channels, stem)
        self.encoder = Encoder(stem, widths, depths)

    def forward(self, images: Tensor) -> Tensor:
        return mean_of_pixels(self.encoder(self.embedder(images)))


class ResNet(nn.Module):
    """Images (N, channels, H, W) to logits (N, outputs).

    A stem of `stem` channels, then a stage for each of `widths` with so many blocks as `depths` says.
    Kernels are drawn as He et al. do, for the fan out; the classifier is torch's own.
    """

    def __init__(
        self, channels: int, stem: int, widths: Sequence[int], depths: Sequence[int], outputs: int
    ) -> None:
        super().__init__()
        self.resnet = Body(channels, stem, widths, depths)
        self.classifier = nn.Sequential(nn.Flatten(), nn.Linear(widths[-1], outputs))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.resnet(images))
