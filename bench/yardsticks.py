"""What our GPT-2 is timed against: a lean one in nanoGPT's manner, and that of transformers.

Each function returns one training step as a user of it would write it: forward, backward, clipping at 1
and AdamW, over random tokens (batch, context + 1).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Step = Callable[[], object]


@dataclass(frozen=True)
class Size:
    """Sizes of a language model."""

    width: int
    depth: int
    heads: int
    context: int
    tokens: int
    batch: int


class Attention(nn.Module):
    def __init__(self, size: Size) -> None:
        super().__init__()
        self.c_attn = nn.Linear(size.width, 3 * size.width)
        self.c_proj = nn.Linear(size.width, size.width)
        self.heads = size.heads

    def forward(self, x: Tensor) -> Tensor:
        B, T, C = x.shape
        q, k, v = (
            part.view(B, T, self.heads, C // self.heads).transpose(1, 2)
            for part in self.c_attn(x).split(C, dim=2)
        )
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.c_proj(y.transpose(1, 2).contiguous().view(B, T, C))


class Block(nn.Module):
    def __init__(self, size: Size, gelu: str) -> None:
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(size.width), nn.LayerNorm(size.width)
        self.attn = Attention(size)
        self.mlp = nn.Sequential(
            nn.Linear(size.width, 4 * size.width),
            nn.GELU(approximate=gelu),
            nn.Linear(4 * size.width, size.width),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class Lean(nn.Module):
    """A GPT-2 of nn.Linear, nn.LayerNorm and scaled_dot_product_attention, its head tied."""

    def __init__(self, size: Size, gelu: str) -> None:
        super().__init__()
        self.wte = nn.Embedding(size.tokens, size.width)
        self.wpe = nn.Embedding(size.context, size.width)
        self.h = nn.ModuleList(Block(size, gelu) for _ in range(size.depth))
        self.ln_f = nn.LayerNorm(size.width)
        self.lm_head = nn.Linear(size.width, size.tokens, bias=False)
        self.lm_head.weight = self.wte.weight
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)

    def forward(self, tokens: Tensor, targets: Tensor) -> Tensor:
        x = self.wte(tokens) + self.wpe(torch.arange(tokens.shape[1]))
        for block in self.h:
            x = block(x)
        logits = self.lm_head(self.ln_f(x))
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.reshape(-1))


def lean(size: Size, gelu: str = "none") -> Step:
    """nanoGPT's model and step. Its GELU is the exact one; "tanh" is that of GPT-2."""
    model = Lean(size, gelu)
    parameters = list(model.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": 0.1},
        {"params": [p for p in parameters if p.ndim == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95))
    tokens = _tokens(size)

    def step() -> None:
        model(tokens[:, :-1], tokens[:, 1:]).backward()
        _update(optimizer, parameters)

    return step


def transformers_stock(size: Size) -> Step:
    """GPT2LMHeadModel with its own settings (dropout 0.1 among them), loss and torch's AdamW."""
    model = _stock(size)
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=1e-3)
    tokens = _tokens(size)[:, :-1]

    def step() -> None:
        model(tokens, labels=tokens).loss.backward()
        _update(optimizer, parameters)

    return step


def transformers_trainer(size: Size, folder: str) -> Step:
    """`training_step` of transformers' Trainer with its settings, and the update that its loop makes."""
    from transformers import Trainer, TrainingArguments

    arguments = TrainingArguments(folder, use_cpu=True, report_to=[], disable_tqdm=True)
    trainer = Trainer(_stock(size), arguments)
    trainer.create_optimizer_and_scheduler(num_training_steps=10**6)
    model, optimizer = trainer.accelerator.prepare(trainer.model, trainer.optimizer)
    model.train()
    schedule = trainer.lr_scheduler
    assert schedule is not None
    trainer.current_gradient_accumulation_steps = 1  # its loop sets it
    tokens = _tokens(size)[:, :-1]

    def step() -> None:
        trainer.training_step(model, {"input_ids": tokens, "labels": tokens})
        trainer.accelerator.clip_grad_norm_(model.parameters(), arguments.max_grad_norm)
        optimizer.step()
        schedule.step()
        model.zero_grad()

    return step


def _stock(size: Size) -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        loss_type="ForCausalLMLoss",  # type: ignore[call-arg] # it takes what every configuration does
        vocab_size=size.tokens,
        n_positions=size.context,
        n_embd=size.width,
        n_layer=size.depth,
        n_head=size.heads,
        bos_token_id=0,
        eos_token_id=0,
    )
    return GPT2LMHeadModel(config).train()


def _tokens(size: Size) -> Tensor:
    return torch.randint(size.tokens, (size.batch, size.context + 1))


def _update(optimizer: torch.optim.Optimizer, parameters: Iterable[Tensor]) -> None:
    nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
