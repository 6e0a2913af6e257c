"""Converting a model keeps all that is not the weight itself, and refuses what makes no sense."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import subprocess
import sys
import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from lowrank.errors import LowrankError
from lowrank.factor.convert import (
    choose_rank,
    effective_weights,
    evaluating,
    factorize_model,
    factors,
    layer_seed,
    low_rank_layers,
    parameter_count,
    to_dense,
)
from lowrank.factor.layers import Factorized, FactorizedConv2d, FactorizedLinear, from_dense

above_break_even = pytest.mark.filterwarnings("ignore:At their rank")
CONVS = {"3": 1.0, "5": 1.0, "7": 1.0}


@above_break_even
def test_full_rank_gpt2_gives_the_dense_logits_and_its_weights_back(gpt2, scales, tokens):
    gpt2.eval()
    dense_logits = gpt2(tokens).logits
    dense_state = {name: value.clone() for name, value in gpt2.state_dict().items()}
    names = factorize_model(gpt2, scales(gpt2), rank_fraction=1.0)
    assert len(names) == 8
    assert set(factors(gpt2)) == set(names)
    torch.testing.assert_close(gpt2(tokens).logits, dense_logits, rtol=1e-5, atol=1e-5)
    assert to_dense(gpt2) == names
    assert not factors(gpt2)
    state = gpt2.state_dict()
    assert list(state) == list(dense_state)
    for name, value in dense_state.items():
        torch.testing.assert_close(state[name], value, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gpt2(tokens).logits, dense_logits, rtol=1e-5, atol=1e-5)


@above_break_even
@pytest.mark.parametrize("matricisation", ["channel", "spatial"])
def test_full_rank_convnet_gives_the_dense_outputs_and_its_weights_back(
    convnet, images, matricisation
):
    convnet.eval()
    dense = convnet(images)
    state = {name: value.clone() for name, value in convnet.state_dict().items()}
    factorize_model(convnet, CONVS, rank_fraction=1.0, matricisation=matricisation)
    assert all(type(convnet[int(name)]) is FactorizedConv2d for name in CONVS)
    torch.testing.assert_close(convnet(images), dense, rtol=1e-5, atol=1e-5)
    for name, value in effective_weights(convnet).items():
        torch.testing.assert_close(value, state[name], rtol=1e-5, atol=1e-6)
    to_dense(convnet)
    torch.testing.assert_close(convnet(images), dense, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("init", ["he", "spectral", "random_spectral", "he_scaled"])
def test_gpt2s_scaled_residual_initialisation_survives_factorisation(make_gpt2, scales, init):
    layers = 8
    model = make_gpt2(width=96, layers=layers)
    factorize_model(model, scales(model), rank_fraction=0.25, init=init)
    found = factors(model)

    def variance(ending: str) -> float:
        products = [layer.product() for name, layer in found.items() if name.endswith(ending)]
        assert len(products) == layers
        return torch.stack(products).var().item()

    reference = variance("mlp.c_fc")
    residual = variance("mlp.c_proj")
    # V's fan is n: under He the 4d-wide input of c_proj divides its variance by 4 besides.
    fans = 4 if init == "he" else 1
    assert residual / reference == pytest.approx(1 / (2 * layers) / fans, rel=0.1)


def test_he_in_the_spatial_view_has_the_same_variance_as_in_the_channel_view():
    variances = []
    for matricisation in ("channel", "spatial"):
        model = nn.Sequential(nn.Conv2d(64, 64, 3))
        factorize_model(
            model, {"0": 1.0}, rank_fraction=0.25, init="he", matricisation=matricisation
        )
        variances.append(model[0].dense_weight().var().item())
    # 4 / fan-in, with a fan-in of 64 x 9 whichever way the two convolutions divide it.
    assert variances == pytest.approx([4 / (64 * 9)] * 2, rel=0.15)


def test_biases_and_every_other_parameter_stay_the_same_objects(gpt2, scales):
    before = {name: id(p) for name, p in gpt2.named_parameters()}
    factorize_model(gpt2, scales(gpt2), rank_fraction=0.4, rank_multiple=1)
    kept = {name: id(p) for name, p in gpt2.named_parameters() if name in before}
    assert {name for name in before if name not in kept} == {f"{n}.weight" for n in scales_of(gpt2)}
    assert all(before[name] == identity for name, identity in kept.items())
    to_dense(gpt2)
    after = {name: id(p) for name, p in gpt2.named_parameters()}
    assert all(after[name] == identity for name, identity in kept.items())


def scales_of(model: nn.Module) -> list[str]:
    return list(factors(model))


def test_tied_weights_stay_tied_and_count_once(gpt2, scales, tokens):
    dense_count = parameter_count(gpt2)
    assert dense_count == gpt2.num_parameters()
    names = scales(gpt2)
    shapes = [gpt2.get_submodule(name).weight.shape for name in names]
    factorize_model(gpt2, names, rank_fraction=0.4, rank_multiple=1)
    assert gpt2.lm_head.weight is gpt2.transformer.wte.weight
    change = sum(13 * (m + n) - m * n for m, n in shapes)
    assert parameter_count(gpt2) == dense_count + change
    to_dense(gpt2)
    assert gpt2.lm_head.weight is gpt2.transformer.wte.weight
    assert parameter_count(gpt2) == dense_count


def test_state_dicts_carry_a_factorised_model(make_gpt2, scales, tokens):
    model, other = make_gpt2(seed=0).eval(), make_gpt2(seed=1).eval()
    for each in (model, other):
        factorize_model(each, scales(each), rank_fraction=0.4, rank_multiple=1)
    assert not torch.allclose(model(tokens).logits, other(tokens).logits)
    other.load_state_dict(model.state_dict())
    assert torch.equal(model(tokens).logits, other(tokens).logits)


def test_effective_weights_load_into_the_dense_model(make_gpt2, scales, tokens):
    model, dense = make_gpt2(seed=0).eval(), make_gpt2(seed=1).eval()
    factorize_model(model, scales(model), rank_fraction=0.4, rank_multiple=1)
    weights = effective_weights(model)
    assert list(weights) == list(dense.state_dict())
    assert all(value.is_contiguous() for value in weights.values())
    dense.load_state_dict(weights)
    torch.testing.assert_close(dense(tokens).logits, model(tokens).logits, rtol=1e-5, atol=1e-5)


def test_effective_weights_of_a_dense_model_are_its_state_dict(gpt2):
    state = gpt2.state_dict()
    weights = effective_weights(gpt2)
    assert list(weights) == list(state)
    assert all(torch.equal(weights[name], state[name]) for name in state)


@pytest.mark.parametrize("init", ["he", "random_spectral"])
def test_a_layers_draw_depends_on_seed_and_name_only(make_gpt2, scales, init):
    def draw(seed: int, reverse: bool = False, ending: str = "") -> dict[str, torch.Tensor]:
        model = make_gpt2()
        names = {n: s for n, s in scales(model).items() if n.endswith(ending)}
        order = dict(reversed(names.items())) if reverse else names
        torch.manual_seed(77 + reverse)
        factorize_model(model, order, rank_fraction=0.4, rank_multiple=1, init=init, seed=seed)
        return {name: layer.product() for name, layer in factors(model).items()}

    reference = draw(0)
    for again in (draw(0, reverse=True), draw(0, ending="mlp.c_fc")):
        assert all(torch.equal(again[name], reference[name]) for name in again)
    assert not any(torch.equal(value, reference[name]) for name, value in draw(1).items())
    first, second = (reference[f"transformer.h.{block}.mlp.c_fc"] for block in (0, 1))
    assert not torch.equal(first, second)


def test_above_break_even_warns_once_with_the_figures(gpt2, scales):
    with pytest.warns(UserWarning, match="At their rank") as caught:
        factorize_model(gpt2, scales(gpt2), rank_fraction=0.625, rank_multiple=1)
    assert len(caught) == 1
    message = str(caught[0].message)
    # Rank 20 at width 32 is beyond the square projections' break-even of 16, below the 24 of the
    # 96 x 32 ones and the 25.6 of the 128 x 32 ones.
    assert "2 of 8 factorised layers" in message
    assert "transformer.h.0.attn.c_proj (rank 20 of 32 x 32, break-even 16.0)" in message
    assert "20,480 parameters in place of 24,576" in message
    assert caught[0].filename == __file__


def test_as_many_parameters_as_dense_are_no_smaller(gpt2, scales):
    """Rank 16 at width 32: 16 (32 + 32) = 32 x 32."""
    with pytest.warns(UserWarning, match="their rank 2 of 8 factorised layers are no smaller"):
        factorize_model(gpt2, scales(gpt2), rank_fraction=0.5, rank_multiple=1)


def test_below_break_even_does_not_warn(gpt2, scales):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        factorize_model(gpt2, scales(gpt2), rank_fraction=0.4, rank_multiple=1)


@pytest.mark.parametrize(
    ("m", "n", "fraction", "multiple", "rank"),
    [
        (256, 64, 0.25, 16, 16),
        (256, 256, 0.62, 16, 160),
        (256, 256, 0.62, 1, 159),
        (64, 64, 0.01, 16, 16),
        (8, 100, 0.5, 16, 8),
        (20, 20, 0.9, 16, 16),
        (20, 20, 1.0, 16, 20),
        (28, 28, 0.99, 16, 28),
        (5, 9, 0.01, 1, 1),
    ],
)
def test_ranks_are_the_nearest_multiple_within_the_matrix(m, n, fraction, multiple, rank):
    assert choose_rank(m, n, fraction, multiple) == choose_rank(n, m, fraction, multiple) == rank


@pytest.mark.parametrize(("fraction", "multiple"), [(0.0, 16), (-0.5, 16), (1.01, 16), (0.5, 0)])
def test_impossible_ranks_are_errors(fraction, multiple):
    with pytest.raises(LowrankError, match=str(multiple if multiple < 1 else fraction)):
        choose_rank(64, 64, fraction, multiple)


def refused(model: nn.Module, names: dict[str, float], match: str, **options: object) -> None:
    before = repr(model)
    with pytest.raises(LowrankError, match=match):
        factorize_model(model, names, **{"rank_fraction": 0.4, "rank_multiple": 1, **options})
    assert repr(model) == before, "an error must leave the model as it was"


def test_what_cannot_be_factorised_is_an_error_and_leaves_the_model_alone(gpt2, scales):
    good = scales(gpt2)
    refused(gpt2, {}, "No layer to factorise")
    refused(
        gpt2,
        {**good, "transformer.h.0.mlp.c_fcc": 1.0},
        r"Unknown layer.*did you mean 'transformer\.h\.0\.mlp\.c_fc'",
    )
    refused(gpt2, {**good, "transformer.ln_f": 1.0}, r"'transformer\.ln_f' is a LayerNorm")
    refused(
        gpt2, {**good, "lm_head": 1.0}, r"'lm_head' shares its weight with transformer\.wte\.weight"
    )
    refused(gpt2, good, "did you mean 'spectral'", init="spectrall")
    refused(gpt2, good, "Rank fraction 2", rank_fraction=2)
    with torch.no_grad():
        gpt2.transformer.h[1].mlp.c_proj.weight[0, 0] = float("nan")
    refused(gpt2, good, "NaN or infinity")


def test_a_layer_is_not_factorised_twice(gpt2, scales):
    names = scales(gpt2)
    factorize_model(gpt2, names, rank_fraction=0.4, rank_multiple=1)
    refused(gpt2, dict.fromkeys(names, 1.0), "factorised already")


def test_a_layer_used_in_two_places_is_an_error_because_its_weight_is_shared():
    shared = nn.Linear(32, 32)
    refused(nn.Sequential(shared, nn.ReLU(), shared), {"0": 1.0}, r"shares its weight with 2\.")


def test_on_the_meta_device_shapes_change_and_nothing_is_drawn():
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(2560, 10240), nn.Conv2d(512, 512, 3))
    factorize_model(model, {"0": 1.0, "1": 1.0}, rank_fraction=0.25)
    assert type(model[0]) is FactorizedLinear
    assert model[0].U.shape == (10240, 640)
    assert model[0].U.is_meta
    assert model[0].bias.is_meta


def test_training_a_factorised_model_reaches_every_parameter(gpt2, scales, tokens):
    factorize_model(gpt2, scales(gpt2), rank_fraction=0.4, rank_multiple=1)
    optimizer = torch.optim.AdamW(gpt2.parameters(), lr=1e-2)
    first = gpt2(tokens, labels=tokens).loss
    for _ in range(5):
        loss = gpt2(tokens, labels=tokens).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < first
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in gpt2.parameters())


def test_evaluating_puts_every_module_back_in_its_own_mode(convnet):
    convnet.train()
    convnet[1].eval()
    with evaluating(convnet):
        assert not any(module.training for module in convnet.modules())
    assert convnet[0].training
    assert not convnet[1].training


def test_a_vision_run_never_imports_transformers():
    code = (
        "import sys, torch; from torch import nn\n"
        "from lowrank.factor import convert, flops, truncate\n"
        "m = nn.Sequential(nn.Conv2d(3, 32, 3), nn.Flatten(), nn.Linear(32, 32))\n"
        "x = torch.randn(2, 3, 3, 3)\n"
        "convert.factorize_model(m, {'2': 1.0}, rank_fraction=0.4, rank_multiple=1)\n"
        "flops.forward_flops(m, x); convert.to_dense(m)\n"
        "truncate.truncate_model(m, ['2'], method='whitened', rank_fraction=0.5,"
        " batches=[x], loss=lambda m, x: m(x).sum())\n"
        "assert 'transformers' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)


def pruned(layer):
    prune.l1_unstructured(layer, "weight", 0.5)


def pruned_bias(layer):
    prune.l1_unstructured(layer, "bias", 0.5)


@pytest.mark.filterwarnings("ignore:.*weight_norm.* is deprecated")
@pytest.mark.parametrize("layer", ["0", "5"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (pruned, "computes its weight from weight_orig"),
        (pruned_bias, "computes its bias from bias_orig"),
        (torch.nn.utils.weight_norm, "computes its weight from weight_g, weight_v"),
        (torch.nn.utils.spectral_norm, "computes its weight from weight_orig"),
        (torch.nn.utils.parametrizations.weight_norm, "is a Parametrized"),
        (torch.nn.utils.parametrizations.orthogonal, "is a Parametrized"),
    ],
)
def test_a_layer_whose_weight_is_computed_is_refused_before_any_is_touched(
    convnet, change, message, layer
):
    change(convnet[int(layer)])
    before = repr(convnet)
    with pytest.raises(LowrankError, match=f"Layer '{layer}' {message}.*layers that can: .*10"):
        factorize_model(convnet, {"10": 1.0, layer: 1.0}, rank_fraction=0.5)
    with pytest.raises(LowrankError, match=f"A layer {message}"):
        from_dense(convnet[int(layer)], 1)
    assert repr(convnet) == before


def test_pruning_made_permanent_is_factorised(convnet):
    pruned(convnet[10])
    prune.remove(convnet[10], "weight")
    factorize_model(convnet, {"10": 1.0}, rank_fraction=0.5, rank_multiple=1)
    assert isinstance(convnet[10], Factorized)


@pytest.mark.filterwarnings("ignore:At their rank", "ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("training", [True, False])
def test_encoders_that_read_their_childrens_weights_work_after_the_swap(training):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 4, 32, dropout=0.0, batch_first=True)
    model = nn.TransformerEncoder(layer, 2).train(training)
    names = [f"layers.{block}.linear{which}" for block in (0, 1) for which in (1, 2)]
    factorize_model(model, dict.fromkeys(names, 1.0), rank_fraction=0.5, rank_multiple=1)
    dense = copy.deepcopy(model)
    to_dense(dense)
    x, padding = torch.randn(3, 5, 16), torch.arange(5).expand(3, 5) > torch.tensor([[4], [2], [3]])
    for mask in (None, padding):
        with contextlib.nullcontext() if training else torch.no_grad():
            out, expected = (m(x, src_key_padding_mask=mask) for m in (model, dense))
        torch.testing.assert_close(out, expected)
    if training:
        out.sum().backward()
        assert model.layers[0].linear1.U.grad.abs().sum() > 0


def test_the_output_projection_of_torchs_attention_is_refused():
    model = nn.TransformerEncoderLayer(16, 4, 32)
    before = repr(model)
    with pytest.raises(
        LowrankError, match=r"is a NonDynamically.* layers that can: linear1, linear2"
    ):
        factorize_model(model, {"linear1": 1.0, "self_attn.out_proj": 1.0}, rank_fraction=0.5)
    assert repr(model) == before


@pytest.mark.filterwarnings("ignore:At their rank")
def test_a_parent_that_asks_for_a_weights_type_works_after_the_swap():
    from transformers import T5Config, T5EncoderModel

    config = T5Config(d_model=16, d_ff=32, num_layers=1, num_heads=2, d_kv=8, vocab_size=31)
    model = T5EncoderModel(config).eval()
    tokens = torch.arange(8)[None]
    before = model(tokens).last_hidden_state
    factorize_model(model, {"encoder.block.0.layer.1.DenseReluDense.wo": 1.0}, rank_fraction=1.0)
    torch.testing.assert_close(model(tokens).last_hidden_state, before, rtol=1e-4, atol=1e-4)


def test_a_layers_seed_is_a_hash_of_the_runs_seed_and_its_name_that_fits_in_63_bits():
    seeds = {(s, n): layer_seed(s, n) for s in range(20) for n in ("a", "b.c", "1:a")}
    assert len(set(seeds.values())) == 60
    assert all(0 <= seed < 2**63 for seed in seeds.values())
    digest = hashlib.sha256(b"7:b.c").hexdigest()
    assert layer_seed(7, "b.c") == int(digest[:16], 16) // 2


@above_break_even
@pytest.mark.parametrize("bias", [True, False])
def test_a_model_that_is_one_layer_has_effective_weights_and_is_not_changed_in_place(bias):
    dense = nn.Linear(4, 3, bias=bias)
    layer = from_dense(dense, 2)
    layer.set_factors(torch.randn(3, 2), torch.randn(4, 2))
    weights = effective_weights(layer)
    assert list(weights) == list(dense.state_dict())
    torch.testing.assert_close(weights["weight"], layer.U @ layer.V.T)
    dense.load_state_dict(weights)
    with pytest.raises(LowrankError, match="a single layer cannot be changed in place"):
        to_dense(layer)


class Formless(nn.Module):
    """Holds a product inside, and has itself no dense weight."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.bias = from_dense(nn.Linear(4, 3), 2), None

    def dense_weight(self):
        return None


