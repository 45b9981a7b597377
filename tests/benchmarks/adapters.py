"""Training steps a second of our LoRA and DoRA, of PEFT's, and of QLoRA on the CPU.

The same models, batch and optimizer, under transformers' own pass: what is compared is the layers.
"""

import time
import warnings

import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

from course_utils.methods import apply
from course_utils.methods.dora import DoRAConfig
from course_utils.methods.lora import LoRAConfig
from course_utils.models import load_base_model
from course_utils.quantization import quantize_model
from tests.benchmarks.contest import Contest

RANK, STEPS = 8, 2
SHAPE_135M = LlamaConfig(
    hidden_size=576,
    num_hidden_layers=30,
    intermediate_size=1536,
    num_attention_heads=9,
    num_key_value_heads=3,
    vocab_size=49152,
    tie_word_embeddings=True,
    use_cache=False,
)


def embedded() -> PreTrainedModel:
    """Return the embedded model."""
    return load_base_model("embedded")


def shape_135m() -> PreTrainedModel:
    """Return a model of SmolLM2-135M's shape, with random weights."""
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(SHAPE_135M)


# Each with the batch that it trains on.
SHAPES = {"embedded": (embedded, (16, 64)), "135M shape": (shape_135m, (2, 64))}


def of_peft(model: nn.Module, *, use_dora: bool = False) -> nn.Module:
    """Put PEFT's LoRA on a model."""
    config = LoraConfig(r=RANK, lora_alpha=16, target_modules="all-linear", use_dora=use_dora)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return get_peft_model(model, config)


METHODS = {
    "LoRA": {
        "ours": lambda model: apply(model, LoRAConfig(rank=RANK)),
        "PEFT": of_peft,
    },
    "DoRA": {
        "ours": lambda model: apply(model, DoRAConfig(rank=RANK)),
        "PEFT": lambda model: of_peft(model, use_dora=True),
    },
    "QLoRA": {
        "ours, QLoRA": lambda model: apply(quantize_model(model), LoRAConfig(rank=RANK)),
        "LoRA": lambda model: apply(model, LoRAConfig(rank=RANK)),
    },
}


def steps(shape: str, method: str, n_steps: int = STEPS) -> Contest:
    """Training steps a second on one shape."""
    build, size = SHAPES[shape]
    ids = torch.randint(1, 3000, size)
    models = {name: put_on(build()).train() for name, put_on in METHODS[method].items()}
    return {
        name: lambda model=model: steps_a_second(model, ids, n_steps)
        for name, model in models.items()
    }


def steps_a_second(model: nn.Module, ids: torch.Tensor, n_steps: int) -> float:
    """Return how many training steps a model takes a second."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], fused=True)
    start = time.perf_counter()
    for _ in range(n_steps):
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return n_steps / (time.perf_counter() - start)
