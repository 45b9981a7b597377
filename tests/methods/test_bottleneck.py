"""Bottleneck adapters, one at a time; several on one base: test_bottleneck_sets."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
)

from course_utils.generation import generate_tokens
from course_utils.memory import architecture_of
from course_utils.methods import (
    AdapterError,
    adapter_disabled,
    apply,
    count_parameters,
    load_adapter,
    merge,
    remove,
    save_adapter,
)
from course_utils.methods.bottleneck import ACTIVATIONS, BottleneckAdapter, BottleneckConfig
from course_utils.methods.layers import adapted_layers
from course_utils.methods.lora import LoRAConfig
from course_utils.methods.storage.folder import CONFIG_FILE, TENSORS_FILE
from course_utils.models import set_activation_checkpointing
from course_utils.quantization import quantize_model
from tests.methods.adapters import IDS, MODELS, build, disturb, logits

CONFIG = BottleneckConfig(bottleneck_size=5, scaling=0.7)
PLACEMENTS = ("houlsby", "pfeiffer")
every_model = pytest.mark.parametrize("name", MODELS)
Change = Callable[[int, Tensor], Tensor]


def adapted(config: BottleneckConfig = CONFIG, name: str = "llama", seed: int = 1) -> nn.Module:
    return disturb(apply(build(name), config), seed)


def numbers_of(model: nn.Module) -> list[tuple[Tensor, ...]]:
    """The two weights and biases of every adapter, in the order of the forward pass."""
    return [
        tuple(p.detach().clone() for p in layer.adapters.parameters())
        for layer in adapted_layers(model).values()
    ]


def update(h: Tensor, numbers: tuple[Tensor, ...], f: Callable = nn.functional.gelu) -> Tensor:
    """The equation: f(h W_down^T + b_down) W_up^T + b_up."""
    w_down, b_down, w_up, b_up = numbers
    return f(h @ w_down.T + b_down) @ w_up.T + b_up


def changed_base(name: str, change: Change, placement: str = "houlsby") -> Tensor:
    """The logits of a base whose sublayers' outputs, before the residual sum, are changed."""
    model = build(name)
    blocks = model.transformer.h if name == "gpt2" else model.model.layers
    places = [
        part
        for block in blocks
        for kind, part in block.named_children()
        if kind == "mlp" or (kind in ("attn", "self_attn") and placement == "houlsby")
    ]
    for k, place in enumerate(places):

        def hook(_: nn.Module, __: tuple, output, k: int = k):
            if isinstance(output, tuple):
                return change(k, output[0]), *output[1:]
            return change(k, output)

        place.register_forward_hook(hook)
    return logits(model)


@every_model
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_the_logits_are_those_of_the_equation(placement: str, name: str):
    config = BottleneckConfig(bottleneck_size=5, scaling=0.7, placement=placement)
    model = adapted(config, name)
    numbers = numbers_of(model)
    assert len(numbers) == (4 if placement == "houlsby" else 2)
    expected = changed_base(name, lambda k, h: h + 0.7 * update(h, numbers[k]), placement)
    assert torch.allclose(logits(model), expected, atol=1e-6)
    assert not torch.allclose(expected, logits(build(name)), atol=1e-2)


@pytest.mark.parametrize(
    ("activation", "f"),
    [
        ("relu", lambda x: x.clamp(min=0)),
        ("gelu", lambda x: x * (1 + torch.erf(x / 2**0.5)) / 2),
        ("silu", lambda x: x / (1 + torch.exp(-x))),
        ("tanh", lambda x: 2 / (1 + torch.exp(-2 * x)) - 1),
    ],
)
def test_one_adapter_and_its_gradients(activation: str, f: Callable):
    torch.manual_seed(0)
    adapter = BottleneckAdapter(9, 4, activation=activation, scaling=1.5).double()
    h = torch.randn(2, 6, 9, dtype=torch.float64, requires_grad=True)
    assert torch.equal(adapter(h), h)
    for parameter in adapter.parameters():
        nn.init.normal_(parameter)
    leaves = (h, *adapter.parameters())
    written = h + 1.5 * update(h, leaves[1:], f)
    ours = adapter(h)
    assert torch.allclose(ours, written, rtol=1e-12)
    for a, b in zip(
        *(torch.autograd.grad(out.pow(3).sum(), leaves) for out in (ours, written)), strict=True
    ):
        assert torch.allclose(a, b, rtol=1e-10)
    assert set(ACTIVATIONS) == {"relu", "gelu", "silu", "tanh"}


