"""Writing on, one token of every text at a time: a trunk's step for a handful of rows.

A step of decoding multiplies every matrix of a model by a few columns. Here the columns stand as
such, features first, which suits the products better than rows do; each product is written where it
is needed next, and those that go into the residual stream are added to it as they are made.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from course_utils.models.lean import can_be_lean

if TYPE_CHECKING:
    from transformers import Cache


def can_decode(model: nn.Module, trunk: nn.Module) -> bool:
    """Say whether nothing about a model's step is special: no soft prompt, no hook, float32."""
    is_open = any((model._forward_hooks, model._forward_pre_hooks, trunk._forward_hooks))
    given = {"input_ids": 0, "inputs_embeds": None, "attention_mask": None, "use_cache": False}
    is_plain = can_be_lean(trunk, {**given, "past_key_values": None}, {})
    return is_plain and not (is_open or trunk._forward_pre_hooks)


@torch.no_grad()
def read_prompts(
    model: nn.Module,
    trunk: nn.Module,
    tokens: Tensor,
    mask: Tensor,
    positions: Tensor,
    cache: "Cache",
) -> Tensor:
    """Return the logits of the token after each prompt, (batch, vocab), and fill the cache.

    Args:
        model: Causal language model, in float32 on a processor.
        trunk: Its trunk, inside of ``lean``.
        tokens: Prompts, padded on the left, (batch, seq).
        mask: 1 on their tokens, 0 on padding, (batch, seq).
        positions: Positions of the tokens, (batch, seq).
        cache: An empty cache.
    """
    n_rows, n_columns = tokens.shape
    last = torch.arange(1, n_rows + 1) * n_columns - 1
    output = trunk(
        input_ids=tokens,
        attention_mask=mask,
        position_ids=positions,
        past_key_values=cache,
        keep=last,
    )
    return model.lm_head(output.last_hidden_state)


@torch.no_grad()
def decode(
    model: nn.Module,
    trunk: nn.Module,
    tokens: Tensor,
    mask: Tensor,
    positions: Tensor,
    cache: "Cache",
) -> Tensor:
    """Return the logits of the token after ``tokens``, (batch, vocab).

    Args:
        model: Causal language model, in float32 on a processor.
        trunk: Its trunk, of Llama's kind.
        tokens: The last token of each text, (batch, 1).
        mask: 1 on all tokens so far, 0 on padding, (batch, seq).
        positions: Position of the last token, (batch, 1).
        cache: Keys and values of all tokens before it, which gets those of this one.
    """
    x = trunk.embed_tokens(tokens[:, 0]).T.contiguous()
    cos, sin = trunk.rotary_emb(x, position_ids=positions)
    half = cos.shape[-1] // 2
    angles = tuple(part[:, 0, :half].T.contiguous() for part in (cos, sin))
    bias = None
    if not mask.all():
        bias = torch.zeros(mask.shape).masked_fill_(mask == 0, -torch.inf)[:, None, None]
    for block in trunk.layers:
        attention, mlp = block.self_attn, block.mlp
        mixed = _attended(attention, _normed(block.input_layernorm, x), angles, bias, cache)
        _add_product(attention.o_proj, mixed, x)
        normed = _normed(block.post_attention_layernorm, x)
        inner = nn.functional.silu(_product(mlp.gate_proj, normed), inplace=True)
        _add_product(mlp.down_proj, inner.mul_(_product(mlp.up_proj, normed)), x)
    return _product(model.lm_head, _normed(trunk.norm, x)).T.contiguous()


def _normed(layer: nn.Module, x: Tensor) -> Tensor:
    """Return each column over its root mean square, scaled, (d, batch)."""
    mean_square = torch.linalg.vector_norm(x, dim=0).square_().div_(len(x))
    inverse = mean_square.add_(layer.variance_epsilon).rsqrt_()
    return (x * inverse).mul_(layer.weight[:, None])


def _attended(
    attention: nn.Module,
    x: Tensor,
    angles: tuple[Tensor, Tensor],
    bias: Tensor | None,
    cache: "Cache",
) -> Tensor:
    """Return what the last token's queries find, (heads D, batch)."""
    width, n_rows = attention.head_dim, x.shape[1]
    q = _turned(_product(attention.q_proj, x), width, angles)
    k = _turned(_product(attention.k_proj, x), width, angles)
    v = _product(attention.v_proj, x).view(-1, width, n_rows)
    k, v = (part.permute(2, 0, 1)[:, :, None] for part in (k, v))
    keys, values = cache.update(k, v, attention.layer_idx)
    # Queries that share a head of keys stand beside one another, as that head's.
    queries = q.permute(2, 0, 1).contiguous().view(n_rows, keys.shape[1], -1, width)
    mixed = nn.functional.scaled_dot_product_attention(
        queries, keys, values, attn_mask=bias, scale=attention.scaling
    )
    return mixed.reshape(n_rows, -1).T


def _turned(x: Tensor, width: int, angles: tuple[Tensor, Tensor]) -> Tensor:
    """Turn each pair of a head's elements by its angle, (heads, D, batch)."""
    cos, sin = angles
    pairs = x.view(-1, 2, width // 2, x.shape[1])
    turned = pairs * cos
    turned[:, 0].addcmul_(pairs[:, 1], sin, value=-1)
    turned[:, 1].addcmul_(pairs[:, 0], sin)
    return turned.view(-1, width, x.shape[1])


def _product(layer: nn.Module, x: Tensor) -> Tensor:
    """Return what a linear layer makes of columns, (d_in, batch) to (d_out, batch)."""
    plain, update = _parts(layer)
    if plain is None:
        return layer(x.T).T.contiguous()
    product = plain.weight @ x
    if plain.bias is not None:
        product += plain.bias[:, None]
    if update is not None:
        A, B, scaling = update
        product.addmm_(B, A @ x, alpha=scaling)
    return product


def _add_product(layer: nn.Module, x: Tensor, stream: Tensor) -> None:
    """Add what a linear layer makes of columns to others, in place."""
    plain, update = _parts(layer)
    if plain is None:
        stream += layer(x.T).T
        return
    stream.addmm_(plain.weight, x)
    if plain.bias is not None:
        stream += plain.bias[:, None]
    if update is not None:
        A, B, scaling = update
        stream.addmm_(B, A @ x, alpha=scaling)


def _parts(layer: nn.Module) -> tuple[nn.Module | None, tuple[Tensor, Tensor, float] | None]:
    """Return the plain layer in a linear layer and its update of low rank, if it says it has one.

    Layers that are anything else, or are watched, are called as they are.
    """
    update = None
    if layer._forward_hooks or layer._forward_pre_hooks:
        return None, None
    if hasattr(layer, "plain_and_update"):
        layer, update = layer.plain_and_update()
    is_plain = type(layer) is nn.Linear and layer.weight.dtype == torch.float32
    return (layer, update) if is_plain else (None, None)
