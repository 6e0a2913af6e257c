"""What a method may do to a run: `Life`, each of whose hooks does by default what dense training does.

A life is asked at these points, in this order:

- `trunk`: the run whose checkpoint this one begins at; `switch` then converts that model.
- `convert`: builds the layers that are trained from the dense ones, as `record` says they are now. It
  is also called on the meta device, to count, and to load weights into.
- `groups`: the optimiser's parameter groups.
- `start`: once, before the first step.
- `rate`, `before_step`, `update`, `after_step`: at every step; `event`: after the steps in `at`.
- `record` and `state`: what a checkpoint carries, as JSON and as tensors.

Layers may be changed during the run, through `run.replace` alone. A layer that takes a dense one's
place is a `Factorized`, where its weight is U V^T, or any module with `dense_weight()`, its weight in
the dense layer's layout or None where it has none, and `bias`; it may hold a `Factorized`, whose
factors decay as the factor section says. Parameters that need no gradient are not trained.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, cast

import torch
from torch import Tensor, nn

from lowrank import models
from lowrank.errors import LowrankError
from lowrank.factor.convert import (
    Replacement,
    factorize_model,
    factors,
    layer_seed,
    plan_replacements,
)
from lowrank.factor.init import initialise
from lowrank.factor.layers import Factorized, from_dense, matricise
from lowrank.optimizers.base import Group, standard_groups

if TYPE_CHECKING:
    from lowrank.experiment.cell import RunSpec
    from lowrank.experiment.sections import FactorSpec, ModelSpec
    from lowrank.methods import Options
    from lowrank.optimizers import Algorithm

Convert = Callable[[nn.Module], None]


class Run(Protocol):
    """What a method sees of the run in progress."""

    model: nn.Module
    step: int
    """Finished steps."""
    optimizer: Any
    """`step(rate, norm)`; `state()`, `load_state(tensors)` and `reset(parameters)`, by parameter name
    and state name."""
    task: Any
    """`batch(step, part, parts)` and `loss(model, batch)`."""

    def replace(
        self, layers: Mapping[str, nn.Module], state: Mapping[str, Tensor] | None = None
    ) -> None:
        """Put layers, by name, in the place of others. The optimiser keeps the state of parameters
        that stay; new ones have that in `state` (`<parameter>/<name>`), or none."""
        ...


class Life:
    """One run's method; by itself that of dense training."""

    passes = 1
    """How often a step takes gradients."""
    decays_factors = True
    """Whether factors decay as the factor section says."""

    def __init__(self, spec: RunSpec, options: Options) -> None:
        self.spec = spec
        self.options: Any = options

    def convert(self, model: nn.Module) -> None:
        """Turn the dense model into the one that is trained now, in place."""

    def phases(self) -> list[tuple[int, Convert]]:
        """What runs from which step on, the first 0: how a dense model is converted into it."""
        return [(0, self.convert)]

    def expected(self) -> list[tuple[int, Convert]]:
        """The phases as far as they are known before the run; where it decides, those that cost most."""
        return self.phases()

    def groups(self, model: nn.Module) -> list[Group]:
        """The optimiser's groups, which together hold every trained parameter once."""
        family = models.family(self.spec.model.family)
        targets = [target.name for target in family.targets(model)]
        return standard_groups(model, self.spec.training, targets, family.embeddings)

    def trunk(self) -> tuple[RunSpec, int] | None:
        """The run, and the step of it, at which this run begins; None: at a draw of its own."""
        return None

    def switch(
        self, model: nn.Module, state: dict[str, Tensor], roles: Mapping[str, str]
    ) -> dict[str, Tensor]:
        """Convert the trunk's model; returns its optimiser's state as that of the converted one.
        `roles` says what each state tensor is."""
        raise NotImplementedError

    def start(self, run: Run) -> None:
        """Before the first step."""

    def rate(self, step: int, rate: float) -> float:
        """The learning rate of the step after `step` finished ones, where the schedule says `rate`."""
        return rate

    def before_step(self, run: Run) -> None:
        """Before every step."""

    def update(self, run: Run, rate: float, norm: Tensor, again: Callable[[], Tensor]) -> None:
        """Change the weights, where every trained parameter has its gradient and `norm` is that of all
        of them. `again()` takes the gradients of the same batch anew and returns their norm."""
        run.optimizer.step(rate, norm)

    def after_step(self, run: Run) -> None:
        """After every step whose loss and gradients were finite."""

    def at(self) -> Collection[int]:
        """The steps after which `event` is called."""
        return ()

    def event(self, run: Run) -> None:
        """After the steps in `at`; before validation and the checkpoint of that step."""

    def record(self) -> dict[str, Any]:
        """What checkpoint and finished run say of this life in their manifests, such as learnt ranks:
        all that `convert` needs to know. Plain values that JSON has."""
        return {}

    def load_record(self, record: dict[str, Any]) -> None:
        """Take over what `record` returned."""

    def state(self) -> dict[str, Tensor]:
        """Tensors that a checkpoint carries beside the model's and the optimiser's."""
        return {}

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Take over what `state` returned."""


class Ranked(Life):
    """Base of methods that change ranks. `changes` holds the ranks by layer from each step on, the last
    ones being those of now; what a layer is that they do not name is up to the method."""

    def __init__(self, spec: RunSpec, options: Options) -> None:
        super().__init__(spec, options)
        self.changes: list[tuple[int, dict[str, int]]] = [(0, {})]

    def build(self, model: nn.Module, ranks: dict[str, int]) -> None:
        """Factorise the layers that are named, at these ranks, in place."""
        factor, scales = self.spec.factors, {t.name: t.scale for t in self.targets(model)}
        assert factor is not None
        if ranks:
            factorize_model(
                model,
                {name: scales[name] for name in ranks},
                ranks=ranks,
                init=factor.init,
                seed=self.spec.seed,
                matricisation=factor.matricisation,
            )

    def targets(self, model: nn.Module) -> list[models.Target]:
        """The layers that the factor section names."""
        assert self.spec.factors is not None
        return select_targets(model, self.spec.model, self.spec.factors)

    def convert(self, model: nn.Module) -> None:
        """Build the model of now."""
        self.build(model, self.changes[-1][1])

    def phases(self) -> list[tuple[int, Convert]]:
        """A phase for each change."""
        return [(step, partial(self.build, ranks=ranks)) for step, ranks in self.changes]

    def change(
        self,
        run: Run,
        layers: Mapping[str, Factorized],
        state: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Put factorised layers in the place of others, and note all ranks."""
        run.replace(layers, state)
        ranks = {name: layer.rank for name, layer in factors(run.model).items()}
        self.changes.append((run.step, ranks))

    @torch.no_grad()
    def split(self, run: Run, ranks: Mapping[str, int]) -> None:
        """Put balanced factors of their weights' best approximations in the place of dense layers."""
        assert self.spec.factors is not None
        layers = {}
        for name, rank in ranks.items():
            dense, matricisation = run.model.get_submodule(name), self.spec.factors.matricisation
            layers[name] = low = from_dense(dense, rank, matricisation)
            weight = matricise(dense, matricisation)
            low.set_factors(*initialise("spectral", weight, rank, generator(self.spec, name)))
            low.bias = cast(Any, dense.bias)
        self.change(run, layers)

    def record(self) -> dict[str, Any]:
        """The ranks from each step on."""
        return {"ranks": [[step, ranks] for step, ranks in self.changes]}

    def load_record(self, record: dict[str, Any]) -> None:
        """Take over what `record` returned."""
        self.changes = [(step, ranks) for step, ranks in record["ranks"]]


