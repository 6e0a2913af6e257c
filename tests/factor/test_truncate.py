"""Post-hoc truncation: each method is best by its own measure, at equal kept parameters."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lowrank.errors import LowrankError
from lowrank.factor.convert import factorize_model, factors, parameter_count
from lowrank.factor.layers import matricise
from lowrank.factor.truncate import TRUNCATIONS, truncate_model, truncation

METHODS = sorted(TRUNCATIONS)


def images_loss(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    return F.cross_entropy(model(batch[0]), batch[1])


def text_loss(model: nn.Module, batch: torch.Tensor) -> torch.Tensor:
    return model(batch, labels=batch).loss


def mlp(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Linear(12, 20), nn.Tanh(), nn.Linear(20, 16), nn.Tanh(), nn.Linear(16, 4)
    )


def calibration(directions: int = 12) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Batches whose inputs have very uneven variances, on so many directions."""
    generator = torch.Generator().manual_seed(1)
    spread = torch.logspace(1, -2, 12) * (torch.arange(12) < directions)
    x = torch.randn(96, 12, generator=generator) * spread
    mix = torch.linalg.qr(torch.randn(12, 12, generator=generator)).Q
    y = torch.randint(4, (96,), generator=generator)
    return list(zip((x @ mix).split(32), y.split(32), strict=True))


def truncated(method: str, model: nn.Module, names: dict[str, float], **options) -> nn.Module:
    model = copy.deepcopy(model)
    options = {"rank_fraction": 0.4, "rank_multiple": 1, "loss": images_loss, **options}
    assert truncate_model(model, names, method=method, **options) == list(names)
    return model


def error_on(dense: nn.Linear, layer: nn.Module, x: torch.Tensor) -> float:
    gap = (matricise(dense) - layer.product()).double()
    return (x.double() @ gap.T).norm().item()


def test_plain_is_the_singular_value_decomposition():
    model = mlp()
    names = {"0": 1.0, "2": 1.0}
    result = truncated("plain", model, names)
    reference = copy.deepcopy(model)
    factorize_model(reference, names, rank_fraction=0.4, rank_multiple=1, init="spectral")
    for name in names:
        s = torch.linalg.svdvals(model.get_submodule(name).weight)
        layer = result.get_submodule(name)
        gap = (model.get_submodule(name).weight - layer.product()).norm()
        torch.testing.assert_close(gap, s[layer.rank :].square().sum().sqrt())
        torch.testing.assert_close(layer.product(), reference.get_submodule(name).product())


def test_whitened_minimises_the_error_on_the_calibration_activations():
    model, batches = mlp(), calibration()
    x = torch.cat([batch[0] for batch in batches])
    layers = {
        method: truncated(method, model, {"0": 1.0}, batches=batches)[0] for method in METHODS
    }
    errors = {method: error_on(model[0], layer, x) for method, layer in layers.items()}
    assert errors["whitened"] < 0.5 * errors["plain"]
    assert errors["whitened"] < errors["fisher"]
    # The best that any matrix of this rank can do: Eckart and Young on the outputs themselves.
    s = torch.linalg.svdvals(x.double() @ model[0].weight.double().T)
    assert errors["whitened"] == pytest.approx(s[layers["whitened"].rank :].norm().item(), rel=1e-4)


def test_fisher_minimises_the_error_weighed_by_squared_gradients_of_each_input():
    model, batches = mlp(), calibration()
    weight = model[2].weight
    information = torch.zeros(20, dtype=torch.float64)
    for batch in batches:
        (gradient,) = torch.autograd.grad(images_loss(model, batch), weight)
        information += gradient.double().square().sum(0)
    layers = {
        method: truncated(method, model, {"2": 1.0}, batches=batches)[2] for method in METHODS
    }
    errors = {
        m: error_on(model[2], layer, information.sqrt().diag()) for m, layer in layers.items()
    }
    assert errors["fisher"] < 0.99 * errors["plain"]
    assert errors["fisher"] < errors["whitened"]
    s = torch.linalg.svdvals(weight.double() * information.sqrt())
    assert errors["fisher"] == pytest.approx(s[layers["fisher"].rank :].norm().item(), rel=1e-4)


