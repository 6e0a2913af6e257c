"""Every parameter decays as its group says, and steps are those of AdamW and SGD written out."""

from __future__ import annotations

import math

import pytest
import torch
from runs import FACTORS, language_run
from torch import nn

from lowrank.errors import LowrankError
from lowrank.experiment.build import build_model
from lowrank.experiment.sections import DecaySpec, TrainingSpec
from lowrank.factor.convert import factorize_model
from lowrank.factor.decay import DECAYS
from lowrank.factor.layers import from_dense
from lowrank.optimizers.base import Group, parameter_groups
from lowrank.train.optimizer import Optimizer, decay_strength

RATE = 0.1


def training(**changes) -> TrainingSpec:
    return TrainingSpec(
        **{
            "steps": 10,
            "batch": 1,
            "learning_rate": RATE,
            "clip": None,
            "weight_decay": 0.3,
            **changes,
        }
    )


class Small(nn.Module):
    """One parameter of each sort: an embedding, a dense matrix with its bias, factors, a gain."""

    def __init__(self) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(0)
        self.embedding = nn.Embedding(3, 2)
        self.dense = nn.Linear(2, 3)
        self.low = from_dense(nn.Linear(3, 4), 2)
        self.low.set_factors(torch.randn(4, 2, generator=draw), torch.randn(3, 2, generator=draw))
        self.norm = nn.LayerNorm(4)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=draw))


def gradients(model: nn.Module, seed: int = 1) -> dict[str, torch.Tensor]:
    """Give every parameter a gradient; returns copies."""
    draw = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=draw)
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def values(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def assert_close(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name in found:
        assert found[name].double() == pytest.approx(expected[name].double(), rel=2e-6, abs=2e-7), (
            name
        )


# Groups


def test_groups_of_a_factorised_gpt2_by_name():
    """The tied head is its embedding; positions are an embedding; the layers left dense are matrices."""
    factors = FACTORS.model_copy(update={"layers": ("attention",)})
    groups = parameter_groups(build_model(language_run(factors=factors), 50))
    block = "transformer.h.0"
    assert set(groups["factors"]) == {
        f"{block}.attn.{layer}.{side}" for layer in ("c_attn", "c_proj") for side in "UV"
    }
    assert set(groups["matrices"]) == {f"{block}.mlp.c_fc.weight", f"{block}.mlp.c_proj.weight"}
    norms = [f"{block}.ln_1", f"{block}.ln_2", "transformer.ln_f"]
    layers = [
        f"{block}.{layer}" for layer in ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")
    ]
    assert set(groups["vectors"]) == {
        *("transformer.wte.weight", "transformer.wpe.weight"),
        *(f"{name}.{leaf}" for name in norms for leaf in ("weight", "bias")),
        *(f"{name}.bias" for name in layers),
    }


def test_convolutions_are_matrices_and_their_factors_are_factors():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3))
    factorize_model(model, {"2": 1.0}, rank_fraction=0.5, rank_multiple=1)
    groups = parameter_groups(model)
    assert {name: set(named) for name, named in groups.items()} == {
        "matrices": {"0.weight"},
        "vectors": {"0.bias", "1.weight", "1.bias", "2.bias"},
        "factors": {"2.U", "2.V"},
    }


# Decay


@pytest.mark.parametrize(
    ("decay", "spec", "expected"),
    [
        ({}, {}, 0.3),
        ({"coupled": True}, {}, 0.3),
        ({"coupled": True}, {"coupled_decay": 0.02}, 0.02),
        ({"coupled": True}, {"coupled_decay": 0.0}, 0.0),
        ({"coupled": False}, {"coupled_decay": 0.02}, 0.3),
        ({"coupled": True, "strength": 0.7}, {"coupled_decay": 0.02}, 0.7),
        ({"strength": 0.0}, {}, 0.0),
    ],
)
def test_the_strength_of_a_decay(decay, spec, expected):
    assert decay_strength(DecaySpec(**decay), training(**spec)) == expected


