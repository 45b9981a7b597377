"""Soft prompts that train, are stored, and share a base with others."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    GPT2Config,
    GPT2ForSequenceClassification,
    LlamaConfig,
    LlamaForTokenClassification,
)

from course_utils.generation import generate_tokens
from course_utils.methods import AdapterError, apply, load_adapter, remove, save_adapter
from course_utils.methods.adapter_set import AdapterSet
from course_utils.methods.bottleneck import BottleneckConfig
from course_utils.methods.lora import LoRAConfig
from course_utils.methods.prefix_tuning import PTuningV2Config
from course_utils.methods.prompt_tuning import PromptTuningConfig
from course_utils.methods.storage.folder import CONFIG_FILE, TENSORS_FILE
from course_utils.methods.virtual_tokens import drop_encoder
from course_utils.models import set_activation_checkpointing
from course_utils.quantization import quantize_model
from tests.methods.adapters import IDS, SHAPE, build, disturb, logits
from tests.methods.test_soft_prompts import LEFT, METHODS, N, every_method, prompted

CLASSIFIERS = {
    "tokens": lambda: LlamaForTokenClassification(LlamaConfig(**SHAPE, num_labels=3)),
    "texts": lambda: GPT2ForSequenceClassification(
        GPT2Config(
            vocab_size=61,
            n_embd=36,
            n_layer=2,
            n_head=3,
            n_positions=32,
            num_labels=3,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=1,
            resid_pdrop=0,
            embd_pdrop=0,
            attn_pdrop=0,
        )
    ),
}
TASK_METHODS = {"prompt": METHODS["prompt"], "v2": PTuningV2Config(num_virtual_tokens=N)}


def classifier(level: str, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return CLASSIFIERS[level]().eval()


@pytest.mark.parametrize("kind", ["prompt", "p-tuning"])
def test_recomputed_blocks_give_the_same_gradients(kind: str):
    model, gradients = prompted(kind).train(), []
    for is_on in (False, True):
        set_activation_checkpointing(model, is_on)
        model.zero_grad()
        model(IDS, labels=IDS).loss.backward()
        gradients.append([p.grad.clone() for p in model.soft_prompt.parameters()])
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-7) for a, b in zip(*gradients, strict=True))
    prefixed = prompted("prefix").train()
    set_activation_checkpointing(prefixed, True)
    with pytest.raises(ValueError, match="activation checkpointing does without the cache"):
        prefixed(IDS)
    assert prefixed.eval()(IDS).logits.shape == (3, 11, 61)


@every_method
def test_a_base_in_16_or_4_bits_and_autocast(kind: str):
    exact = logits(prompted(kind))
    half, quantized = build().bfloat16(), quantize_model(build())
    for model in (half, quantized):
        torch.manual_seed(2)
        apply(model, METHODS[kind])
        assert {p.dtype for p in model.soft_prompt.parameters()} == {torch.float32}
        model(IDS, labels=IDS).loss.backward()
        assert all(p.grad.norm() > 0 for p in model.soft_prompt.parameters())
    with torch.autocast("cpu", torch.bfloat16):
        mixed = logits(prompted(kind))
    # bfloat16 has eight bits of mantissa.
    for result in (logits(half), mixed):
        assert result.dtype == torch.bfloat16
        assert (result.float() - exact).abs().max() < 0.03 * exact.abs().max()
    assert not torch.equal(logits(quantized), logits(quantize_model(build())))


@every_method
def test_without_its_encoder_it_computes_the_same(kind: str):
    model = prompted(kind)
    before, encoder = logits(model), model.soft_prompt.encoder
    assert torch.allclose(logits(drop_encoder(model)), before, atol=1e-6)
    assert model.soft_prompt.encoder.network is None
    # Tokens that nothing computes stay the parameter that an optimizer holds.
    assert (model.soft_prompt.encoder is encoder) == (encoder.network is None)
    model(IDS, labels=IDS).loss.backward()
    assert model.soft_prompt.encoder.weight.grad.norm() > 0
    with pytest.raises(ValueError, match="LlamaForCausalLM carries no soft prompt"):
        drop_encoder(remove(model))


def test_dropout_acts_while_it_trains_only():
    model = prompted("p-tuning, lstm")
    assert torch.equal(logits(model), logits(model))
    model.train()
    assert not torch.equal(logits(model), logits(model))
    tokens = drop_encoder(model).soft_prompt.encoder.weight
    evaluated = prompted("p-tuning, lstm").soft_prompt.encoder()
    assert torch.allclose(tokens, evaluated, atol=1e-6)
    assert model.soft_prompt.training


@pytest.mark.parametrize("level", CLASSIFIERS)
@pytest.mark.parametrize("kind", TASK_METHODS)
def test_a_classifiers_head_trains_along_and_is_stored(kind: str, level: str, tmp_path: Path):
    model = apply(classifier(level), TASK_METHODS[kind]).train()
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert {name.partition(".")[0] for name in trained} == {"score", "soft_prompt"}
    mask = LEFT.flip(1)
    labels = IDS % 3 if level == "tokens" else IDS[:, 0] % 3
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.02)
    losses = []
    for _ in range(25):
        loss = model(IDS * mask, attention_mask=mask, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]
    again = load_adapter(classifier(level), save_adapter(model.eval(), tmp_path))
    assert torch.equal(logits(again), logits(model))
    assert not torch.equal(logits(again), logits(apply(classifier(level), TASK_METHODS[kind])))


@every_method
def test_what_is_saved_is_loaded(kind: str, tmp_path: Path):
    model = prompted(kind, "qwen3")
    folder = save_adapter(model, tmp_path / "first")
    assert sorted(path.name for path in folder.iterdir()) == [CONFIG_FILE, TENSORS_FILE]
    assert list(load_file(folder / TENSORS_FILE)) == ["prompt_embeddings"]
    again = load_adapter(build("qwen3"), folder)
    assert torch.allclose(logits(again), logits(model), atol=1e-6)
    assert type(again.fine_tuning_method) is type(METHODS[kind])
    assert again.soft_prompt.encoder.weight.requires_grad
    save_adapter(again, tmp_path / "second")
    third = load_adapter(build("qwen3").bfloat16().float(), tmp_path / "second")
    assert torch.equal(third.soft_prompt.encoder(), again.soft_prompt.encoder())


def test_files_that_are_none_for_this_model(tmp_path: Path):
    folder = save_adapter(prompted("prefix"), tmp_path)

    def refused(message: str, model: nn.Module) -> None:
        before = logits(model)
        with pytest.raises(AdapterError, match=message):
            load_adapter(model, folder)
        assert torch.equal(logits(model), before)

    refused("was trained on another base model", build(seed=4))
    refused("carries an adapter already", apply(build(), LoRAConfig(rank=2)))
    refused("carries an adapter already", prompted("prompt"))
    tensors = load_file(folder / TENSORS_FILE)
    save_file(tensors, folder / TENSORS_FILE)  # says nothing of its base or configuration
    refused(r"prompt_embeddings is \(4, 80\) and should be \(4, 96\)", build("qwen3"))
    text = (folder / CONFIG_FILE).read_text()
    settings = json.loads(text)
    (folder / CONFIG_FILE).write_text(json.dumps(settings | {"num_virtual_tokens": 5}))
    refused(r"prompt_embeddings is \(4, 80\) and should be \(5, 80\)", build())
    (folder / CONFIG_FILE).write_text(json.dumps(settings | {"num_virtual_tokens": 0}))
    refused("a damaged configuration: num_virtual_tokens=0 must be at least 1", build())
    del settings["prefix_projection"]
    (folder / CONFIG_FILE).write_text(json.dumps(settings))
    refused("a damaged configuration: 'prefix_projection'", build())
    (folder / CONFIG_FILE).write_text(text)
    whole = (folder / TENSORS_FILE).read_bytes()
    (folder / TENSORS_FILE).write_bytes(whole[:-9])
    refused("holds a damaged adapter", build())


def test_prompts_and_other_methods_take_turns_on_one_base():
    model, expected = build(), {}
    adapters = AdapterSet(apply(model, PromptTuningConfig(num_virtual_tokens=2)), "short")
    methods = METHODS | {"lora": LoRAConfig(rank=2), "bottleneck": BottleneckConfig()}
    for kind, method in methods.items():
        disturb(apply(remove(model), method))
        adapters.keep(kind)
        expected[kind] = logits(model)
    for kind in (*expected, *reversed(expected)):
        adapters.use(kind)
        assert adapters.active == kind
        assert torch.allclose(logits(model), expected[kind], atol=1e-6)
    adapters.use("prefix")
    adapters.mix({"lora": 1.0})
    assert torch.allclose(logits(model), expected["lora"], atol=1e-6)
    adapters.use("prompt")
    adapters.stack(["bottleneck"])
    assert torch.equal(logits(model), expected["bottleneck"])
    for pair in (["prompt", "p-tuning"], ["lora", "prompt"]):
        with pytest.raises(ValueError, match="cannot be mixed"):
            adapters.mix(dict.fromkeys(pair, 1.0))
        with pytest.raises(ValueError, match="must be one or more bottleneck adapters"):
            adapters.stack(pair)
    assert torch.equal(logits(model), expected["bottleneck"])
    assert torch.equal(logits(remove(model)), logits(build()))


def test_an_optimizer_goes_on_with_a_switched_prompt():
    model = prompted("prompt")
    adapters, first = AdapterSet(model, "one"), logits(model)
    optimizer = torch.optim.SGD(model.soft_prompt.parameters(), lr=10.0)
    with torch.no_grad():
        model.soft_prompt.encoder.weight.mul_(2)
    adapters.keep("two")
    adapters.use("one")
    assert torch.equal(logits(model), first)
    model(IDS, labels=IDS).loss.backward()
    optimizer.step()
    assert not torch.allclose(logits(model), first, atol=1e-3)
    adapters.use("one")
    assert torch.equal(logits(model), first)


def test_a_prompt_from_disk_joins_a_lora_and_brings_its_head(tmp_path: Path):
    other = apply(classifier("tokens"), TASK_METHODS["v2"])
    with torch.no_grad():
        other.score.weight.mul_(3)
    folder = save_adapter(other, tmp_path)
    model = disturb(apply(classifier("tokens"), LoRAConfig(rank=2)))
    adapters, first = AdapterSet(model, "lora"), logits(model)
    adapters.load("v2", folder)
    adapters.use("v2")
    assert torch.equal(logits(model), logits(other))
    # The mixture of one LoRA under the head that is there.
    adapters.mix({"lora": 1.0})
    assert torch.allclose(
        logits(model) - model.score.bias, 3 * (first - classifier("tokens").score.bias), atol=1e-5
    )
    adapters.use("lora")
    assert torch.equal(logits(model), first)


def test_virtual_tokens_count_when_a_text_is_to_fit_the_context():
    model = prompted("prompt")
    context = model.config.max_position_embeddings
    ids = torch.ones(1, context - N - 3, dtype=torch.long)
    options = {"eos_token_id": -1, "pad_token_id": 0}
    assert generate_tokens(model, ids, ids, max_new_tokens=3, **options).shape == (1, 3)
    with pytest.raises(ValueError, match=f"{N} virtual tokens, prompt 0 of {ids.shape[1]} tokens"):
        generate_tokens(model, ids, ids, max_new_tokens=4, **options)
    remove(model)
    assert generate_tokens(model, ids, ids, max_new_tokens=4, **options).shape == (1, 4)