@pytest.mark.parametrize(
    ("method", "matricisation"),
    # Whitening the spatial matricisation is refused, see below.
    [(m, v) for m in METHODS for v in ("channel", "spatial") if (m, v) != ("whitened", "spatial")],
)
def test_every_method_keeps_the_model_at_full_rank(convnet, images, method, matricisation):
    convnet.eval()
    batches = [(images, torch.arange(20) % 10)]
    with pytest.warns(UserWarning, match="At their rank"):
        result = truncated(
            method,
            convnet,
            {"3": 1.0, "5": 1.0, "7": 1.0},
            batches=batches,
            rank_fraction=1.0,
            matricisation=matricisation,
        )
    torch.testing.assert_close(result(images), convnet(images), rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:At their rank")
@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(3, 8, (3, 2), stride=(1, 2), padding=(1, 0), dilation=(2, 1)),
        nn.Conv2d(3, 8, 4, padding="same"),
        nn.Conv2d(6, 8, 3, groups=2),
    ],
)
def test_whitening_a_convolution_minimises_the_error_of_its_outputs(conv):
    torch.manual_seed(0)
    x = torch.randn(20, conv.in_channels, 9, 8).cumsum(-1).cumsum(-2)
    model = nn.Sequential(conv)
    error = {}
    for method in ("plain", "whitened"):
        result = truncated(
            method,
            model,
            {"0": 1.0},
            batches=[x[:17], x[17:]],
            loss=lambda model, batch: model(batch).sum(),
            rank_fraction=0.5,
        )
        gap = result[0].product()
        error[method] = (result(x) - model(x)).double().square().sum().item()
    assert error["whitened"] < 0.7 * error["plain"]
    # Eckart and Young on the outputs without bias, each group by itself.
    outputs = (model(x) - (conv.bias[:, None, None])).double().transpose(0, 1).flatten(1)
    groups = outputs.unflatten(0, (conv.groups, -1))
    best = torch.linalg.svdvals(groups)[:, result[0].rank :].square().sum().item()
    assert gap.ndim == (2 if conv.groups == 1 else 3)
    assert error["whitened"] == pytest.approx(best, rel=1e-3)


