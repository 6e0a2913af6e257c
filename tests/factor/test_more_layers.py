"""Convolutions in one and three dimensions, embeddings, and layers of one weight."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lowrank.errors import LowrankError
from lowrank.factor.convert import factorize_model, factors, parameter_count, to_dense
from lowrank.factor.layers import (
    FactorizedConv,
    FactorizedEmbedding,
    FactorizedLinear,
    can_factorize,
    from_dense,
    matricise,
)
from lowrank.factor.truncate import input_moments, squared_gradients, truncate_model

pytestmark = pytest.mark.filterwarnings("ignore:At their rank")

CONVOLUTIONS = {
    "1d": (lambda: nn.Conv1d(4, 6, 3), (2, 4, 9)),
    "1d, all options": (
        lambda: nn.Conv1d(4, 6, 3, stride=2, padding=2, dilation=2, groups=2, bias=False),
        (2, 4, 11),
    ),
    "1d, same": (lambda: nn.Conv1d(4, 6, 4, padding="same"), (2, 4, 9)),
    "1d, one kernel": (lambda: nn.Conv1d(4, 6, 1), (2, 4, 9)),
    "3d": (lambda: nn.Conv3d(2, 5, (2, 3, 1)), (2, 2, 4, 5, 3)),
    "3d, all options": (
        lambda: nn.Conv3d(4, 6, 2, stride=(1, 2, 1), padding=1, dilation=(1, 1, 2), groups=2),
        (2, 4, 4, 5, 4),
    ),
}


def made(name: str) -> tuple[nn.Module, torch.Tensor]:
    build, shape = CONVOLUTIONS[name]
    torch.manual_seed(0)
    return build().double(), torch.randn(shape, dtype=torch.float64)


def spectral(layer: nn.Module, rank: int) -> nn.Module:
    holder = nn.Sequential(layer)
    factorize_model(holder, {"0": 1.0}, ranks={"0": rank})
    return holder[0]


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_full_rank_is_the_dense_convolution(name):
    dense, x = made(name)
    wanted = dense(x)
    layer = spectral(dense, min(matricise(dense).shape[-2:]))
    assert isinstance(layer, FactorizedConv) and layer.dense_name == type(dense).__name__
    torch.testing.assert_close(layer(x), wanted)


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_a_convolution_and_its_dense_equal_compute_the_same(name):
    dense, x = made(name)
    layer = spectral(dense, 2)
    again = layer.to_dense()
    assert type(again) is type(dense) and repr(again) == repr(dense)
    torch.testing.assert_close(again(x), layer(x))
    assert torch.linalg.matrix_rank(matricise(again)).max() == 2
    torch.testing.assert_close(again.bias, dense.bias)


def test_factors_of_a_convolution_are_what_they_say_by_hand():
    """Rank 1: one channel that adds pairs of neighbours, written to two channels as 3 and -1 times."""
    layer = from_dense(nn.Conv1d(1, 2, 2), 1)
    layer.set_factors(torch.tensor([[3.0], [-1.0]]), torch.tensor([[1.0], [1.0]]))
    with torch.no_grad():
        layer.bias.copy_(torch.tensor([0.5, 0.0]))
    x = torch.tensor([[[1.0, 2.0, 4.0]]])
    assert torch.equal(layer(x), torch.tensor([[[9.5, 18.5], [-3.0, -6.0]]]))


@pytest.mark.parametrize("kind", [nn.Conv1d, nn.Conv3d])
def test_a_convolution_of_other_padding_or_reading_is_refused(kind):
    with pytest.raises(LowrankError, match="padding_mode 'circular' and cannot be factorised"):
        from_dense(kind(2, 2, 3, padding=1, padding_mode="circular"), 1)
    with pytest.raises(LowrankError, match=f"A {kind.__name__} has no spatial matricisation"):
        from_dense(kind(2, 2, 3), 1, "spatial")


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_moments_of_a_convolution_are_those_of_its_patches(name):
    """|W x|^2 over all outputs is the trace of W M W^T."""
    dense, x = made(name)
    dense.bias = None
    moment = input_moments(dense, {"": dense}, "channel", [x], lambda model, x: model(x))[""]
    weight = matricise(dense)
    power = torch.einsum("...ij,...jk,...ik->", weight, moment, weight)
    torch.testing.assert_close(power, dense(x).square().sum())


@pytest.mark.parametrize("method", ["plain", "whitened", "fisher"])
@pytest.mark.parametrize("name", ["1d, all options", "3d"])
def test_a_convolution_of_low_rank_survives_truncation(name, method):
    dense, x = made(name)
    model = nn.Sequential(spectral(dense, 2).to_dense())
    wanted = model(x)
    loss = lambda model, x: model(x).square().sum()  # noqa: E731
    truncate_model(model, {"0": 1.0}, method=method, ranks={"0": 2}, batches=[x], loss=loss)
    torch.testing.assert_close(model(x), wanted)


def test_an_embedding_looks_up_factors():
    torch.manual_seed(0)
    dense = nn.Embedding(7, 4, padding_idx=2)
    layer = spectral(dense, 4)
    numbers = torch.tensor([[0, 2, 6], [5, 5, 1]])
    assert isinstance(layer, FactorizedEmbedding) and layer.matrix_shape == (4, 7)
    torch.testing.assert_close(layer(numbers), dense(numbers), atol=1e-6, rtol=1e-5)
    layer(numbers).square().sum().backward()
    assert (layer.V.grad[2] == 0).all() and (layer.V.grad[5] != 0).all()
    again = layer.to_dense()
    assert repr(again) == repr(dense)
    torch.testing.assert_close(again.weight, dense.weight, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    "option", [{"max_norm": 1.0}, {"scale_grad_by_freq": True}, {"sparse": True}]
)
def test_an_embedding_that_does_more_is_refused(option):
    with pytest.raises(LowrankError, match=f"has {next(iter(option))}, which its factors"):
        from_dense(nn.Embedding(7, 4, **option), 1)
    assert not can_factorize(nn.Embedding(7, 4, **option))


def test_truncating_an_embedding_weighs_each_row_by_how_often_it_came():
    weight = torch.tensor([[3.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    x = torch.tensor([0] * 1 + [1] * 50 + [2] * 50)
    for method, kept in (("plain", 0), ("whitened", 1)):
        model = nn.Sequential(nn.Embedding.from_pretrained(weight.clone(), freeze=False))
        options = {"batches": [x], "loss": lambda model, x: model(x).sum()}
        truncate_model(model, {"0": 1.0}, method=method, ranks={"0": 1}, **options)
        wanted = torch.zeros(3, 2)
        wanted[:, kept] = weight[:, kept]
        torch.testing.assert_close(model[0].weight, wanted)


def test_squared_gradients_of_an_embedding_are_those_of_its_rows():
    model = nn.Sequential(nn.Embedding(3, 2))
    x = torch.tensor([0, 0, 2])
    found = squared_gradients(
        model, {"0": model[0]}, "channel", [x], lambda model, x: model(x).sum()
    )
    assert found["0"].tolist() == [8.0, 0.0, 2.0]  # two outputs, of gradients 2, 0, 1


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.head = nn.Embedding(9, 4), nn.Linear(4, 9)
        self.head.weight = self.embedding.weight

    def forward(self, numbers):
        return self.head(self.embedding(numbers))


def test_a_tied_pair_shares_its_factors_and_its_weight_again():
    torch.manual_seed(0)
    model, x = Tied(), torch.tensor([0, 3, 8])
    dense = model(x)
    factorize_model(model, {"embedding": 1.0, "head": 1.0}, ranks={"embedding": 4, "head": 4})
    assert isinstance(model.head, FactorizedLinear)
    assert model.embedding.U is model.head.V and model.embedding.V is model.head.U
    assert parameter_count(model) == 4 * (9 + 4) + 9
    torch.testing.assert_close(model(x), dense, atol=1e-5, rtol=1e-4)
    to_dense(model)
    assert not factors(model) and model.head.weight is model.embedding.weight
    torch.testing.assert_close(model(x), dense, atol=1e-5, rtol=1e-4)


def test_layers_of_one_weight_have_one_rank():
    model = Tied()
    with pytest.raises(LowrankError, match="cannot have the ranks 3 and 2"):
        factorize_model(model, {"embedding": 1.0, "head": 1.0}, ranks={"embedding": 2, "head": 3})
    with pytest.raises(LowrankError, match="or name all that share it"):
        factorize_model(model, {"embedding": 1.0}, ranks={"embedding": 2})
    assert not factors(model)


def test_a_tied_pair_is_truncated_for_what_its_head_reads():
    torch.manual_seed(0)
    model, alone = Tied(), Tied()
    alone.load_state_dict(model.state_dict())
    alone.head.weight = nn.Parameter(model.head.weight.detach().clone())
    x = torch.tensor([0, 3, 8, 8])
    options = {
        "method": "whitened",
        "batches": [x],
        "loss": lambda model, x: F.cross_entropy(model(x), x),
    }
    truncate_model(model, {"embedding": 1, "head": 1}, ranks={"embedding": 2, "head": 2}, **options)
    truncate_model(alone, {"head": 1}, ranks={"head": 2}, **options)
    torch.testing.assert_close(model.head.weight, alone.head.weight)


def test_one_layer_at_two_places_stays_one():
    torch.manual_seed(0)
    layer = nn.Linear(4, 4)
    model, x = nn.Sequential(layer, nn.ReLU(), layer), torch.randn(3, 4)
    dense = model(x)
    factorize_model(model, {"0": 1.0, "2": 1.0}, ranks={"0": 4, "2": 4})
    assert model[0].U is model[2].U and model[0].bias is model[2].bias
    torch.testing.assert_close(model(x), dense)
    to_dense(model)
    assert model[0].weight is model[2].weight
