"""What the estimate says of a method, against what a step with our layers takes."""

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    PreTrainedModel,
    Qwen3Config,
)

from course_utils.measure import MemoryMeasurement, measure_training_step, parameter_bytes
from course_utils.memory import MemoryEstimate, architecture_of, estimate
from course_utils.memory.architecture import LINEARS
from course_utils.methods import apply, count_parameters
from course_utils.methods.bottleneck import BottleneckConfig
from course_utils.methods.dora import DoRAConfig
from course_utils.methods.dylora import DyLoRAConfig
from course_utils.methods.lora import LoRAConfig
from course_utils.methods.lora_xs import LoRAXSConfig
from course_utils.methods.nola import NOLAConfig
from course_utils.methods.p_tuning import PTuningConfig
from course_utils.methods.prefix_tuning import PrefixTuningConfig, PTuningV2Config
from course_utils.methods.prompt_tuning import PromptTuningConfig
from course_utils.methods.tiny_lora import TinyLoRAConfig
from course_utils.methods.virtual_tokens import SoftPromptConfig
from course_utils.models import load_base_model
from course_utils.quantization import quantize_model

SHAPES = {
    "embedded": None,
    "deep and narrow": LlamaConfig(
        hidden_size=96,
        num_hidden_layers=5,
        intermediate_size=256,
        num_attention_heads=3,
        vocab_size=500,
        use_cache=False,
    ),
    "biases": LlamaConfig(
        hidden_size=128,
        num_hidden_layers=2,
        intermediate_size=192,
        num_attention_heads=4,
        vocab_size=300,
        attention_bias=True,
        mlp_bias=True,
        use_cache=False,
    ),
    "qwen3": Qwen3Config(
        hidden_size=96,
        num_hidden_layers=3,
        intermediate_size=256,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=32,
        vocab_size=800,
        use_cache=False,
    ),
}
METHODS = {
    "LoRA": LoRAConfig(rank=8),
    "LoRA, q and v": LoRAConfig(rank=4, target_modules=("q_proj", "v_proj")),
    "LoRA, dropout": LoRAConfig(rank=8, dropout=0.1),
    "DoRA": DoRAConfig(rank=8),
    "DoRA, dropout": DoRAConfig(rank=8, dropout=0.1),
    "DoRA, attached": DoRAConfig(rank=8, detach_norm=False),
    "DoRA, attached, dropout": DoRAConfig(rank=8, detach_norm=False, dropout=0.1),
    "DyLoRA": DyLoRAConfig(rank=8),
    "LoRA-XS": LoRAXSConfig(rank=5),
    "LoRA-XS, q and v": LoRAXSConfig(rank=8, target_modules=("q_proj", "v_proj")),
    "TinyLoRA": TinyLoRAConfig(),
    "TinyLoRA, dropout": TinyLoRAConfig(dropout=0.1),
    "TinyLoRA, half tied": TinyLoRAConfig(rank=4, n_numbers=5, weight_tying=0.5),
    "NOLA": NOLAConfig(rank=4, n_bases=16),
    "NOLA, q and v": NOLAConfig(rank=8, n_bases=5, target_modules=("q_proj", "v_proj")),
}
ADAPTERS = {
    "bottleneck, two a block": BottleneckConfig(bottleneck_size=16),
    "bottleneck, one a block": BottleneckConfig(
        bottleneck_size=24, placement="pfeiffer", activation="relu"
    ),
}
PROMPTS = {
    "prompt": PromptTuningConfig(num_virtual_tokens=8),
    "P-tuning": PTuningConfig(num_virtual_tokens=8),
}
PREFIXES = {
    "prefix": PrefixTuningConfig(num_virtual_tokens=8),
    "prefix, projected": PrefixTuningConfig(num_virtual_tokens=8, projection=True),
}
FOUR_BITS = {
    "QLoRA": LoRAConfig(rank=8),
    "QDoRA": DoRAConfig(rank=8),
    "QDoRA, attached": DoRAConfig(rank=8, detach_norm=False),
    "LoRA-XS": LoRAXSConfig(rank=5),
    "TinyLoRA": TinyLoRAConfig(),
    "QNOLA": NOLAConfig(rank=4, n_bases=16),
    "bottleneck": ADAPTERS["bottleneck, two a block"],
    "prompt": PROMPTS["prompt"],
    "prefix": PREFIXES["prefix"],
}
# Bits a weight of NF4 in blocks of 64, by whether the scales are quantised too
# (arXiv:2305.14314, section 3).
NF4_BITS = {True: 4.127, False: 4.5}
PARTS = ("weights", "gradients", "optimizer", "activations", "logits", "peak")
Method = (
    LoRAConfig | LoRAXSConfig | TinyLoRAConfig | NOLAConfig | BottleneckConfig | SoftPromptConfig
)