def test_every_method_keeps_equally_many_parameters_and_balances_its_factors():
    model, batches = mlp(), calibration()
    results = [truncated(m, model, {"0": 1.0, "2": 1.0}, batches=batches) for m in METHODS]
    assert len({parameter_count(result) for result in results}) == 1
    for result in results:
        for layer in factors(result).values():
            gram = layer.U.T @ layer.U
            torch.testing.assert_close(gram, layer.V.T @ layer.V, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_gpt2_is_truncated_with_small_damage(gpt2, scales, tokens, method):
    gpt2.eval()
    dense = gpt2(tokens).logits
    result = truncated(method, gpt2, scales(gpt2), batches=[tokens[:1], tokens[1:]], loss=text_loss)
    assert len(factors(result)) == 8
    assert 0 < (result(tokens).logits - dense).norm() < 0.3 * dense.norm()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("directions", [0, 1, 3])
def test_inputs_that_span_too_few_directions_do_no_harm(method, directions):
    model, batches = mlp(), calibration(directions)
    x = torch.cat([batch[0] for batch in batches])
    result = truncated(method, model, {"0": 1.0}, batches=batches)
    assert result[0].product().isfinite().all()
    if method == "whitened":
        # Rank 5 holds all of 3 directions, and what remains follows the weight itself.
        scale = max(error_on(model[0], nn_zero(result[0]), x), 1e-9)
        assert error_on(model[0], result[0], x) < 1e-4 * scale
        assert torch.linalg.matrix_rank(result[0].product()) == 5


@pytest.mark.parametrize("unit", [1e-14, 1e14])
@pytest.mark.parametrize("method", ["whitened", "fisher"])
def test_the_unit_of_the_data_changes_nothing(method, unit):
    draw = torch.Generator().manual_seed(0)
    weight = torch.randn(6, 8, generator=draw, dtype=torch.float64)
    inputs = (
        torch.randn(8, 40, generator=draw, dtype=torch.float64) * torch.logspace(0, -3, 8)[:, None]
    )
    moment = inputs @ inputs.T
    statistic = moment if method == "whitened" else moment.diagonal()
    products = [
        U @ V.mT
        for scale in (1.0, unit)
        for U, V in [TRUNCATIONS[method].factorize(weight, 3, scale * statistic)]
    ]
    torch.testing.assert_close(products[1], products[0])


def nn_zero(layer: nn.Module) -> nn.Module:
    empty = copy.deepcopy(layer)
    empty.set_factors(torch.zeros_like(layer.U), torch.zeros_like(layer.V))
    return empty


def test_a_moment_that_cholesky_refuses_falls_back_on_its_eigenvalues(monkeypatch):
    model, batches = mlp(), calibration()
    usual = truncated("whitened", model, {"0": 1.0}, batches=batches)[0].product()
    called = []

    def refuse(matrix):
        called.append(1)
        return torch.full_like(matrix, float("nan")), torch.tensor(1)

    monkeypatch.setattr(torch.linalg, "cholesky_ex", refuse)
    result = truncated("whitened", model, {"0": 1.0}, batches=batches)[0].product()
    assert called
    torch.testing.assert_close(result, usual, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_truncation_survives_an_svd_that_does_not_converge(monkeypatch, method):
    model, batches = mlp(), calibration()
    usual = truncated(method, model, {"0": 1.0}, batches=batches)[0].product()

    def refuse(*args, **kwargs):
        raise torch.linalg.LinAlgError("did not converge")

    monkeypatch.setattr(torch.linalg, "svd", refuse)
    result = truncated(method, model, {"0": 1.0}, batches=batches)[0].product()
    torch.testing.assert_close(result, usual, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_calibration_leaves_modes_statistics_gradients_and_hooks_alone(convnet, images, method):
    convnet.train()
    dense = convnet[5]
    dense.weight.requires_grad_(False)
    convnet[0].weight.grad = torch.ones_like(convnet[0].weight)
    before = {n: v.clone() for n, v in convnet.state_dict().items() if not n.startswith("5.")}
    truncate_model(
        convnet,
        {"5": 1.0},
        method=method,
        rank_fraction=0.3,
        rank_multiple=1,
        batches=[(images, torch.arange(20) % 10)],
        loss=images_loss,
    )
    assert convnet.training
    assert convnet[1].training
    state = convnet.state_dict()
    assert all(torch.equal(state[name], value) for name, value in before.items())
    assert torch.equal(convnet[0].weight.grad, torch.ones_like(convnet[0].weight))
    assert convnet[3].weight.grad is None
    assert not convnet[5].U.requires_grad
    assert not dense.weight.requires_grad
    assert not dense._forward_pre_hooks


def refused(match: str, model: nn.Module, names: dict[str, float], **options) -> None:
    before = repr(model)
    options = {"rank_fraction": 0.4, "rank_multiple": 1, "loss": images_loss, **options}
    with pytest.raises(LowrankError, match=match):
        truncate_model(model, names, **options)
    assert repr(model) == before


def test_what_cannot_be_truncated_is_an_error_and_leaves_the_model_alone(convnet, images):
    batches = [(images, torch.arange(20) % 10)]
    conv = {"3": 1.0}
    refused("did you mean 'whitened'", convnet, conv, method="whitend", batches=batches)
    refused(
        "use 'channel'", convnet, conv, method="whitened", batches=batches, matricisation="spatial"
    )
    for method in ("whitened", "fisher"):
        refused("No calibration batch reached layer '3'", convnet, conv, method=method, batches=[])
        refused("needs calibration batches and a loss", convnet, conv, method=method, loss=None)
        refused("No layer to factorise", convnet, {}, method=method, batches=batches)

        def skipping(model: nn.Module, batch: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
            return model[0](batch[0]).sum()

        refused("reached layer '3'", convnet, conv, method=method, batches=batches, loss=skipping)


def test_a_truncation_entered_twice_is_an_error():
    with pytest.raises(LowrankError, match="truncation 'plain' is defined twice"):
        truncation("plain")(lambda weight, rank, statistic: (weight, weight))


@pytest.mark.filterwarnings("ignore:At their rank")
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("method", ["whitened", "fisher"])
def test_calibration_data_that_are_not_finite_are_said_and_change_nothing(method, bad):
    model, batches = mlp(), calibration()
    batches[1][0][3, 2] = bad
    before = copy.deepcopy(model)
    with pytest.raises(LowrankError, match=f"layer '0' NaN or infinity, of which .*'{method}'"):
        truncate_model(
            model, {"0": 1.0}, method=method, rank_fraction=0.5, batches=batches, loss=images_loss
        )
    assert repr(model) == repr(before)
    with pytest.raises(LowrankError, match="NaN or infinity"):
        TRUNCATIONS[method].factorize(torch.eye(3), 1, torch.full((3, 3), bad))