@every_model
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_it_starts_as_the_base_and_with_these_many_numbers(placement: str, name: str):
    model = build(name)
    d, m, is_counted = model.config.hidden_size, 5, name != "gpt2"
    architecture = architecture_of(model) if is_counted else None
    config = BottleneckConfig(bottleneck_size=m, placement=placement)
    apply(model, config)
    n_adapters = 2 * (2 if placement == "houlsby" else 1)
    trainable = count_parameters(model).trainable
    assert trainable == n_adapters * (2 * d * m + d + m)
    if is_counted:  # memory.estimate knows no GPT-2
        assert trainable == sum(config.footprint(architecture).sizes(architecture))
    assert torch.equal(logits(model), logits(build(name)))
    last = {"gpt2": {"attn.c_proj", "mlp.c_proj"}}.get(name, {"self_attn.o_proj", "mlp.down_proj"})
    found = {".".join(layer.split(".")[-2:]) for layer in adapted_layers(model)}
    assert found == (last if placement == "houlsby" else {p for p in last if "mlp" in p})
    model(IDS, labels=IDS).loss.backward()
    with_gradient = [p for p in model.parameters() if p.grad is not None]
    assert sum(p.numel() for p in with_gradient) == trainable


@every_model
def test_off_removed_or_with_no_strength_the_base_answers_bit_for_bit(name: str):
    model, base = adapted(name=name), logits(build(name))
    before = logits(model)
    with adapter_disabled(model):
        assert torch.equal(logits(model), base)
    assert torch.equal(logits(model), before)
    silent = adapted(BottleneckConfig(bottleneck_size=5, scaling=0.0), name)
    for plain in (silent, remove(model)):
        assert torch.equal(logits(plain), base)
    assert model.state_dict().keys() == build(name).state_dict().keys()


@every_model
def test_it_continues_a_text_with_a_cache_as_without(name: str):
    model = adapted(name=name)
    mask, ids = torch.ones_like(IDS), IDS
    new = generate_tokens(model, IDS, mask, max_new_tokens=5, eos_token_id=-1, pad_token_id=0)
    for _ in range(5):
        ids = torch.cat([ids, logits_of(model, ids)[:, -1:].argmax(dim=-1)], dim=1)
    assert torch.equal(ids[:, -5:], new)


def logits_of(model: nn.Module, ids: Tensor) -> Tensor:
    with torch.no_grad():
        return model(ids, use_cache=False).logits


def test_it_cannot_be_merged():
    model = adapted()
    before = logits(model)
    with pytest.raises(ValueError, match="adapter is not linear, so no weight amounts to it: it"):
        merge(model)
    assert torch.equal(logits(model), before)
    assert model.train().training


def test_a_base_in_16_or_4_bits():
    exact, half = logits(adapted()), adapted().bfloat16()
    with_half_base = disturb(apply(build().bfloat16(), CONFIG))
    quantized = apply(quantize_model(build()), CONFIG)
    assert torch.equal(logits(quantized), logits(quantize_model(build())))
    disturb(quantized)
    for model in (with_half_base, quantized):
        trained = [p for p in model.parameters() if p.requires_grad]
        assert {p.dtype for p in trained} == {torch.float32}
        model(IDS, labels=IDS).loss.backward()
        assert all(p.grad.norm() > 0 for p in trained)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = logits(adapted())
    # bfloat16 has eight bits of mantissa.
    for result in (logits(half), logits(with_half_base), mixed):
        assert result.dtype == torch.bfloat16
        assert (result.float() - exact).abs().max() < 0.04 * exact.abs().max()
    with adapter_disabled(quantized):
        assert torch.equal(logits(quantized), logits(quantize_model(build())))


def test_recomputed_blocks_give_the_same_gradients():
    model, gradients = adapted().train(), []
    for is_on in (False, True):
        set_activation_checkpointing(model, is_on)
        model.zero_grad()
        model(IDS, labels=IDS).loss.backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.requires_grad])
    assert all(torch.allclose(a, b, rtol=1e-4, atol=1e-7) for a, b in zip(*gradients, strict=True))


def classifier() -> nn.Module:
    torch.manual_seed(0)
    return GPT2ForSequenceClassification(
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
        )
    ).eval()


