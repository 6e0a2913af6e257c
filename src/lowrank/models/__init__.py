"""How each model is built and which of its layers may be factorised.

A family is a module with two functions: `build(spec, outputs)` gives the dense model, `targets(model)`
the layers that may be factorised. Layers that always stay dense (embeddings, head, first convolution,
classifier) are simply not targets.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """A layer that may be factorised."""

    name: str
    """Its dotted name in the model."""
    group: str
    """The part of the block it belongs to: `attention`, `mlp` or `conv`."""
    block: int
    """The block it stands in, from 0."""
    scale: float = 1.0
    """What the model multiplies this layer's usual initial standard deviation by."""
