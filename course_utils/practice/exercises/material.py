"""What checks run answers on: random tensors, a layer with a low-rank update, a model's shapes."""

from functools import cache

import torch
from torch import Tensor


def draw(*shape: int, seed: int = 0) -> Tensor:
    """Return standard normal numbers of this shape, the same ones at every call."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def draw_layer(d_out: int, d_in: int, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return W, A and B of a layer; unlike at the start of a training, B is not zero.

    Returns:
        W, (d_out, d_in); A, (rank, d_in); B, (d_out, rank).
    """
    return draw(d_out, d_in, seed=1), draw(rank, d_in, seed=2), draw(d_out, rank, seed=3)


@cache
def linear_shapes() -> tuple[tuple[int, int], ...]:
    """Return (d_out, d_in) of all linear layers of the embedded model but the head."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from course_utils.methods.layers import find_linear, shape_of

    config = LlamaConfig(
        vocab_size=3072,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=6,
        num_attention_heads=4,
    )
    with torch.device("meta"):
        model = LlamaForCausalLM(config)
    return tuple(shape_of(layer) for layer in find_linear(model, "all-linear").values())
