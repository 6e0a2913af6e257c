"""Small real models that the method's tests share."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def denormal_numbers():
    """Runs flush them to zero for speed, in the whole process; the mathematics holds for them too."""
    torch.set_flush_denormal(False)


@pytest.fixture
def make_gpt2() -> Callable[..., nn.Module]:
    """Builds a GPT-2 without dropout, its initial weights by transformers."""

    def make(width: int = 32, layers: int = 2, seed: int = 0) -> nn.Module:
        from transformers import GPT2Config, GPT2LMHeadModel

        torch.manual_seed(seed)
        config = GPT2Config(
            vocab_size=61,
            n_embd=width,
            n_layer=layers,
            n_head=2,
            n_positions=32,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            use_cache=False,
            bos_token_id=0,
            eos_token_id=0,
        )
        return GPT2LMHeadModel(config)

    return make


@pytest.fixture
def gpt2(make_gpt2: Callable[..., nn.Module]) -> nn.Module:
    return make_gpt2()


@pytest.fixture
def scales() -> Callable[[nn.Module], dict[str, float]]:
    """Every Conv1D of a GPT-2 with the factor that its initialisation has."""

    def find(model: nn.Module) -> dict[str, float]:
        depth = model.config.n_layer
        return {
            name: (2 * depth) ** -0.5 if name.endswith("c_proj") else 1.0
            for name, module in model.named_modules()
            if type(module).__name__ == "Conv1D"
        }

    return find


@pytest.fixture
def convnet() -> nn.Module:
    """A convolutional net with strides, a norm, a pointwise and a grouped convolution."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 12, (3, 5), stride=(2, 1), padding=(1, 2), bias=False),
        nn.ReLU(),
        nn.Conv2d(12, 16, 1),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1, stride=2, groups=2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 10),
    )


@pytest.fixture
def tokens() -> torch.Tensor:
    return torch.randint(61, (3, 16), generator=torch.Generator().manual_seed(5))


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(20, 3, 10, 12, generator=torch.Generator().manual_seed(6))
