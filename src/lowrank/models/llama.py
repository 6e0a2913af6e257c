"""Llama from transformers, at any size: rotary positions, gated MLPs, grouped-query attention.

Keys and values may have fewer heads than queries (`kv_heads`, Ainslie et al. 2023), so the layers of
one block differ in shape. The head is its own matrix unless `tied_head` says otherwise, as in Llama 2
and 3; like every head it stays dense. Llama has no dropout but on attention's weights, where `dropout`
is applied.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from lowrank.models import FAMILIES, Family, Target, heads_problem

if TYPE_CHECKING:
    from torch import Tensor, nn

    from lowrank.experiment.sections import ModelSpec

LAYERS = {
    **dict.fromkeys((f"self_attn.{side}_proj" for side in "qkvo"), "attention"),
    **dict.fromkeys((f"mlp.{part}_proj" for part in ("gate", "up", "down")), "mlp"),
}


def mlp_width(spec: ModelSpec) -> int:
    """The hidden size of the MLP: as given, or 8/3 of the width rounded up to a multiple of 16, so
    that three matrices hold what two of 4 times the width do (Touvron et al. 2023)."""
    return spec.mlp_width or -(-8 * spec.width // 48) * 16


@cache
def _model_class() -> type[nn.Module]:
    """transformers' language model, returning a tensor; made late, for its import takes seconds."""
    from transformers.models.llama.modeling_llama import LlamaForCausalLM

    from lowrank.models.networks.head import head_loss

    class Llama(LlamaForCausalLM):
        """Maps tokens (B, T) to logits (B, T, outputs), or with targets (B, T) to the loss."""

        def forward(self, tokens: Tensor, targets: Tensor | None = None) -> Tensor:
            x = self.model(tokens).last_hidden_state
            return (
                self.lm_head(x) if targets is None else head_loss(x, self.lm_head.weight, targets)
            )

    return Llama


def build(spec: ModelSpec, outputs: int) -> nn.Module:
    """A dense Llama with `outputs` tokens."""
    return _model_class()(_config(spec, outputs, use_cache=False))


def transformers(spec: ModelSpec, outputs: int) -> Any:
    """transformers' Llama of the same parameters."""
    from transformers import LlamaForCausalLM

    return LlamaForCausalLM(_config(spec, outputs))


def _config(spec: ModelSpec, outputs: int, **options: Any) -> Any:
    from transformers.models.llama import LlamaConfig

    settings: dict[str, Any] = {
        "vocab_size": outputs,
        "hidden_size": spec.width,
        "intermediate_size": mlp_width(spec),
        "num_hidden_layers": spec.depth,
        "num_attention_heads": spec.heads,
        "num_key_value_heads": spec.kv_heads or spec.heads,
        "max_position_embeddings": spec.context,
        "initializer_range": spec.init_std,
        "attention_dropout": spec.dropout,
        "tie_word_embeddings": bool(spec.tied_head),
        "attn_implementation": "sdpa",
        "bos_token_id": 0,
        "eos_token_id": 0,
        **options,
    }
    return LlamaConfig(**settings)


def targets(model: Any) -> list[Target]:
    """The seven matrices of every block."""
    return [
        Target(f"model.layers.{block}.{layer}", group, block)
        for block in range(model.config.num_hidden_layers)
        for layer, group in LAYERS.items()
    ]


def problem(spec: ModelSpec) -> str | None:
    """Heads must divide the width, and heads of keys and values the heads; rotary positions turn pairs."""
    assert spec.heads is not None
    if found := heads_problem(spec):
        return found
    if spec.kv_heads and spec.heads % spec.kv_heads:
        return f"kv_heads: {spec.kv_heads} do not divide the {spec.heads} heads: give a divisor of them"
    if spec.width // spec.heads % 2:
        return f"heads: {spec.heads} of odd size {spec.width // spec.heads}: rotary positions need an even one"
    return None


FAMILIES.add(
    "llama",
    Family(
        label="Llama",
        task="language",
        groups=("attention", "mlp"),
        needs=("depth", "heads", "context"),
        takes=("kv_heads", "mlp_width", "init_std", "dropout", "tied_head", "pretrained"),
        build=build,
        targets=targets,
        transformers=transformers,
        problem=problem,
    ),
)
