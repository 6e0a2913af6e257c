"""A throw-away method as a user would write it, after ReLoRA (Lialin et al. 2023, arXiv 2307.05695).

W = W0 + U V^T with W0 frozen. Every `every` steps the product is merged into W0, U starts at zero and V
anew, the factors' moments are forgotten, and the rate is warmed up over `warmup` steps.
"""

import torch
from torch import nn

from lowrank.factor.convert import choose_rank, layer_seed, place
from lowrank.factor.layers import from_dense
from lowrank.methods import METHODS, Method, Options
from lowrank.methods.base import Life, select_targets


class Restart(Options):
    every: int = 4
    warmup: int = 2


class Restarted(nn.Module):
    """y = x W0^T + (x V) U^T + b."""

    def __init__(self, dense, rank):
        super().__init__()
        self.weight = nn.Parameter(dense.weight.detach().clone(), requires_grad=False)
        self.bias = dense.bias
        self.low = from_dense(dense, rank)
        self.low.bias = None

    def forward(self, x):
        return nn.functional.linear(x, self.weight, self.bias) + self.low(x)

    def dense_weight(self):
        return self.weight + self.low.dense_weight()


class RestartLife(Life):
    def convert(self, model):
        factor = self.spec.factors
        for target in select_targets(model, self.spec.model, factor):
            dense = model.get_submodule(target.name)
            m, n = dense.weight.shape
            rank = choose_rank(m, n, factor.rank_fraction, factor.rank_multiple)
            place(model, target.name, layer := Restarted(dense, rank))
            if not dense.weight.is_meta:
                self.draw(target.name, layer, 0)

    @torch.no_grad()
    def draw(self, name, layer, step):
        draw = torch.Generator().manual_seed(layer_seed(self.spec.seed, f"{name}@{step}"))
        low = layer.low
        low.set_factors(torch.zeros_like(low.U), torch.randn(low.V.shape, generator=draw) * 0.1)

    def at(self):
        return range(self.options.every, self.spec.training.steps, self.options.every)

    @torch.no_grad()
    def event(self, run):
        for name, layer in run.model.named_modules():
            if isinstance(layer, Restarted):
                layer.weight += layer.low.dense_weight()
                self.draw(name, layer, run.step)
                run.optimizer.reset([layer.low.U, layer.low.V])

    def rate(self, step, rate):
        since = step % self.options.every
        return (
            rate * min(1.0, (since + 1) / self.options.warmup)
            if step >= self.options.every
            else rate
        )


METHODS.add("restart", Method("restart", "arXiv 2307.05695", RestartLife, Restart))