def decay_gradient(
    kind: str, U: torch.Tensor, V: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradients of the penalty, by automatic differentiation of its definition."""
    U, V = U.clone().requires_grad_(), V.clone().requires_grad_()
    penalty = {
        "none": lambda: 0 * (U.sum() + V.sum()),
        "l2": lambda: (U.square().sum() + V.square().sum()) / 2,
        "frobenius": lambda: (U @ V.T).square().sum() / 2,
    }[kind]()
    return torch.autograd.grad(penalty, (U, V))


@pytest.mark.parametrize("coupled", [False, True])
@pytest.mark.parametrize("kind", ["none", "l2", "frobenius"])
def test_one_step_of_sgd_with_every_decay(kind, coupled):
    model = Small()
    decay = DecaySpec(kind=kind, coupled=coupled, strength=None if not coupled else 0.05)
    optimizer = Optimizer(model, training(optimizer="sgd", momentum=0.0, coupled_decay=0.02), decay)
    before, grads = values(model), gradients(model)
    optimizer.step(RATE, optimizer.clip_gradients())
    at_U, at_V = decay_gradient(kind, before["low.U"], before["low.V"])
    strength = 0.05 if coupled else 0.3
    expected = {name: before[name] - RATE * grads[name] for name in before}
    expected["dense.weight"] = before["dense.weight"] - RATE * (
        grads["dense.weight"] + 0.3 * before["dense.weight"]
    )
    expected["low.U"] = before["low.U"] - RATE * (grads["low.U"] + strength * at_U)
    expected["low.V"] = before["low.V"] - RATE * (grads["low.V"] + strength * at_V)
    assert_close(values(model), expected)
    assert all(parameter.grad is None for parameter in model.parameters())


def adam(grads: list[torch.Tensor], betas: tuple[float, float]) -> torch.Tensor:
    """Adam's last update for a rate of 1 (Kingma and Ba 2015)."""
    m, v = torch.zeros_like(grads[0]), torch.zeros_like(grads[0])
    for grad in grads:
        m = betas[0] * m + (1 - betas[0]) * grad
        v = betas[1] * v + (1 - betas[1]) * grad**2
    t = len(grads)
    return m / (1 - betas[0] ** t) / ((v / (1 - betas[1] ** t)).sqrt() + 1e-8)


@pytest.mark.parametrize("coupled", [False, True])
def test_steps_of_adamw(coupled):
    """Decoupled: decay off the weights. Coupled: decay within the gradient that Adam rescales."""
    model, betas = Small(), (0.8, 0.9)
    decay = DecaySpec(kind="l2", coupled=coupled)
    optimizer = Optimizer(model, training(betas=betas, coupled_decay=0.5), decay)
    expected, history = values(model), {name: [] for name in values(model)}
    for step, rate in enumerate((0.1, 0.05, 0.2)):
        for name, grad in gradients(model, seed=step).items():
            factor = name in ("low.U", "low.V")
            history[name].append(grad + 0.5 * expected[name] if factor and coupled else grad)
            decays = 0.3 if name == "dense.weight" or (factor and not coupled) else 0.0
            expected[name] = (1 - rate * decays) * expected[name] - rate * adam(
                history[name], betas
            )
        optimizer.step(rate, optimizer.clip_gradients())
    assert_close(values(model), expected)


@pytest.mark.parametrize("nesterov", [False, True])
def test_steps_of_sgd_with_momentum(nesterov):
    model = Small()
    optimizer = Optimizer(
        model, training(optimizer="sgd", momentum=0.7, nesterov=nesterov, weight_decay=0.0), None
    )
    expected, buffer = values(model), {}
    for step in range(3):
        for name, grad in gradients(model, seed=step).items():
            buffer[name] = 0.7 * buffer[name] + grad if name in buffer else grad
            update = grad + 0.7 * buffer[name] if nesterov else buffer[name]
            expected[name] = expected[name] - RATE * update
        optimizer.step(RATE, optimizer.clip_gradients())
    assert_close(values(model), expected)


def test_groups_move_at_their_own_share_of_the_rate():
    model = Small()
    named = dict(model.named_parameters())
    slow = {name: named.pop(name) for name in ("low.U", "norm.weight")}
    groups = [Group("slow", slow, rate_factor=0.25), Group("rest", named)]
    spec = training(optimizer="sgd", momentum=0.0)
    optimizer = Optimizer(model, spec, None, groups)
    before, grads = values(model), gradients(model)
    optimizer.step(RATE, optimizer.clip_gradients())
    assert_close(
        values(model),
        {n: v - RATE * (0.25 if n in slow else 1.0) * grads[n] for n, v in before.items()},
    )


def test_no_decay_section_means_no_decay_of_factors():
    assert Optimizer(Small(), training(), None).factor_decay.kind == "none"


def test_factors_that_are_not_trained_do_not_decay_and_half_of_a_pair_is_refused():
    model, decay = Small(), DecaySpec(kind="l2")
    model.low.V.requires_grad_(False)
    with pytest.raises(LowrankError, match="one factor of low is not trained, and l2 moves both"):
        Optimizer(model, training(), decay)
    model.low.U.requires_grad_(False)
    optimizer, before = Optimizer(model, training(), decay), values(model)
    gradients(model)
    optimizer.step(RATE, optimizer.clip_gradients())
    moved = {name for name, tensor in values(model).items() if not tensor.equal(before[name])}
    assert moved == set(before) - {"low.U", "low.V"}
    model.low.U.requires_grad_(True)
    assert not Optimizer(model, training(), DecaySpec(kind="none")).factors


def test_a_decay_of_ones_own_is_tried_on_weights_that_are_finite_and_whole(monkeypatch):
    """What it returns is looked at where that tells something of the decay: not where the weights are
    spoilt, nor where they are cut over devices."""
    monkeypatch.setitem(DECAYS, "spoilt", lambda U, V: (U * math.inf, V))
    model, decay = Small(), DecaySpec(kind="spoilt")
    with pytest.raises(LowrankError, match=r"'spoilt' .*returned NaN or infinity for U"):
        Optimizer(model, training(), decay)
    Optimizer(model, training(), decay, sharded=True)
    with torch.no_grad():
        model.low.V[0, 0] = math.nan
    Optimizer(model, training(), decay)


# Clipping


def test_gradients_above_the_limit_are_scaled_to_it_and_the_norm_before_is_told():
    model = Small()
    grads = gradients(model)
    norm = math.sqrt(sum(float(g.square().sum()) for g in grads.values()))
    assert float(Optimizer(model, training(clip=None), None).clip_gradients()) == pytest.approx(
        norm
    )
    assert all(p.grad.equal(grads[name]) for name, p in model.named_parameters())
    assert float(Optimizer(model, training(clip=2 * norm), None).clip_gradients()) == pytest.approx(
        norm
    )
    assert all(p.grad.equal(grads[name]) for name, p in model.named_parameters())
    assert float(Optimizer(model, training(clip=norm / 4), None).clip_gradients()) == pytest.approx(
        norm
    )
    for name, parameter in model.named_parameters():
        assert parameter.grad == pytest.approx(grads[name] / 4, rel=1e-4)


def test_a_parameter_without_a_gradient_is_an_error():
    model = Small()
    gradients(model)
    model.norm.bias.grad = None
    with pytest.raises(AssertionError, match="no gradient"):
        Optimizer(model, training(), None).clip_gradients()


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_nothing_moves_where_a_gradient_is_not_finite(value):
    model = Small()
    optimizer = Optimizer(model, training(), DecaySpec(kind="l2"))
    before = values(model)
    gradients(model)
    model.dense.bias.grad[0] = value
    optimizer.step(RATE, optimizer.clip_gradients())
    assert all(tensor.equal(before[name]) for name, tensor in values(model).items())
    assert not optimizer.state()


# State


@pytest.mark.parametrize("kind", ["adamw", "sgd"])
def test_an_optimiser_with_a_loaded_state_goes_on_to_the_bit(kind):
    """The state is keyed by names, so a rebuilt model takes it over; it is copied, not shared."""
    models = [Small(), Small()]
    spec = training(optimizer=kind)
    first = Optimizer(models[0], spec, DecaySpec())
    for step in range(2):
        gradients(models[0], seed=step)
        first.step(RATE, first.clip_gradients())
    state = {name: tensor.clone() for name, tensor in first.state().items()}
    keys = ("exp_avg", "exp_avg_sq", "step") if kind == "adamw" else ("momentum_buffer",)
    assert set(state) == {
        f"{name}/{key}" for name, _ in models[0].named_parameters() for key in keys
    }
    models[1].load_state_dict(models[0].state_dict())
    second = Optimizer(models[1], spec, DecaySpec())
    given = {name: tensor.clone() for name, tensor in state.items()}
    second.load_state({**given, "gone.weight/exp_avg": torch.ones(1)})
    for model, optimizer in zip(models, (first, second), strict=True):
        gradients(model, seed=7)
        optimizer.step(RATE, optimizer.clip_gradients())
    assert all(
        a.equal(b)
        for a, b in zip(values(models[0]).values(), values(models[1]).values(), strict=True)
    )
    assert all(given[name].equal(state[name]) for name in state)


def test_bytes_of_state_are_weights_gradients_and_moments():
    model = Small()
    count = sum(parameter.numel() for parameter in model.parameters())
    for kind, moments, steps in (("adamw", 2, 1), ("sgd", 1, 0)):
        optimizer = Optimizer(model, training(optimizer=kind), None)
        assert optimizer.state_bytes() == 4 * 2 * count
        gradients(model)
        optimizer.step(RATE, optimizer.clip_gradients())
        counters = steps * len(list(model.parameters()))
        assert optimizer.state_bytes() == 4 * ((2 + moments) * count + counters)


def test_weights_that_are_not_trained_need_no_gradient():
    model = Small()
    still = next(p for p in model.parameters() if p.ndim == 2).requires_grad_(False)
    count = sum(parameter.numel() for parameter in model.parameters())
    optimizer = Optimizer(model, training(), None)
    assert optimizer.state_bytes() == 4 * (2 * count - still.numel())
