"""Factorised models go to and from transformers' folders, and its Trainer trains them."""

from __future__ import annotations

import copy
import subprocess
import sys

import pytest
import torch
import transformers as hf
from torch import nn

import lowrank
from lowrank.api.exchange import save_pretrained
from lowrank.errors import LowrankError
from lowrank.factor.convert import factors

pytestmark = pytest.mark.filterwarnings("ignore:At their rank", "ignore::FutureWarning")

HEAD = "AutoModelForCausalLM"
TOKENS = torch.arange(24).reshape(2, 12) % 61


def gpt2(width: int = 32, **options) -> nn.Module:
    torch.manual_seed(0)
    config = hf.GPT2Config(
        vocab_size=61,
        n_embd=width,
        n_layer=2,
        n_head=2,
        n_positions=32,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=0,
        **options,
    )
    return hf.GPT2LMHeadModel(config).eval()


def llama() -> nn.Module:
    torch.manual_seed(0)
    config = hf.LlamaConfig(
        vocab_size=61,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    return hf.LlamaForCausalLM(config).eval()


def loss(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=TOKENS, labels=TOKENS).loss


def written(model: nn.Module) -> torch.Tensor:
    return model.generate(TOKENS[:, :4], max_new_tokens=8, do_sample=False)


@pytest.mark.parametrize("build", [gpt2, llama])
@pytest.mark.parametrize("shards", ["20KB", "5GB"])
def test_a_saved_model_comes_back_with_the_same_loss_and_the_same_text(build, shards, tmp_path):
    model = lowrank.factorize(build(), rank={"*.0.*": 0.25, "*.1.*": 5})
    model.save_pretrained(tmp_path, max_shard_size=shards)
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == (shards == "20KB")
    for load in (lowrank.from_pretrained, hf.AutoModelForCausalLM.from_pretrained):
        back = load(tmp_path).eval()
        assert type(back) is type(model)
        assert [m.rank for m in factors(back).values()] == [m.rank for m in factors(model).values()]
        assert torch.equal(loss(back), loss(model))
        assert torch.equal(written(back), written(model))


def test_precision_is_kept_or_changed_at_will(tmp_path):
    model = lowrank.factorize(gpt2(), rank=0.25).to(torch.bfloat16)
    model.save_pretrained(tmp_path)
    assert lowrank.from_pretrained(tmp_path).dtype == torch.bfloat16
    wide = lowrank.from_pretrained(tmp_path, dtype=torch.float32)
    assert {p.dtype for p in wide.parameters()} == {torch.float32}


def test_a_model_that_came_back_is_trained_cast_and_saved_like_any_other(tmp_path):
    lowrank.factorize(gpt2(), rank=0.25).save_pretrained(tmp_path / "one")
    model = lowrank.from_pretrained(tmp_path / "one")
    model.train()(input_ids=TOKENS, labels=TOKENS).loss.backward()
    assert all(m.U.grad.any() and m.V.grad.any() for m in factors(model).values())
    model.half().float().save_pretrained(tmp_path / "two")
    assert torch.equal(loss(lowrank.from_pretrained(tmp_path / "two")), loss(model.eval()))


def test_a_model_made_dense_again_is_saved_as_a_dense_one(tmp_path):
    model = lowrank.to_dense(lowrank.factorize(gpt2(), rank=0.25))
    model.save_pretrained(tmp_path)
    assert "quantization_config" not in (tmp_path / "config.json").read_text("utf-8")
    assert torch.equal(loss(hf.GPT2LMHeadModel.from_pretrained(tmp_path)), loss(model))


def test_convolutions_keep_their_matricisation(tmp_path):
    torch.manual_seed(0)
    config = hf.ResNetConfig(embedding_size=8, hidden_sizes=[16], depths=[2], layer_type="basic")
    model = hf.ResNetForImageClassification(config).eval()
    lowrank.factorize(model, rank=0.5, matricisation="spatial").save_pretrained(tmp_path)
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        back = lowrank.from_pretrained(tmp_path).eval()
        assert torch.equal(back(images).logits, model(images).logits)


def test_the_file_beside_it_registers_the_layers_in_a_process_that_never_heard_of_them(tmp_path):
    model = lowrank.factorize(gpt2(), rank=0.25)
    save_pretrained(model, tmp_path)
    code = (
        "import sys, torch\nfrom transformers import AutoModelForCausalLM\n"
        f"model = AutoModelForCausalLM.from_pretrained({str(tmp_path)!r}, trust_remote_code=True)\n"
        "tokens = torch.arange(24).reshape(2, 12) % 61\n"
        "print(model.eval()(input_ids=tokens, labels=tokens).loss.item())\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-1500:]
    assert float(done.stdout.splitlines()[-1]) == pytest.approx(loss(model).item(), abs=1e-6)


def test_what_is_no_model_of_transformers_is_refused(tmp_path):
    with pytest.raises(LowrankError, match="no model of transformers"):
        save_pretrained(nn.Linear(2, 2), tmp_path)


def test_a_config_that_names_layers_the_class_has_not_is_refused(tmp_path):
    model = lowrank.factorize(gpt2(), rank=0.25)
    model.save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    text = config.read_text("utf-8").replace("transformer.h.1.mlp.c_fc", "transformer.h.7.mlp")
    config.write_text(text, encoding="utf-8")
    with pytest.raises(LowrankError, match=r"transformer\.h\.7\.mlp"):
        lowrank.from_pretrained(tmp_path)


class Texts(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        tokens = (torch.arange(12) * (index + 1)) % 61
        return {"input_ids": tokens, "labels": tokens}


class FrobeniusDecay(hf.TrainerCallback):
    """Attaches the decay once the trainer has built its optimiser."""

    def on_train_begin(self, args, state, control, model=None, optimizer=None, **_):
        lowrank.attach_decay(getattr(optimizer, "optimizer", optimizer), model, strength=0.5)


def trained(tmp_path, callbacks, steps: int = 6) -> nn.Module:
    model = lowrank.factorize(gpt2(), rank=0.25)
    arguments = hf.TrainingArguments(
        output_dir=tmp_path,
        max_steps=steps,
        per_device_train_batch_size=4,
        learning_rate=0.01,
        weight_decay=0.0,
        lr_scheduler_type="constant",
        use_cpu=True,
        report_to="none",
        save_strategy="steps",
        save_steps=steps,
        disable_tqdm=True,
        seed=0,
    )
    hf.Trainer(model, arguments, train_dataset=Texts(), callbacks=callbacks).train()
    return model.eval()


def test_trainer_trains_it_and_its_checkpoint_loads(tmp_path):
    start = loss(lowrank.factorize(gpt2(), rank=0.25))
    model = trained(tmp_path, [])
    assert loss(model) < start - 0.1
    assert torch.equal(loss(lowrank.from_pretrained(tmp_path / "checkpoint-6")), loss(model))


def test_a_callback_decays_the_products(tmp_path):
    def norm(model: nn.Module) -> float:
        return float(lowrank.frobenius_decay(model).detach())

    plain, decayed = trained(tmp_path / "a", []), trained(tmp_path / "b", [FrobeniusDecay()])
    assert norm(decayed) < 0.98 * norm(plain)


def test_accelerate_trains_it_as_it_is():
    from accelerate import Accelerator

    model = lowrank.factorize(gpt2(), rank=0.25).train()
    twin = copy.deepcopy(model)
    accelerator = Accelerator(cpu=True)
    optimizer = torch.optim.AdamW(lowrank.parameter_groups(model), lr=0.01)
    prepared, optimizer = accelerator.prepare(model, optimizer)
    accelerator.backward(prepared(input_ids=TOKENS, labels=TOKENS).loss)
    optimizer.step()
    own = torch.optim.AdamW(lowrank.parameter_groups(twin), lr=0.01)
    twin(input_ids=TOKENS, labels=TOKENS).loss.backward()
    own.step()
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_lora_goes_on_the_dense_layers_beside_and_is_refused_by_peft_on_factors():
    from peft import LoraConfig, get_peft_model

    model = lowrank.factorize(gpt2(), rank=0.25)
    before = loss(model)
    with pytest.raises(ValueError, match="FactorizedLinear"):
        get_peft_model(copy.deepcopy(model), LoraConfig(target_modules=["c_attn"]))
    adapted = get_peft_model(model, LoraConfig(target_modules=["lm_head"]))
    assert torch.equal(loss(adapted), before)
    adapted.train()(input_ids=TOKENS, labels=TOKENS).loss.backward()
    learning = [name for name, p in adapted.named_parameters() if p.grad is not None]
    assert learning and all("lora" in name for name in learning)


def test_a_shared_folder_says_how_to_load_it_and_each_way_does(tmp_path):
    model = lowrank.factorize(gpt2(), rank=0.25)
    save_pretrained(model, tmp_path / "this folder")
    readme = tmp_path / "this folder/README.md"
    text = readme.read_text(encoding="utf-8")
    assert "leaves these layers untrained" in text and lowrank.report(model).total() in text
    blocks = [part.split("```")[0] for part in text.split("```python\n")[1:]]
    assert len(blocks) == 3
    check = "assert type(model.transformer.h[0].mlp.c_fc).__name__ == 'FactorizedLinear'"
    # First the one that needs lowrank imported least.
    program = [f"{block.replace('AutoModel', HEAD)}\n{check}\n" for block in reversed(blocks)]
    (tmp_path / "load.py").write_text("\n".join(program), encoding="utf-8")
    subprocess.run([sys.executable, "load.py"], cwd=tmp_path, check=True)
    readme.write_text("mine", encoding="utf-8")
    save_pretrained(model, tmp_path / "this folder")
    assert readme.read_text(encoding="utf-8") == "mine"
