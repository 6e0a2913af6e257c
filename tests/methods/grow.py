"""A throw-away method as a user would write it: learnt ranks, after InRank (arXiv 2306.11250).

Factors begin at rank `first`; every `every` steps a layer whose stable rank is above `share` of its
rank gets `more` columns, U's zero, so that the product stays. Old columns keep their moments.
"""

import torch

from lowrank.factor.convert import factors, layer_seed, plan_replacements, replace_layers
from lowrank.factor.layers import FactorizedLinear
from lowrank.factor.spectrum import singular_values, stable_rank
from lowrank.methods import METHODS, Method, Options
from lowrank.methods.base import Life, select_targets


class Grow(Options):
    every: int = 3
    first: int = 2
    more: int = 1
    share: float = 0.3


class GrowLife(Life):
    def __init__(self, spec, options):
        super().__init__(spec, options)
        self.changes = [(0, {})]  # the ranks from each step on; a layer not named has the first

    def convert(self, model):
        self.built(model, self.changes[-1][1])

    def built(self, model, ranks):
        targets = select_targets(model, self.spec.model, self.spec.factors)
        names = [target.name for target in targets]
        for step in plan_replacements(model, names, 1.0, 1, "channel"):
            m, n = step.factorized.matrix_shape
            layer = FactorizedLinear(
                n, m, ranks.get(step.name, self.options.first), step.dense.bias is not None
            )
            layer.U.requires_grad_(True)
            if not step.dense.weight.is_meta:
                draw = torch.Generator().manual_seed(layer_seed(self.spec.seed, step.name))
                layer.set_factors(
                    *(torch.randn(f.shape, generator=draw) * 0.2 for f in (layer.U, layer.V))
                )
            replace_layers(model, [type(step)(step.name, step.dense, layer)])

    def phases(self):
        return [
            (step, lambda model, ranks=ranks: self.built(model, ranks))
            for step, ranks in self.changes
        ]

    def at(self):
        return range(self.options.every, self.spec.training.steps, self.options.every)

    @torch.no_grad()
    def event(self, run):
        state, layers, moved = run.optimizer.state(), {}, {}
        for name, old in factors(run.model).items():
            full, rank = min(old.matrix_shape), old.rank
            if (
                rank == full
                or stable_rank(singular_values(old.U, old.V)) < self.options.share * rank
            ):
                continue
            m, n = old.matrix_shape
            new = FactorizedLinear(n, m, min(full, rank + self.options.more), old.bias is not None)
            draw = torch.Generator().manual_seed(layer_seed(self.spec.seed, f"{name}@{run.step}"))
            more = new.rank - rank
            new.set_factors(
                torch.cat([old.U, torch.zeros(m, more)], 1),
                torch.cat([old.V, torch.randn(n, more, generator=draw) * 0.2], 1),
            )
            new.bias = old.bias
            layers[name] = new
            for side, size in (("U", m), ("V", n)):
                for key in ("exp_avg", "exp_avg_sq"):
                    moved[f"{name}.{side}/{key}"] = torch.cat(
                        [state[f"{name}.{side}/{key}"], torch.zeros(size, more)], 1
                    )
                moved[f"{name}.{side}/step"] = state[f"{name}.{side}/step"]
        if layers:
            run.replace(layers, moved)
            ranks = {name: layer.rank for name, layer in factors(run.model).items()}
            self.changes.append((run.step, ranks))

    def record(self):
        return {"ranks": [[step, ranks] for step, ranks in self.changes]}

    def load_record(self, record):
        self.changes = [(step, ranks) for step, ranks in record["ranks"]]


METHODS.add("grow", Method("grow", "arXiv 2306.11250", GrowLife, Grow))
