"""Llama's forward pass on a processor: the same numbers for less work.

``with lean(model):`` puts another forward pass into the trunk of a model and takes it out again.
Transformers' modules stay as they are, and every linear layer is called as it is, adapted or in
four bits. Around them

* padding is not computed: the tokens of all texts of a batch are rows of one matrix, and texts are
  laid out beside one another for attention alone, packed ones too;
* what lies between two matrix products takes few passes over memory (``kernels``);
* behind the last attention only those tokens go on that somebody asks for.

Models of other architectures, in other precisions or on other devices keep their own pass.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from course_utils.models.kernels import (
    attend,
    causal_bias,
    collect,
    rms_norm,
    rotate,
    spread,
    swiglu,
)

if TYPE_CHECKING:
    from transformers import Cache

# False lets every model compute as transformers has it, as on a GPU.
IS_ON = True
# What shares Llama's block, as transformers writes it: pre-norm, rotary, SwiGLU.
_FAMILIES = ("Llama", "Qwen2", "Mistral")
_PARTS = {"self_attn": "Attention", "mlp": "MLP", "input_layernorm": "RMSNorm"}
_PARTS["post_attention_layernorm"] = "RMSNorm"
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


@contextmanager
def lean(model: nn.Module) -> Iterator[None]:
    """Let a model's trunk compute leanly inside the block, if it is of a kind that can.

    Whatever a call asks for beyond the last hidden states (all hidden states, attention's weights,
    recomputed activations), a hook on a block or a changed part of one: the trunk then computes as
    it always does.
    """
    trunk = trunk_of_llama(model)
    if not IS_ON or trunk is None or "forward" in vars(trunk):
        yield
        return
    trunk.forward = _lean_forward(trunk, trunk.forward)
    try:
        yield
    finally:
        del trunk.forward


def is_lean(trunk: nn.Module) -> bool:
    """Say whether a trunk is inside of ``lean``, so that it takes ``keep``."""
    return getattr(vars(trunk).get("forward"), "is_lean", False)


def unwrapped(model: nn.Module) -> nn.Module:
    """Return the model in PEFT's wrapper, which calls it as it is: not so with virtual tokens."""
    settings = getattr(model, "active_peft_config", None)
    return model if settings is None or settings.is_prompt_learning else model.get_base_model()


def trunk_of_llama(model: nn.Module) -> nn.Module | None:
    """Return the trunk of a model whose blocks are Llama's, or None for any other."""
    trunk = unwrapped(model)._modules.get("model")
    family = type(trunk).__name__.removesuffix("Model")
    if family not in _FAMILIES or trunk.config.hidden_act != "silu":
        return None
    has_window = getattr(trunk.config, "sliding_window", None) is not None
    kinds = set(getattr(trunk.config, "layer_types", None) or ("unknown",))
    return None if has_window and kinds != {"full_attention"} else trunk


def _has_plain_blocks(trunk: nn.Module) -> bool:
    """Say whether all blocks are as transformers makes them, and nobody looks into one."""
    family = type(trunk).__name__.removesuffix("Model")
    for block in trunk.layers:
        parts = [(block, "DecoderLayer"), *((getattr(block, p), k) for p, k in _PARTS.items())]
        if any(type(part).__name__ != family + kind or _is_watched(part) for part, kind in parts):
            return False
    return not _is_watched(trunk.norm)


def _is_watched(module: nn.Module) -> bool:
    state = vars(module)
    return "forward" in state or any(state[hooks] for hooks in _HOOKS)


def _lean_forward(trunk: nn.Module, original: Callable[..., Any]) -> Callable[..., Any]:
    from transformers.modeling_outputs import BaseModelOutputWithPast

    def forward(
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: "Cache | None" = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        keep: Tensor | None = None,
        **others: Any,  # noqa: ANN401
    ) -> BaseModelOutputWithPast:
        """As the trunk's own; ``keep``: of which tokens to return the state, by place, (n,)."""
        given = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "position_ids": position_ids,
            "past_key_values": past_key_values,
            "inputs_embeds": inputs_embeds,
            "use_cache": use_cache,
        }
        if not can_be_lean(trunk, given, others):
            output = original(**given, **others)
            if keep is not None:
                output.last_hidden_state = output.last_hidden_state.flatten(0, 1)[keep]
            return output
        if past_key_values is None or past_key_values.get_seq_length() == 0:
            hidden = _forward_texts(trunk, given, keep)
        else:
            hidden = _forward_with_cache(trunk, given)
            hidden = hidden if keep is None else hidden.flatten(0, 1)[keep]
        return BaseModelOutputWithPast(last_hidden_state=hidden, past_key_values=past_key_values)

    forward.is_lean = True
    return forward


