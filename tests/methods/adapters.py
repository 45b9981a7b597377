"""Small models, and adapters that are no longer no-ops, for the tests of methods."""

import torch
from torch import nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from course_utils.methods.layers import adapted_layers

SHAPE = {
    "vocab_size": 61,
    "hidden_size": 40,
    "intermediate_size": 72,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
}
MODELS = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE)),
    "llama with biases": lambda: LlamaForCausalLM(
        LlamaConfig(**SHAPE, attention_bias=True, mlp_bias=True)
    ),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(**SHAPE, head_dim=12)),
    "gpt2": lambda: GPT2LMHeadModel(
        GPT2Config(
            vocab_size=61,
            n_embd=36,
            n_layer=2,
            n_head=3,
            n_positions=32,
            resid_pdrop=0,
            embd_pdrop=0,
            attn_pdrop=0,
        )
    ),
}
IDS = torch.randint(1, 61, (3, 11), generator=torch.Generator().manual_seed(0))


def build(name: str = "llama", seed: int = 0) -> nn.Module:
    """Return a model whose every parameter is random, biases and norms as well."""
    torch.manual_seed(seed)
    model = MODELS[name]().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model


def disturb(model: nn.Module, seed: int = 1) -> nn.Module:
    """Move every trainable parameter of the adapted layers away from its start."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in adapted_layers(model).values():
            for parameter in layer.parameters():
                if parameter.requires_grad:
                    parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def logits(model: nn.Module) -> torch.Tensor:
    """Return the logits of a fixed batch, (3, 11, vocab), or (3, labels) of a classifier."""
    with torch.no_grad():
        return model(IDS).logits
