"""Counted FLOPs are those of the textbook, whatever model runs, and cost nothing to count."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from lowrank.errors import LowrankError
from lowrank.factor.convert import factorize_model
from lowrank.factor.flops import forward_flops, saved_flops

CONVS = {"3": 1.0, "5": 1.0, "7": 1.0}
above_break_even = pytest.mark.filterwarnings("ignore:At their rank")
IMPLEMENTATIONS = pytest.mark.parametrize("implementation", ["sdpa", "eager"])


class Function(nn.Module):
    """One function of the input and a 6 x 6 parameter."""

    def __init__(self, function: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(6, 6))
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, self.weight)


@above_break_even
@IMPLEMENTATIONS
def test_gpt2_costs_its_matrices_and_four_t_squared_d(gpt2, scales, tokens, implementation):
    gpt2.set_attn_implementation(implementation)
    (batch, length), d, blocks, vocabulary = tokens.shape, 32, 2, 61
    rest = blocks * 4 * length**2 * d + 2 * length * d * vocabulary
    assert forward_flops(gpt2, tokens) == batch * (blocks * 2 * length * 12 * d * d + rest)
    factorize_model(gpt2, scales(gpt2), rank_fraction=0.25, rank_multiple=1)
    rank = 8
    low = blocks * 2 * length * rank * (4 + 2 + 5 + 5) * d
    assert forward_flops(gpt2, tokens) == batch * (low + rest)


@pytest.mark.parametrize("meta", [False, True])
@IMPLEMENTATIONS
@pytest.mark.parametrize("family", ["llama", "bert", "vit"])
def test_attention_of_any_family_counts(family, implementation, meta):
    import transformers

    d, f, length, batch, vocabulary = 16, 48, 16, 2, 61
    settings = {"hidden_size": d, "num_hidden_layers": 1, "num_attention_heads": 4}
    settings |= {"intermediate_size": f, "attn_implementation": implementation}
    tokens = torch.zeros(batch, length, dtype=torch.long)
    matrices = 4 * d * d + 2 * d * f
    extra = 0
    with torch.device("meta" if meta else "cpu"):
        if family == "llama":
            config = transformers.LlamaConfig(
                **settings, num_key_value_heads=2, vocab_size=vocabulary, use_cache=False
            )
            model = transformers.LlamaForCausalLM(config)
            # Keys and values at half the width, three matrices in the MLP.
            matrices = 3 * d * d + 3 * d * f
            extra = batch * 2 * length * d * vocabulary
        elif family == "bert":
            config = transformers.BertConfig(**settings, vocab_size=vocabulary)
            model = transformers.BertModel(config, add_pooling_layer=False)
        else:
            config = transformers.ViTConfig(**settings, image_size=8, patch_size=2)
            model = transformers.ViTModel(config, add_pooling_layer=False)
            tokens = torch.zeros(batch, 3, 8, 8)
            extra = batch * 2 * length * d * 3 * 2 * 2
            length += 1
    expected = batch * (2 * length * matrices + 4 * length**2 * d) + extra
    assert forward_flops(model, tokens) == expected


@pytest.mark.parametrize("training", [False, True])
def test_fused_layers_of_torch_count_what_they_consist_of(training):
    d, f, batch, length = 16, 40, 3, 7
    x = torch.ones(batch, length, d)
    attention = batch * (2 * length * 4 * d * d + 4 * length**2 * d)
    layer = nn.TransformerEncoderLayer(d, 4, f, batch_first=True).train(training)
    assert forward_flops(layer, x) == attention + batch * 2 * length * 2 * d * f
    many = nn.MultiheadAttention(d, 4, batch_first=True).train(training)
    assert forward_flops(many, x, x, x) == attention
    for kind, gates in ((nn.RNN, 1), (nn.GRU, 3), (nn.LSTM, 4)):
        recurrent = kind(d, 8, batch_first=True).train(training)
        assert forward_flops(recurrent, x) == batch * length * 2 * gates * 8 * (d + 8)
    assert torch.backends.mha.get_fastpath_enabled()
    assert torch.backends.mkldnn.enabled


@pytest.mark.parametrize(
    ("model", "shape", "expected"),
    [
        (nn.Conv1d(3, 4, 5, stride=2), (2, 3, 9), 2 * 2 * 3 * 4 * 3 * 5),
        (nn.Conv2d(4, 6, 3, groups=2), (1, 4, 5, 5), 2 * 9 * 6 * 2 * 9),
        (nn.Conv3d(2, 3, 2), (1, 2, 3, 3, 3), 2 * 8 * 3 * 2 * 8),
        (nn.ConvTranspose2d(3, 4, 3, stride=2), (1, 3, 5, 5), 2 * 25 * 3 * 4 * 9),
        (nn.Linear(6, 5), (6,), 2 * 6 * 5),
        (Function(lambda x, w: torch.einsum("btd,de->bte", x, w)), (2, 3, 6), 2 * 6 * 36),
        (Function(lambda x, w: w.mv(x)), (6,), 2 * 36),
        (Function(lambda x, w: torch.addmv(x, w, x)), (6,), 2 * 36),
        (Function(lambda x, w: x.dot(w[0])), (6,), 2 * 6),
        (Function(lambda x, w: torch.vdot(x, w[0])), (6,), 2 * 6),
        (nn.LayerNorm([4, 6]), (2, 4, 6), 0),
        (nn.Embedding(5, 6).to("meta"), None, 0),
    ],
)
def test_every_product_counts_two_a_multiply_add(model, shape, expected):
    x = torch.ones(shape) if shape else torch.zeros(2, 3, dtype=torch.long)
    assert forward_flops(model, x) == expected


def test_convnet_counts_every_output_pixel(convnet, images):
    n, h, w = 20, 10, 12
    expected = (
        2 * n * (h * w * 8 * 3 * 9 + h // 2 * w * (12 * 8 * 15 + 16 * 12) + 3 * 6 * 16 * 8 * 9)
    )
    assert forward_flops(convnet, images) == expected + 2 * n * 16 * 10


@above_break_even
def test_factorised_convolutions_count_as_they_run():
    x = torch.ones(2, 4, 9, 12)

    def cost(matricisation: str) -> int:
        model = nn.Sequential(nn.Conv2d(4, 6, (3, 5), stride=(2, 3), padding=(1, 2)))
        factorize_model(
            model, {"0": 1.0}, rank_fraction=0.5, rank_multiple=1, matricisation=matricisation
        )
        return forward_flops(model, x)

    out = 5 * 4
    assert cost("channel") == 2 * 2 * out * 3 * (4 * 15 + 6)
    # The matrix is 18 x 20, the first convolution keeps the height and strides the width.
    assert cost("spatial") == 2 * 2 * 9 * (9 * 4 * 20 + out * 18)


def test_a_linear_layer_costs_two_flops_a_multiply_add():
    model = nn.Sequential(nn.Linear(40, 50))
    assert forward_flops(model, torch.ones(3, 7, 40)) == 2 * 21 * 40 * 50
    factorize_model(model, {"0": 1.0}, rank_fraction=0.25, rank_multiple=10)
    assert forward_flops(model, torch.ones(3, 7, 40)) == 2 * 21 * 10 * (40 + 50)


def test_a_layer_called_twice_counts_twice():
    layer = nn.Linear(4, 4)
    assert forward_flops(nn.Sequential(layer, layer), torch.ones(1, 4)) == 2 * 2 * 16


def test_the_papers_sizes_are_counted_on_the_meta_device(scales):
    from transformers import GPT2Config, GPT2LMHeadModel

    with torch.device("meta"):
        model = GPT2LMHeadModel(GPT2Config(n_embd=2560, n_layer=4, n_head=20, use_cache=False))
        example = torch.zeros(1, 256, dtype=torch.long)
    d, length = 2560, 256
    blocks = 4 * (2 * length * 12 * d * d + 4 * length**2 * d)
    assert forward_flops(model, example) == blocks + 2 * length * d * 50257
    factorize_model(model, scales(model), rank_fraction=0.25)
    rank = 640
    blocks = 4 * (2 * length * rank * (4 + 2 + 5 + 5) * d + 4 * length**2 * d)
    assert forward_flops(model, example) == blocks + 2 * length * d * 50257


@above_break_even
@pytest.mark.parametrize("matricisation", ["channel", "spatial"])
def test_meta_and_real_tensors_count_alike(convnet, images, matricisation):
    meta = copy.deepcopy(convnet).to("meta")
    for model in (convnet, meta):
        factorize_model(model, CONVS, rank_fraction=0.5, matricisation=matricisation)
    assert forward_flops(meta, images.to("meta")) == forward_flops(convnet, images)


def test_counting_changes_neither_mode_nor_statistics_nor_hooks(convnet, images):
    convnet.train()
    before = {name: value.clone() for name, value in convnet.state_dict().items()}
    forward_flops(convnet, images)
    assert convnet.training
    assert convnet[1].training
    assert all(torch.equal(value, before[name]) for name, value in convnet.state_dict().items())
    assert not any(module._forward_hooks for module in convnet.modules())


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (nn.Sequential(nn.Linear(6, 6), nn.Bilinear(6, 6, 2)), "Layer '1' runs aten._trilinear"),
        (Function(torch.cdist), "The model runs aten._cdist_forward"),
    ],
)
def test_an_operation_without_a_formula_is_an_error_not_a_silent_zero(model, message):
    if isinstance(model, nn.Sequential):
        bilinear = model[1]
        bilinear.forward = lambda x: nn.Bilinear.forward(bilinear, x, x)
    with pytest.raises(LowrankError, match=message):
        forward_flops(model, torch.ones(2, 6))


def test_a_model_of_which_a_part_alone_is_on_the_meta_device_counts_too():
    model = nn.Sequential(nn.Linear(4, 5, device="meta"), nn.BatchNorm1d(5))
    assert forward_flops(model, torch.ones(3, 4)) == 2 * 3 * 4 * 5


@pytest.mark.parametrize("meta", [False, True])
def test_a_backward_pass_saves_the_gradients_that_nobody_takes(meta, gpt2, tokens):
    """That of a frozen weight costs as much as its forward pass; its input's is still needed."""
    if meta:
        gpt2.to("meta")
    assert saved_flops(gpt2, tokens) == 0
    (batch, length), d = tokens.shape, 32
    for name, parameter in gpt2.named_parameters():
        if name.endswith("h.1.mlp.c_fc.weight"):
            parameter.requires_grad_(False)
    assert saved_flops(gpt2, tokens) == batch * length * 2 * 4 * d * d


def test_a_backward_pass_ends_at_the_first_layer_that_is_trained(make_gpt2):
    """Below attention's output projection, whose input needs no gradient, there is none: of the other
    projection two products, of attention four (forward it has two). The tied head is frozen, too."""
    model = make_gpt2(layers=1)
    frozen = ("wte", "wpe", "ln_1", "c_attn")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(not any(part in name for part in frozen))
    batch, length, d = 2, 8, model.config.n_embd
    tokens = torch.zeros((batch, length), dtype=torch.long)
    square, head = 2 * length * d * d, 2 * length * d * model.config.vocab_size
    expected = batch * (square + 8 * length**2 * d + 2 * 3 * square + head)
    assert saved_flops(model, tokens) == expected