def finite(*tensors: Tensor) -> bool:
    """Whether all are finite: the weights of a run that is about to end as diverged may not be."""
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors)


def rising(rate: float, since: int, over: int) -> float:
    """The rate where it has risen linearly for `since` steps, and reaches `rate` after `over`."""
    return rate * (since + 1) / over if since < over else rate


def moved(
    state: Mapping[str, Tensor], names: Mapping[int, str], model: nn.Module
) -> dict[str, Tensor]:
    """An optimiser's state, of the parameters that the model still has, under the names that they have
    now. `names` says how those of each `id` were called."""
    now = {names[id(p)]: name for name, p in model.named_parameters() if id(p) in names}
    parts = [(*key.rpartition("/"), value) for key, value in state.items()]
    return {f"{now[name]}/{kind}": value for name, _, kind, value in parts if name in now}


def names_of(model: nn.Module) -> dict[int, str]:
    """The name of each parameter, by its `id`."""
    return {id(parameter): name for name, parameter in model.named_parameters()}


def generator(spec: RunSpec, *key: object) -> torch.Generator:
    """Random numbers of a method's own, of the run's seed and a key alone."""
    return torch.Generator().manual_seed(layer_seed(spec.seed, "@".join(map(str, key))))


def by_layer(groups: Iterable[Group], optimizer: Algorithm, **options: Any) -> list[Group]:
    """The groups with that of the factors parted, U and V of each layer in one, and given to an optimiser."""
    found = []
    for group in groups:
        if group.name != "factors":
            found.append(group)
            continue
        for name in [n for n in group.parameters if n.endswith(".U")]:
            layer = name.removesuffix(".U")
            pair = {n: group.parameters[n] for n in (f"{layer}.U", f"{layer}.V")}
            found.append(Group(layer, pair, optimizer=optimizer, options=options))
    return found


def plan(model: nn.Module, spec: RunSpec) -> list[Replacement]:
    """The layers that the factor section names, each with a factorised one that may take its place."""
    factor = spec.factors
    assert factor is not None
    names = [target.name for target in select_targets(model, spec.model, factor)]
    sizes = factor.rank_fraction, factor.rank_multiple, factor.matricisation
    return plan_replacements(model, names, *sizes)


def factorize(model: nn.Module, spec: ModelSpec, factor: FactorSpec, seed: int) -> list[str]:
    """Replace the layers that the factor section names; returns their names."""
    return factorize_model(
        model,
        {target.name: target.scale for target in select_targets(model, spec, factor)},
        rank_fraction=factor.rank_fraction,
        rank_multiple=factor.rank_multiple,
        init=factor.init,
        seed=seed,
        matricisation=factor.matricisation,
    )


def select_targets(model: nn.Module, spec: ModelSpec, factor: FactorSpec) -> list[models.Target]:
    """The layers to factorise: those a pattern of `layers` names, less those of `dense_layers`.

    Patterns match layer names, groups, or the words first_block and last_block.
    """
    targets = models.family(spec.family).targets(model)
    chosen = models.matching(targets, factor.layers, "layers")
    left_out = models.matching(targets, factor.dense_layers, "dense_layers")
    remaining = [target for target in chosen if target not in left_out]
    if not remaining:
        raise LowrankError(
            f"factors: dense_layers {list(factor.dense_layers)} leave no layer to factorise."
        )
    return remaining
