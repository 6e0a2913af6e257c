"""LoRA from scratch (Hu et al. 2021, arXiv 2106.09685): ReLoRA's layer, never merged.

    y = (W + s U V^T) x + b,  W frozen, U begins at zero, V uniform in +-1/sqrt(n)

Made for trained weights, it is what ReLoRA is compared with: with the section `pretraining` it is the
full-rank warm start without restarts, and without it W is the draw. After a warm start the rate rises
over `warmup` steps, as under ReLoRA. The default of s is ReLoRA's, too.
"""

from __future__ import annotations

from pydantic import Field

from lowrank.methods import METHODS, Method, Options
from lowrank.methods.base import rising
from lowrank.methods.relora import ReLora


class Adapter(Options):
    """Settings."""

    warmup: int = Field(
        100, ge=0, description="Steps over which the rate rises after a warm start."
    )
    scale: float = Field(0.25, gt=0, description="s, alpha over rank.")


class Lora(ReLora):
    """W + s U V^T with W frozen: one update of rank r, never merged."""

    def at(self) -> range:
        """Never."""
        return range(0)

    def rate(self, step: int, rate: float) -> float:
        """Up after a warm start."""
        start = self.spec.switch_step
        return rising(rate, step - start, self.options.warmup) if 0 < start <= step else rate


METHODS.add("lora", Method("LoRA", "arXiv 2106.09685", Lora, Adapter, warm=True))