def can_be_lean(trunk: nn.Module, given: dict[str, Any], others: dict[str, Any]) -> bool:
    """Say whether a call asks for no more than the last hidden states, and in float32."""
    config, mask, weight = trunk.config, given["attention_mask"], trunk.norm.weight
    wants_more = (
        any(
            others.get(name, getattr(config, name, False))
            for name in ("output_hidden_states", "output_attentions")
        )
        or (given["use_cache"] and given["past_key_values"] is None)
        or (mask is not None and mask.ndim != 2)
        or (given["input_ids"] is None) == (given["inputs_embeds"] is None)
    )
    is_recomputed = getattr(trunk.layers[0], "gradient_checkpointing", False)
    learns_otherwise = trunk.training and (is_recomputed or config.attention_dropout)
    is_float32 = weight.dtype == torch.float32 and weight.device.type == "cpu"
    is_float32 = is_float32 and not torch.is_autocast_enabled("cpu")
    is_usual = is_float32 and not (wants_more or learns_otherwise)
    return IS_ON and is_usual and _has_plain_blocks(trunk)


def _embedded(trunk: nn.Module, given: dict[str, Any]) -> Tensor:
    embedded = given["inputs_embeds"]
    return trunk.embed_tokens(given["input_ids"]) if embedded is None else embedded


