"""What the estimate says of a method, against what a step with our layers takes."""

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen3Config

from course_utils.measure import measure_training_step
from course_utils.memory import architecture_of, estimate
from course_utils.methods import apply
from course_utils.methods.dora import DoRAConfig
from course_utils.methods.dylora import DyLoRAConfig
from course_utils.methods.lora import LoRAConfig
from course_utils.models import load_base_model
from course_utils.quantization import NF4Linear, quantize_model

SHAPES = {
    "embedded": None,
    "deep and narrow": LlamaConfig(
        hidden_size=96, num_hidden_layers=5, intermediate_size=256, num_attention_heads=3,
        vocab_size=500, use_cache=False,
    ),
    "biases": LlamaConfig(
        hidden_size=128, num_hidden_layers=2, intermediate_size=192, num_attention_heads=4,
        vocab_size=300, attention_bias=True, mlp_bias=True, use_cache=False,
    ),
    "qwen3": Qwen3Config(
        hidden_size=96, num_hidden_layers=3, intermediate_size=256, num_attention_heads=6,
        num_key_value_heads=2, head_dim=32, vocab_size=800, use_cache=False,
    ),
}  # fmt: skip
METHODS = {
    "LoRA": LoRAConfig(rank=8),
    "LoRA, q and v": LoRAConfig(rank=4, target_modules=("q_proj", "v_proj")),
    "LoRA, dropout": LoRAConfig(rank=8, dropout=0.1),
    "DoRA": DoRAConfig(rank=8),
    "DyLoRA": DyLoRAConfig(rank=8),
}


FOUR_BITS = {"QLoRA": LoRAConfig(rank=8), "QDoRA": DoRAConfig(rank=8)}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", [*METHODS, *FOUR_BITS])
def test_a_step_takes_what_the_estimate_says(shape: str, name: str):
    torch.manual_seed(0)
    config = SHAPES[shape]
    model = AutoModelForCausalLM.from_config(config) if config else load_base_model("embedded")
    model.config.use_cache = False
    architecture = architecture_of(model)
    method, bits = (METHODS | FOUR_BITS)[name], None
    if name in FOUR_BITS:
        quantize_model(model)
        layers = [layer for layer in model.modules() if isinstance(layer, NF4Linear)]
        bits = sum(layer.quantized.bits_per_element for layer in layers) / len(layers)
    apply(model, method)
    ids = torch.randint(1, architecture.vocab_size, (2, 64))
    measured = measure_training_step(model, {"input_ids": ids, "labels": ids})
    predicted = estimate(architecture, method, batch_size=2, seq_len=64, frozen_weight_bits=bits)
    for part in ("weights", "gradients", "optimizer", "activations", "peak"):
        expected = getattr(measured, f"{part}_bytes")
        assert getattr(predicted, f"{part}_bytes") == pytest.approx(expected, rel=0.1), part