@every_model
def test_what_is_saved_is_loaded(name: str, tmp_path: Path):
    config = BottleneckConfig(reduction_factor=7.5, placement="pfeiffer", activation="tanh")
    model = adapted(config, name)
    again = load_adapter(build(name), save_adapter(model, tmp_path))
    assert torch.equal(logits(again), logits(model))
    assert again.fine_tuning_method == config
    assert len(load_file(tmp_path / TENSORS_FILE)) == 2 * 4


def test_a_classifiers_head_is_saved_as_well(tmp_path: Path):
    model = disturb(apply(classifier(), CONFIG))
    with torch.no_grad():
        model.score.weight.mul_(2)
    again = load_adapter(classifier(), save_adapter(model, tmp_path))
    assert torch.equal(logits(again), logits(model))
    assert again.score.weight.requires_grad


def test_files_that_are_none_for_this_model(tmp_path: Path):
    folder = save_adapter(adapted(), tmp_path)
    text, whole = (folder / CONFIG_FILE).read_text(), (folder / TENSORS_FILE).read_bytes()

    def refused(message: str, model: nn.Module | None = None, **settings: object) -> None:
        model = model or build()
        (folder / CONFIG_FILE).write_text(json.dumps(json.loads(text) | settings))
        before = logits(model)
        with pytest.raises(AdapterError, match=message):
            load_adapter(model, folder)
        assert torch.equal(logits(model), before)

    refused("adapter_config.json was changed since", scaling=1.0)
    (folder / CONFIG_FILE).write_text(text)
    with pytest.raises(AdapterError, match="was trained on another base model"):
        load_adapter(build(seed=3), folder)
    (folder / TENSORS_FILE).write_bytes(whole[:-7])
    refused("holds a damaged adapter")
    (folder / TENSORS_FILE).write_bytes(whole)
    header = {"course_utils_version": "1"}  # nothing of where it comes from
    save_file(load_file(folder / TENSORS_FILE), folder / TENSORS_FILE, metadata=header)
    refused(r"adapter_down.bias is \(5,\) and should be \(6,\)", bottleneck_size=6)
    refused("adapter_down.bias is .* and should be absent", placement="pfeiffer")
    refused("a damaged configuration: activation='sin' must be one of", activation="sin")
    refused(r"should be", build("gpt2"))
    refused("damaged configuration.*unexpected keyword argument 'size'", size=3)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bottleneck_size": 0}, "bottleneck_size=0 must be in 1..65536"),
        ({"reduction_factor": 0}, "reduction_factor=0 must be above 0"),
        (
            {"placement": "parallel"},
            "placement='parallel' must be one of houlsby, pfeiffer",
        ),
        ({"activation": "elu"}, "activation='elu' must be one of relu, gelu, silu, tanh"),
    ],
)
def test_bad_settings(settings: dict, message: str):
    with pytest.raises(ValueError, match=message):
        BottleneckConfig(**settings)


def test_models_that_it_fits_and_does_not_fit():
    model = build()
    with pytest.raises(ValueError, match="reduction_factor=41 must be at most 40"):
        apply(model, BottleneckConfig(reduction_factor=41))
    assert not adapted_layers(model)
    assert all(p.requires_grad for p in model.parameters())
    assert BottleneckConfig(reduction_factor=40).size_for(40) == 1
    assert BottleneckConfig(bottleneck_size=64).size_for(40) == 64
    names = list(CONFIG.layers_in(model))
    assert list(CONFIG.layers_in(apply(model, LoRAConfig(rank=2)))) == names
    assert list(CONFIG.layers_in(adapted())) == names
    with pytest.raises(ValueError, match="carries an adapter already"):
        apply(model, CONFIG)
    shape = {"vocab_size": 61, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3}
    bert = BertForSequenceClassification(BertConfig(**shape, intermediate_size=30))
    with pytest.raises(ValueError, match="has 3 parts with linear layers; adapters stand behind 2"):
        apply(bert, CONFIG)
    config = DistilBertConfig(vocab_size=61, dim=24, n_layers=2, n_heads=3, hidden_dim=30)
    encoder = DistilBertForSequenceClassification(config).eval()
    base = logits(encoder)
    assert torch.equal(logits(apply(encoder, CONFIG)), base)
    assert not torch.allclose(logits(disturb(encoder)), base, atol=1e-4)