def build(shape: str) -> PreTrainedModel:
    torch.manual_seed(0)
    config = SHAPES[shape]
    model = AutoModelForCausalLM.from_config(config) if config else load_base_model("embedded")
    model.config.use_cache = False
    return model


def both(
    shape: str,
    method: Method,
    *,
    is_double: bool | None = None,
    checkpointing: bool = False,
    is_padded: bool = False,
    attention: str = "sdpa",
) -> tuple[MemoryEstimate, MemoryMeasurement]:
    """Estimate and measure a step of the method, with the base in four bits if that is given."""
    model = build(shape)
    model.set_attn_implementation(attention)
    architecture = architecture_of(model)
    if is_double is not None:
        quantize_model(model, is_double=is_double)
    apply(model, method)
    if checkpointing:
        model.activation_checkpointing_enable()
    ids = torch.randint(1, architecture.vocab_size, (2, 64))
    mask = torch.ones_like(ids)
    mask[0, -16 if is_padded else 64 :] = 0
    measured = measure_training_step(
        model, {"input_ids": ids, "attention_mask": mask, "labels": ids}
    )
    predicted = estimate(
        architecture,
        method,
        batch_size=2,
        seq_len=64,
        gradient_checkpointing=checkpointing,
        is_padded=is_padded,
        attention=attention,
        frozen_weight_bits=None if is_double is None else NF4_BITS[is_double],
    )
    return predicted, measured


def check(predicted: MemoryEstimate, measured: MemoryMeasurement) -> None:
    for part in PARTS:
        expected = getattr(measured, f"{part}_bytes")
        assert getattr(predicted, f"{part}_bytes") == pytest.approx(expected, rel=0.1), part


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", METHODS)
def test_a_step_takes_what_the_estimate_says(shape: str, name: str, checkpointing: bool):
    predicted, measured = both(shape, METHODS[name], checkpointing=checkpointing)
    check(predicted, measured)
    if name != "DyLoRA":  # whose step has a rank of its own, below the largest
        # The first block's input needs no gradient, so that some of its matrices are not kept.
        blocks = list(measured.layers_bytes[1:])
        assert list(predicted.layers_bytes[1:]) == pytest.approx(blocks, rel=1e-3)


@pytest.mark.parametrize("is_padded", [False, True])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", [*ADAPTERS, *PROMPTS, *PREFIXES])
def test_a_step_with_adapters_or_virtual_tokens_is_known_block_by_block(
    name: str, shape: str, attention: str, is_padded: bool
):
    method = (ADAPTERS | PROMPTS | PREFIXES)[name]
    predicted, measured = both(shape, method, attention=attention, is_padded=is_padded)
    for part in PARTS:
        expected = getattr(measured, f"{part}_bytes")
        # The network behind P-tuning or a projected prefix keeps a little, outside the blocks.
        assert getattr(predicted, f"{part}_bytes") == pytest.approx(expected, rel=0.01), part
    assert predicted.layers_bytes == measured.layers_bytes


@pytest.mark.parametrize("shape", ["biases", "qwen3"])
@pytest.mark.parametrize("name", [*ADAPTERS, *PROMPTS])
def test_checkpointing_makes_virtual_tokens_again_with_the_text(name: str, shape: str):
    predicted, measured = both(shape, (ADAPTERS | PROMPTS)[name], checkpointing=True)
    check(predicted, measured)
    assert predicted.layers_bytes == measured.layers_bytes
    assert predicted.recomputed_bytes == measured.recomputed_bytes


def test_an_lstm_keeps_what_its_kernel_likes():
    # Between 0.3 and 0.8 MB that no formula gives: only the peak is known, to the usual 10 %.
    for shape in ("embedded", "qwen3"):
        predicted, measured = both(shape, PTuningConfig(num_virtual_tokens=8, encoder="lstm"))
        assert predicted.gradients_bytes == measured.gradients_bytes
        assert predicted.optimizer_bytes == measured.optimizer_bytes
        assert predicted.peak_bytes == pytest.approx(measured.peak_bytes, rel=0.1)


def test_virtual_tokens_lengthen_what_the_blocks_keep_and_not_the_logits():
    shape = architecture_of(build("qwen3"))
    none, prompt, prefix = (
        estimate(shape, method, batch_size=2, seq_len=seq_len)
        for method, seq_len in (
            (PROMPTS["prompt"], 56),
            (PROMPTS["prompt"], 64),
            (PREFIXES["prefix"], 64),
        )
    )
    assert prompt.layers_bytes[1] * (56 + 8) == none.layers_bytes[1] * (64 + 8)
    assert prompt.logits_bytes == prefix.logits_bytes == 12 * 2 * 64 * shape.vocab_size
    # A prefix goes through nothing: its keys and values are kept, its places in the mask, no more.
    kept = {tensor.name: tensor.n_bytes for tensor in prefix.block}
    assert kept["queries"] == 4 * 2 * 64 * shape.q_width
    assert kept["keys and values"] == 4 * 2 * (64 + 8) * 2 * shape.q_width
    assert kept["mask"] == 4 * 2 * 64 * (64 + 8)


