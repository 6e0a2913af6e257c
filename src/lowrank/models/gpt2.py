"""GPT-2, at any size."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from lowrank.models import FAMILIES, Family, Target, heads_problem

if TYPE_CHECKING:
    from torch import nn

    from lowrank.experiment.sections import ModelSpec

LAYERS = {
    "attn.c_attn": "attention",
    "attn.c_proj": "attention",
    "mlp.c_fc": "mlp",
    "mlp.c_proj": "mlp",
}


def build(spec: ModelSpec, outputs: int) -> nn.Module:
    """A dense GPT-2 with `outputs` tokens."""
    from lowrank.models.networks.gpt2 import GPT2

    assert spec.context is not None and spec.depth is not None and spec.heads is not None
    return GPT2(
        outputs,
        spec.context,
        spec.width,
        spec.depth,
        spec.heads,
        std=spec.init_std,
        dropout=spec.dropout,
        tied=spec.tied_head is not False,
    )


def transformers(spec: ModelSpec, outputs: int) -> Any:
    """transformers' GPT-2 of the same parameters."""
    from transformers import GPT2Config, GPT2LMHeadModel

    settings: dict[str, Any] = {
        "vocab_size": outputs,
        "n_embd": spec.width,
        "n_layer": spec.depth,
        "n_head": spec.heads,
        "n_positions": spec.context,
        "activation_function": "gelu_pytorch_tanh",
        "initializer_range": spec.init_std,
        "resid_pdrop": spec.dropout,
        "embd_pdrop": spec.dropout,
        "attn_pdrop": spec.dropout,
        "tie_word_embeddings": spec.tied_head is not False,
        "bos_token_id": 0,
        "eos_token_id": 0,
    }
    return GPT2LMHeadModel(GPT2Config(**settings))


def targets(model: Any) -> list[Target]:
    """The four matrices of every block; the projections back onto the residual stream are drawn
    1/sqrt(2 blocks) smaller (GPT-2's scaled initialisation)."""
    blocks = len(model.transformer.h)
    return [
        Target(
            name=f"transformer.h.{block}.{layer}",
            group=group,
            block=block,
            scale=1 / math.sqrt(2 * blocks) if layer.endswith("c_proj") else 1.0,
        )
        for block in range(blocks)
        for layer, group in LAYERS.items()
    ]


FAMILIES.add(
    "gpt2",
    Family(
        label="GPT-2",
        task="language",
        groups=("attention", "mlp"),
        needs=("depth", "heads", "context"),
        takes=("init_std", "dropout", "tied_head", "pretrained"),
        build=build,
        targets=targets,
        problem=heads_problem,
        transformers=transformers,
    ),
)