def test_the_outermost_layer_that_stands_in_a_dense_ones_place_speaks_for_those_within():
    model = nn.Sequential(Formless(), from_dense(nn.Linear(3, 3), 1), nn.Linear(3, 3))
    assert list(low_rank_layers(model)) == ["0", "1"]
    assert list(low_rank_layers(Formless())) == [""]
    assert effective_weights(model) is None
    assert effective_weights(model[1:]) is not None


HOOKS = {
    "forward": lambda layer: layer.register_forward_hook(lambda *_: None),
    "before forward": lambda layer: layer.register_forward_pre_hook(lambda *_: None),
    "backward": lambda layer: layer.register_full_backward_hook(lambda *_: None),
    "before backward": lambda layer: layer.register_full_backward_pre_hook(lambda *_: None),
    "of the weight": lambda layer: layer.weight.register_hook(lambda grad: grad),
    "after gradients": lambda layer: layer.weight.register_post_accumulate_grad_hook(
        lambda _: None
    ),
}


@pytest.mark.parametrize("hook", HOOKS)
def test_hooks_that_stay_behind_are_told(hook):
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    handle = HOOKS[hook](model[1])
    with pytest.warns(
        UserWarning, match="1 of the layers had hooks, the first 1, which are not called"
    ):
        factorize_model(model, {"0": 1.0, "1": 1.0}, rank_fraction=0.25, rank_multiple=1)
    handle.remove()


def test_layers_whose_hooks_were_taken_away_are_replaced_without_a_word():
    model = nn.Sequential(nn.Linear(8, 8))
    for hook in HOOKS.values():
        hook(model[0]).remove()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        factorize_model(model, {"0": 1.0}, rank_fraction=0.25, rank_multiple=1)
