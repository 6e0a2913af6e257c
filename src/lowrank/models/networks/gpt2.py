"""GPT-2 (Radford et al. 2019), with the parameters of transformers' GPT2LMHeadModel by name and shape.

Either loads the other's state dict and computes the same logits. Suffixes of tensors are their shapes:
B examples, T tokens, C the width, H heads of D.
"""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor, nn

from lowrank.factor.dense import Conv1D
from lowrank.models.networks.gelu import gelu_tanh
from lowrank.models.networks.head import head_loss


class Attention(nn.Module):
    """Causal self-attention."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.c_attn = Conv1D(3 * width, width)
        self.c_proj = Conv1D(width, width)
        self.heads, self.dropout = heads, dropout

    def forward(self, x_BTC: Tensor) -> Tensor:
        qkv = self.c_attn(x_BTC).unflatten(-1, (3, self.heads, -1))
        q_BHTD, k_BHTD, v_BHTD = qkv.permute(2, 0, 3, 1, 4).unbind()
        dropout = self.dropout if self.training else 0.0
        y_BHTD = F.scaled_dot_product_attention(
            q_BHTD, k_BHTD, v_BHTD, dropout_p=dropout, is_causal=True
        )
        return self.c_proj(y_BHTD.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """Two layers with four times the width between them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.c_fc = Conv1D(4 * width, width)
        self.c_proj = Conv1D(width, 4 * width)

    def forward(self, x_BTC: Tensor) -> Tensor:
        return self.c_proj(gelu_tanh(self.c_fc(x_BTC)))


class Block(nn.Module):
    """Attention and an MLP, each added to what it reads after a layer norm."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(width)
        self.attn = Attention(width, heads, dropout)
        self.ln_2 = nn.LayerNorm(width)
        self.mlp = MLP(width)
        self.drop = nn.Dropout(dropout) if dropout else nn.Identity()

    def forward(self, x_BTC: Tensor) -> Tensor:
        x_BTC = x_BTC + self.drop(self.attn(self.ln_1(x_BTC)))
        return x_BTC + self.drop(self.mlp(self.ln_2(x_BTC)))


class Transformer(nn.Module):
    """Embeddings, blocks and a last layer norm: all but the head."""

    def __init__(
        self, tokens: int, context: int, width: int, depth: int, heads: int, dropout: float
    ) -> None:
        super().__init__()
        self.wte = nn.Embedding(tokens, width)
        self.wpe = nn.Embedding(context, width)
        self.drop = nn.Dropout(dropout) if dropout else nn.Identity()
        self.h = nn.ModuleList(Block(width, heads, dropout) for _ in range(depth))
        self.ln_f = nn.LayerNorm(width)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        x_BTC = self.drop(self.wte(tokens_BT) + self.wpe.weight[: tokens_BT.shape[1]])
        for block in self.h:
            x_BTC = block(x_BTC)
        return self.ln_f(x_BTC)


class GPT2(nn.Module):
    """Maps tokens (B, T), T at most `context`, to logits (B, T, tokens), or with targets (B, T) to the loss.

    Weights and embeddings are drawn from N(0, std^2), projections back onto the residual stream 1/sqrt(2
    depth) smaller; biases begin at zero. The head is the embedding unless `tied` says otherwise.
    """

    def __init__(
        self,
        tokens: int,
        context: int,
        width: int,
        depth: int,
        heads: int,
        *,
        std: float = 0.02,
        dropout: float = 0.0,
        tied: bool = True,
    ) -> None:
        super().__init__()
        self.transformer = Transformer(tokens, context, width, depth, heads, dropout)
        self.lm_head = nn.Linear(width, tokens, bias=False)
        if tied:
            self.lm_head.weight = self.transformer.wte.weight
        for name, parameter in self.named_parameters():
            if name.endswith("c_proj.weight"):
                nn.init.normal_(parameter, std=std / math.sqrt(2 * depth))
            elif parameter.ndim == 2:
                nn.init.normal_(parameter, std=std)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(self, tokens_BT: Tensor, targets_BT: Tensor | None = None) -> Tensor:
        """Logits; with `targets` the mean cross entropy of them in nats."""
        x_BTC = self.transformer(tokens_BT)
        if targets_BT is None:
            return self.lm_head(x_BTC)
        return head_loss(x_BTC, self.lm_head.weight, targets_BT)
