"""The linear layer of GPT-2's checkpoints, whose weight lies as inputs x outputs."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Conv1D(nn.Module):
    """y = x W + b for x (..., inputs): W (inputs, outputs), b (outputs), drawn by the model that holds it.

    The name, the constructor and the parameters are those of transformers' layer.
    """

    def __init__(self, outputs: int, inputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(inputs, outputs))
        self.bias = nn.Parameter(torch.empty(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.T, self.bias)


def is_conv1d(module: nn.Module) -> bool:
    """Whether this is our Conv1D or that of transformers, told by name: importing it takes seconds."""
    kind = type(module)
    foreign = kind.__name__ == "Conv1D" and kind.__module__ == "transformers.pytorch_utils"
    return kind is Conv1D or foreign