@pytest.mark.parametrize("n_virtual", [8, 64])
def test_a_classifiers_prefix_is_held_twice_where_heads_share_keys(n_virtual: int):
    config = Qwen3Config(**SHAPES["qwen3"].to_dict() | {"pad_token_id": 0})
    torch.manual_seed(0)
    model = AutoModelForSequenceClassification.from_config(config)
    architecture, method = architecture_of(model), PTuningV2Config(num_virtual_tokens=n_virtual)
    apply(model, method)
    ids, labels = torch.randint(1, 800, (4, 64)), torch.zeros(4, dtype=torch.long)
    measured = measure_training_step(model, {"input_ids": ids, "labels": labels})
    predicted = estimate(architecture, method, batch_size=4, seq_len=64)
    # Without large logits the peak comes on the way up, with the cache beside what is kept.
    assert predicted.peak_moment == "cache"
    assert predicted.peak_bytes == pytest.approx(measured.peak_bytes, rel=0.02)


def test_checkpointing_is_refused_for_a_prefix():
    with pytest.raises(ValueError, match=r"gradient_checkpointing=True .* 8 a layer.* be False"):
        estimate(
            "SmolLM2-135M", PREFIXES["prefix"], batch_size=1, seq_len=8, gradient_checkpointing=True
        )


@pytest.mark.parametrize("is_double", NF4_BITS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", FOUR_BITS)
def test_a_step_in_four_bits_takes_what_the_estimate_says(shape: str, name: str, is_double: bool):
    predicted, measured = both(shape, FOUR_BITS[name], is_double=is_double)
    check(predicted, measured)
    # A tensor's mean of scales, and its last block of them, cost little even in small matrices.
    assert predicted.weights_bytes == pytest.approx(measured.weights_bytes, rel=2e-3)


@pytest.mark.parametrize("shape", SHAPES)
def test_doras_norm_in_the_graph_keeps_one_matrix_a_layer(shape: str):
    predicted, measured = zip(
        *(both(shape, DoRAConfig(rank=8, detach_norm=detach)) for detach in (False, True)),
        strict=True,
    )
    architecture = predicted[0].architecture
    shapes = (architecture.linear_shape(linear) for linear in LINEARS)
    extra = 4 * sum((d_in + 1) * d_out for d_in, d_out in shapes)
    for attached, detached in (predicted, measured):
        more = zip(attached.layers_bytes, detached.layers_bytes, strict=True)
        assert [with_norm - without for with_norm, without in more] == (
            [extra] * architecture.n_layers
        )
        assert attached.weights_bytes == detached.weights_bytes


@pytest.mark.parametrize("shape", SHAPES)
def test_nola_trains_little_and_holds_much(shape: str):
    method, model = METHODS["NOLA"], build(shape)
    architecture = architecture_of(model)
    before = parameter_bytes(model)
    apply(model, method)
    predicted = estimate(architecture, method, batch_size=1, seq_len=1)
    assert predicted.n_trained == count_parameters(model).trainable
    assert predicted.n_trained == architecture.n_layers * len(LINEARS) * 2 * method.n_bases
    widths = sum(sum(architecture.linear_shape(linear)) for linear in LINEARS)
    held = architecture.n_layers * method.n_bases * method.rank * widths
    assert predicted.weights_bytes == parameter_bytes(model)
    assert predicted.weights_bytes == before + 4 * (held + predicted.n_trained)
    assert predicted.n_parameters == architecture.n_parameters + predicted.n_trained


@pytest.mark.parametrize("name", ["LoRA", "DoRA", "NOLA", *ADAPTERS, *PROMPTS, *PREFIXES])
def test_a_classifiers_head_is_counted(name: str):
    method = (METHODS | ADAPTERS | PROMPTS | PREFIXES)[name]
    config = LlamaConfig(**SHAPES["biases"].to_dict() | {"num_labels": 3})
    model = AutoModelForSequenceClassification.from_config(config)
    predicted = estimate(model, method, batch_size=1, seq_len=1)
    assert predicted.n_trained == count_parameters(apply(model, method)).trainable


def test_gpt2_is_refused_in_one_sentence_whatever_its_weights_are_stored_in():
    for model in (build_gpt2(), quantize_model(build_gpt2())):
        with pytest.raises(ValueError, match=r"^model_type='gpt2' must be one of llama, [^.]*$"):
            estimate(model, LoRAConfig(), batch_size=1, seq_len=8, frozen_weight_bits=4.127)


def build_gpt2() -> PreTrainedModel:
    return GPT2LMHeadModel(GPT2Config(vocab_size=61, n_embd=36, n_layer=2, n_head=3))
