"""Wide residual networks (Zagoruyko and Komodakis 2016), pre-activation, of any depth and width."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from lowrank.errors import LowrankError
from lowrank.factor.dense import Conv2d, mean_of_pixels

STEM = 16
"""Channels of the first convolution; the three groups have 1, 2 and 4 times as many, widened."""


class Block(nn.Module):
    """x + conv2(relu(bn2(conv1(a)))) with a = relu(bn1(x)); where the shape changes, the shortcut
    is a 1 x 1 convolution of a instead of x."""

    def __init__(self, inputs: int, outputs: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.shortcut: nn.Module | None = None
        if inputs != outputs or stride != 1:
            self.shortcut = Conv2d(inputs, outputs, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, H / stride, W / stride)."""
        active = F.relu(self.bn1(x), inplace=True)
        hidden = F.relu(self.bn2(self.conv1(active)), inplace=True)
        hidden = self.conv2(self.dropout(hidden))
        return hidden + (x if self.shortcut is None else self.shortcut(active))


class WideResNet(nn.Module):
    """A first convolution, three groups of blocks (strides 1, 2, 2), and a linear classifier."""

    def __init__(
        self, depth: int, width: int, outputs: int, channels: int = 3, dropout: float = 0.0
    ) -> None:
        super().__init__()
        per_group, rest = divmod(depth - 4, 6)
        if rest or per_group < 1:
            raise LowrankError(f"Depth {depth} is not of the form 6n + 4: 10, 16, 22 and 28 are.")
        self.stem = nn.Conv2d(channels, STEM, 3, padding=1, bias=False)
        self.blocks = nn.ModuleList()
        inputs = STEM
        for group in range(3):
            wide = STEM * 2**group * width
            for number in range(per_group):
                stride = 2 if group > 0 and number == 0 else 1
                self.blocks.append(Block(inputs, wide, stride, dropout))
                inputs = wide
        self.norm = nn.BatchNorm2d(inputs)
        self.classifier = nn.Linear(inputs, outputs)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        nn.init.zeros_(self.classifier.bias)

    def forward(self, images: Tensor) -> Tensor:
        """Images (N, channels, H, W) to logits (N, outputs)."""
        x = self.stem(images)
        for block in self.blocks:
            x = block(x)
        return self.classifier(mean_of_pixels(F.relu(self.norm(x))))