def _angles(trunk: nn.Module, hidden: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Return cosines and sines, (..., 1, D / 2): transformers gives each of them twice."""
    cos, sin = trunk.rotary_emb(hidden, position_ids=positions)
    half = cos.shape[-1] // 2
    return cos[..., None, :half].contiguous(), sin[..., None, :half].contiguous()


@dataclass(frozen=True, kw_only=True)
class _Layout:
    """Where the tokens of a batch are, and where each goes for attention; all (n,).

    Args:
        tokens: Their places in the batch, flattened.
        positions: Their positions.
        texts: The text of each.
        slots: Its place in the text.
        lengths: How many tokens that text has.
    """

    tokens: Tensor
    positions: Tensor
    texts: Tensor
    slots: Tensor
    lengths: Tensor

    @classmethod
    def of(cls, shape: torch.Size, mask: Tensor | None, positions: Tensor | None) -> "_Layout":
        """Read it off mask and positions; without a mask, a text begins where positions jump."""
        n_rows, n_columns = shape
        columns = torch.arange(n_columns).expand(shape)
        given = columns if positions is None else positions.expand(shape)
        if mask is None:
            begins = torch.ones(shape, dtype=torch.bool)
            begins[:, 1:] = given.diff(dim=1) != 1
            texts = begins.flatten().cumsum(0).view(shape) - 1
            slots = columns - columns.where(begins, 0).cummax(dim=1).values
            is_real = torch.ones(shape, dtype=torch.bool)
        else:
            is_real = mask.bool()
            texts = torch.arange(n_rows)[:, None].expand(shape)
            slots = is_real.cumsum(dim=1) - 1
        tokens = is_real.flatten().nonzero().flatten()
        parts = {"positions": given, "texts": texts, "slots": slots}
        parts = {name: part.flatten()[tokens] for name, part in parts.items()}
        lengths = parts["texts"].bincount()[parts["texts"]]
        return cls(tokens=tokens, lengths=lengths, **parts)._by_length()

    def _by_length(self) -> "_Layout":
        """Put long texts first if some are less than half as long as others."""
        if 2 * int(self.lengths.min()) > int(self.lengths.max()):
            return self
        order = self.lengths.argsort(descending=True, stable=True)
        return _Layout(**{name: part[order] for name, part in vars(self).items()})

    def groups(self) -> Iterator["_Layout"]:
        """Yield texts of like length, so that little is padding where they lie side by side."""
        start, lengths = 0, self.lengths.tolist()
        while start < len(lengths):
            shortest = lengths[start] / 2
            is_longer = (self.lengths > shortest) if start == 0 else self.lengths[start:] > shortest
            stop = start + int(is_longer.sum())
            yield _Layout(**{name: part[start:stop] for name, part in vars(self).items()})
            start = stop

    def places(self, n_heads: int) -> tuple[Tensor, Tensor, tuple[int, int, int]]:
        """Return for (text, head, slot) the row of (token, head), the way back, and the shape."""
        texts = self.texts.unique(return_inverse=True)[1]
        longest, heads = int(self.lengths.max()), torch.arange(n_heads)
        shape = (int(texts.max()) + 1, n_heads, longest)
        places = ((texts[:, None] * n_heads + heads) * longest + self.slots[:, None]).flatten()
        rows = torch.zeros(shape[0] * n_heads * longest, dtype=torch.long)
        rows[places] = torch.arange(len(places))
        return rows, places, shape


def _forward_texts(trunk: nn.Module, given: dict[str, Any], keep: Tensor | None) -> Tensor:
    """Return the last hidden states, (batch, seq, d), or those of the tokens to keep, (n, d)."""
    ids, embedded = given["input_ids"], given["inputs_embeds"]
    shape = ids.shape if embedded is None else embedded.shape[:2]
    layout = _Layout.of(shape, given["attention_mask"], given["position_ids"])
    if embedded is None:
        hidden = trunk.embed_tokens(ids.flatten()[layout.tokens])
    else:
        hidden = embedded.flatten(0, 1).index_select(0, layout.tokens)
    row_of = torch.zeros(shape.numel(), dtype=torch.long)
    row_of[layout.tokens] = torch.arange(len(layout.tokens))
    mix = _attention_among(trunk, layout, hidden, _keeper(given["past_key_values"], layout, shape))
    for block in trunk.layers:
        mixed = mix(block.self_attn, rms_norm(hidden, *_norm(block.input_layernorm)))
        if keep is not None and block is trunk.layers[-1]:
            hidden, mixed = (x.index_select(0, row_of[keep]) for x in (hidden, mixed))
        hidden = _feed_forward(block, hidden + block.self_attn.o_proj(mixed))
    hidden = rms_norm(hidden, *_norm(trunk.norm))
    if keep is not None:
        return hidden
    whole = hidden.new_zeros(shape.numel(), hidden.shape[-1])
    return whole.index_copy(0, layout.tokens, hidden).view(*shape, -1)


def _feed_forward(block: nn.Module, hidden: Tensor) -> Tensor:
    """Second half of a block; the residual stream goes in and comes out."""
    normed = rms_norm(hidden, *_norm(block.post_attention_layernorm))
    mlp = block.mlp
    return hidden + mlp.down_proj(swiglu(mlp.gate_proj(normed), mlp.up_proj(normed)))


def _norm(layer: nn.Module) -> tuple[Tensor, float]:
    return layer.weight, layer.variance_epsilon


def _keeper(
    cache: "Cache | None", layout: _Layout, shape: torch.Size
) -> Callable[[Tensor, Tensor, int], None]:
    """Return what puts keys and values of a layer, both (n, heads, D), into an empty cache."""

    def laid_out(x: Tensor) -> Tensor:
        whole = x.new_zeros(shape.numel(), *x.shape[1:])
        return whole.index_copy(0, layout.tokens, x).view(*shape, *x.shape[1:]).transpose(1, 2)

    def keep(keys: Tensor, values: Tensor, layer: int) -> None:
        if cache is not None:
            cache.update(laid_out(keys), laid_out(values), layer)

    return keep


def _attention_among(
    trunk: nn.Module,
    layout: _Layout,
    hidden: Tensor,
    keep: Callable[[Tensor, Tensor, int], None],
) -> Callable[[nn.Module, Tensor], Tensor]:
    """Return attention within each text, (n, d) to (n, heads D), for the blocks of a trunk."""
    attention = trunk.layers[0].self_attn
    width, n_shared = attention.head_dim, attention.num_key_value_groups
    n_heads = trunk.config.num_attention_heads
    cos, sin = (part.squeeze(0) for part in _angles(trunk, hidden, layout.positions[None]))
    groups = []
    for group in layout.groups():
        places = group.places(n_heads)
        of_keys = places if n_shared == 1 else group.places(n_heads // n_shared)
        groups.append((places, of_keys, causal_bias(places[2][-1], n_shared, hidden)))

    def laid_out(x: Tensor, places: tuple[Tensor, Tensor, tuple[int, ...]]) -> Tensor:
        rows, back, shape = places
        return spread(x.reshape(-1, width), rows, back).view(*shape, width)

    def mix(attention: nn.Module, x: Tensor) -> Tensor:
        q = rotate(attention.q_proj(x).unflatten(-1, (-1, width)), cos, sin)
        k = rotate(attention.k_proj(x).unflatten(-1, (-1, width)), cos, sin)
        v = attention.v_proj(x)
        keep(k, v.view_as(k), attention.layer_idx)
        sizes = [len(places[1]) // n_heads for places, *_ in groups]
        mixed = []
        for parts, (places, of_keys, bias) in zip(
            zip(*(y.split(sizes) for y in (q, k, v)), strict=True), groups, strict=True
        ):
            grids = map(laid_out, parts, (places, of_keys, of_keys))
            out = attend(*grids, bias, attention.scaling)
            mixed.append(collect(out.reshape(-1, width), places[1]))
        return (mixed[0] if len(mixed) == 1 else torch.cat(mixed)).view(len(x), -1)

    return mix


def _forward_with_cache(trunk: nn.Module, given: dict[str, Any]) -> Tensor:
    """Return the last hidden states, (batch, seq, d), of texts that go on from a cache."""
    hidden, cache = _embedded(trunk, given), given["past_key_values"]
    n_rows, n_new, _ = hidden.shape
    n_before = cache.get_seq_length()
    positions = given["position_ids"]
    if positions is None:
        positions = torch.arange(n_before, n_before + n_new)[None]
    angles = _angles(trunk, hidden, positions.expand(n_rows, -1))
    mask = _cache_mask(given["attention_mask"], n_rows, n_before, n_new)
    for block in trunk.layers:
        attention = block.self_attn
        normed = rms_norm(hidden, *_norm(block.input_layernorm))
        mixed = _attend_with_cache(attention, normed, angles, cache, mask)
        hidden = _feed_forward(block, hidden + attention.o_proj(mixed))
    return rms_norm(hidden, *_norm(trunk.norm))


def _cache_mask(mask: Tensor | None, n_rows: int, n_before: int, n_new: int) -> Tensor | None:
    """Return True where a query looks, (batch, 1, new, before + new), or None for everywhere."""
    if n_new == 1:
        return None if mask is None or bool(mask.all()) else mask.bool()[:, None, None]
    places = torch.arange(n_before + n_new)
    own = places[n_before:, None]
    looks = (places <= own).expand(n_rows, 1, -1, -1)
    if mask is None:
        return looks
    # Padding looks at itself: a softmax over nothing would be NaN.
    return (looks & mask.bool()[:, None, None]) | (places == own)


def _attend_with_cache(
    attention: nn.Module,
    x: Tensor,
    angles: tuple[Tensor, Tensor],
    cache: "Cache",
    mask: Tensor | None,
) -> Tensor:
    width = attention.head_dim
    q = rotate(attention.q_proj(x).unflatten(-1, (-1, width)), *angles).transpose(1, 2)
    k = rotate(attention.k_proj(x).unflatten(-1, (-1, width)), *angles).transpose(1, 2)
    v = attention.v_proj(x).unflatten(-1, (-1, width)).transpose(1, 2)
    k, v = cache.update(k, v, attention.layer_idx)
    n_rows, n_heads, n_new, _ = q.shape
    if n_new == 1:  # queries that share a head of keys are that head's queries
        q = q.view(n_rows, k.shape[1], -1, width)
    mixed = nn.functional.scaled_dot_product_attention(
        q,
        k,
        v,
        attn_mask=mask,
        scale=attention.scaling,
        enable_gqa=q.shape[1] != k.shape[1],
    )
    return mixed.view(n_rows, n_heads, n_new, width).transpose(1, 2).flatten(2)
