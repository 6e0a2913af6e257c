"""Which layers and what ranks a model's user gets, and what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import lowrank
from lowrank.errors import LowrankError
from lowrank.factor.convert import factors

pytestmark = pytest.mark.filterwarnings("ignore:At their rank")


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x):
        return x + self.down(self.up(x).relu())


class Net(nn.Module):
    """A stem, two blocks and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(10, 32)
        self.blocks = nn.ModuleList(Block(32) for _ in range(2))
        self.head = nn.Linear(32, 20)

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x)


@pytest.fixture
def net() -> Net:
    torch.manual_seed(0)
    return Net()


def ranks(model: nn.Module) -> dict[str, int]:
    return {name: layer.rank for name, layer in factors(model).items()}


BLOCKS = ["blocks.0.up", "blocks.0.down", "blocks.1.up", "blocks.1.down"]


def test_blocks_are_factorised_and_stem_and_head_are_not(net):
    assert ranks(lowrank.factorize(net, rank=0.5)) == dict.fromkeys(BLOCKS, 16)


def test_a_model_without_blocks_keeps_its_first_and_last_layer_dense():
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.Linear(16, 4))
    assert list(ranks(lowrank.factorize(model, rank=2))) == ["2"]
    assert list(ranks(lowrank.factorize(nn.Sequential(nn.Linear(8, 16)), rank=2))) == ["0"]


def test_a_second_call_does_not_take_the_ends_that_the_first_left_dense(net):
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.Linear(16, 4))
    lowrank.factorize(model, rank=2)
    with pytest.raises(LowrankError, match="first or last: name those meant by layers="):
        lowrank.factorize(model, rank=2)
    assert list(ranks(model)) == ["2"]
    assert list(ranks(lowrank.factorize(model, rank=2, layers="0"))) == ["0", "2"]
    net.second = nn.Linear(32, 32)
    lowrank.factorize(net, rank=0.5)
    with pytest.raises(LowrankError, match="name those meant by layers="):
        lowrank.factorize(net, rank=0.5)


def test_patterns_choose_and_leave_out(net):
    lowrank.factorize(net, rank=4, layers=["head", "*.up"], exclude="blocks.1.*")
    assert ranks(net) == {"blocks.0.up": 4, "head": 4}


def test_ranks_go_by_the_first_pattern_that_fits(net):
    lowrank.factorize(net, rank={"blocks.0.*": 3, "*.up": 0.5})
    assert ranks(net) == {"blocks.0.up": 3, "blocks.0.down": 3, "blocks.1.up": 16}


@pytest.mark.parametrize("share", [0.9, 0.5, 0.3, 0.1])
def test_layers_keep_at_most_the_share_asked_for_and_the_next_rank_would_exceed_it(net, share):
    dense = 32 * 128
    lowrank.factorize(net, kept_parameters=share)
    for rank in ranks(net).values():
        assert rank * (32 + 128) <= share * dense
        step = 8 if rank >= 8 else 1
        assert (rank + step) * (32 + 128) > share * dense


def test_a_fraction_is_rounded_to_a_multiple_of_eight(net):
    assert set(ranks(lowrank.factorize(net, rank=0.63)).values()) == {24}  # 20.16


def test_a_single_layer_is_returned_as_its_factorised_equal():
    layer = lowrank.factorize(nn.Linear(8, 6), rank=1.0)
    assert type(layer).__name__ == "FactorizedLinear" and layer.rank == 6
    assert isinstance(lowrank.to_dense(layer), nn.Linear)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "Give either rank or kept_parameters"),
        ({"rank": 0.5, "kept_parameters": 0.5}, "Give either rank or kept_parameters"),
        ({"rank": 33}, "use 1 to 32"),
        ({"rank": 0}, "use 1 to 32"),
        ({"rank": 1.5}, "not a fraction above 0"),
        ({"rank": True}, "not a fraction above 0"),
        ({"rank": "half"}, "not a fraction above 0"),
        ({"rank": float("nan")}, "not a fraction above 0"),
        ({"kept_parameters": 0}, "not a fraction above 0"),
        ({"kept_parameters": 1.01}, "not a fraction above 0"),
        ({"rank": {"encoder.*": 4}}, "match no layer"),
        ({"rank": 4, "layers": "hed"}, "'hed' matches no layer"),
        ({"rank": 4, "exclude": "hed"}, "'hed' matches no layer"),
        ({"rank": 4, "exclude": "*"}, "leave no layer"),
        ({"rank": 4, "method": "lora"}, "lora"),
        ({"rank": 4, "init": "orthogonal"}, "orthogonal"),
        ({"rank": 4, "matricisation": "rows"}, "rows"),
    ],
)
def test_what_does_not_fit_is_said_in_a_sentence_and_changes_nothing(net, options, words):
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(LowrankError, match=words):
        lowrank.factorize(net, **options)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_layers_that_share_a_weight_stay_dense_and_are_refused_by_name(net):
    net.blocks[1].up.weight = net.blocks[0].up.weight
    assert list(ranks(lowrank.factorize(net, rank=4))) == ["blocks.0.down", "blocks.1.down"]
    with pytest.raises(LowrankError, match="shares its weight"):
        lowrank.factorize(net, rank=4, layers="blocks.0.up")


def test_a_model_without_layers_to_factorise_is_refused():
    with pytest.raises(LowrankError, match="no layer to factorise"):
        lowrank.factorize(nn.ReLU(), rank=4)


def test_parametrised_layers_are_not_taken_and_are_refused_by_name(net):
    nn.utils.parametrizations.weight_norm(net.blocks[0].up)
    assert "blocks.0.up" not in ranks(lowrank.factorize(net, rank=4))
    with pytest.raises(LowrankError, match="matches no layer"):
        lowrank.factorize(net, rank=4, layers="blocks.0.up")


def test_layers_whose_parent_reads_their_weight_go_on_working():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True).eval()
    model, x = (
        nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval(),
        torch.randn(2, 5, 32),
    )
    with torch.no_grad():
        dense = model(x)
        lowrank.factorize(model, rank=1.0)
        torch.testing.assert_close(model(x), dense, atol=1e-5, rtol=1e-5)
    assert [name.rpartition(".")[2] for name in ranks(model)] == ["linear1", "linear2"] * 2


def test_the_report_of_a_model_is_there_whatever_was_imported():
    import lowrank.reports.plan

    assert lowrank.report(nn.Linear(8, 8)).parameters == 72
