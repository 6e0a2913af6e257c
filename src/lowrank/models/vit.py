"""Vision transformers (Dosovitskiy et al. 2021) from transformers, at any size.

An image of `image_size` pixels a side becomes (image_size / patch)^2 tokens and one for the class. The
projection of patches is the embedding and stays dense, as does the classifier.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from lowrank.models import FAMILIES, Family, Target, heads_problem

if TYPE_CHECKING:
    from torch import Tensor, nn

    from lowrank.experiment.sections import ModelSpec

LAYERS = {
    **dict.fromkeys((f"attention.{side}_proj" for side in "qkvo"), "attention"),
    **dict.fromkeys(("mlp.fc1", "mlp.fc2"), "mlp"),
}


@cache
def _model_class() -> type[nn.Module]:
    """transformers' classifier, returning logits; made late, for its import takes seconds."""
    from transformers.models.vit.modeling_vit import ViTForImageClassification

    class ViT(ViTForImageClassification):
        """Maps images (N, channels, side, side) to logits (N, outputs)."""

        def forward(self, pixel_values: Tensor) -> Tensor:
            return super().forward(pixel_values).logits

    return ViT


def build(spec: ModelSpec, outputs: int) -> nn.Module:
    """A dense ViT with `outputs` classes; width 768, depth 12, heads 12, patch 16 is ViT-B/16."""
    return _model_class()(_config(spec, outputs))


def transformers(spec: ModelSpec, outputs: int) -> Any:
    """transformers' ViT of the same parameters."""
    from transformers import ViTForImageClassification

    return ViTForImageClassification(_config(spec, outputs))


def _config(spec: ModelSpec, outputs: int) -> Any:
    from transformers.models.vit.configuration_vit import ViTConfig

    settings: dict[str, Any] = {
        "hidden_size": spec.width,
        "intermediate_size": spec.mlp_width or 4 * spec.width,
        "num_hidden_layers": spec.depth,
        "num_attention_heads": spec.heads,
        "image_size": spec.image_size,
        "patch_size": spec.patch,
        "num_channels": spec.channels,
        "initializer_range": spec.init_std,
        "hidden_dropout_prob": spec.dropout,
        "attention_probs_dropout_prob": spec.dropout,
        "attn_implementation": "sdpa",
        "num_labels": outputs,
    }
    return ViTConfig(**settings)


def targets(model: Any) -> list[Target]:
    """The six matrices of every block."""
    return [
        Target(f"vit.layers.{block}.{layer}", group, block)
        for block in range(model.config.num_hidden_layers)
        for layer, group in LAYERS.items()
    ]


def problem(spec: ModelSpec) -> str | None:
    """Heads must divide the width, and patches the image."""
    assert spec.image_size is not None and spec.patch is not None
    if found := heads_problem(spec):
        return found
    if spec.image_size % spec.patch:
        return f"patch: {spec.patch} does not divide the image_size {spec.image_size}: give a divisor of it"
    return None


FAMILIES.add(
    "vit",
    Family(
        label="ViT",
        task="images",
        groups=("attention", "mlp"),
        needs=("depth", "heads", "patch", "image_size"),
        takes=("mlp_width", "init_std", "channels", "dropout", "pretrained"),
        build=build,
        targets=targets,
        transformers=transformers,
        problem=problem,
        embeddings=("*.cls_token", "*.position_embeddings"),
    ),
)
