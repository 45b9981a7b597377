"""Virtual tokens: train what stands before the input, and leave the model alone.

Four papers, two places: prompt tuning and P-tuning (``prompt_tuning``, ``p_tuning``), prefix tuning
and P-tuning v2 (``prefix_tuning``). Unlike every other method of this course they change the
model's output from the start.

They enter either where tokens become vectors (prompt tuning, P-tuning) or as keys and values of
every attention layer (prefix tuning, P-tuning v2). Mask, positions and cache move along with them;
the places are cut off again from what comes out, so that logits and labels go with the real tokens.
"""

import inspect
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from course_utils.memory.trained import Trained, in_every_block
from course_utils.methods.layers import freeze_below_head
from course_utils.models.structure import (
    context_of,
    evaluating,
    first_position,
    gradient_through,
    one_token,
    soft_prompt_of,
    trunk_of,
)
from course_utils.validation import check_count, keep_plain

if TYPE_CHECKING:
    from course_utils.memory.architecture import Architecture


class VirtualTokens(nn.Module):
    """Learned vectors, and the network that they pass through, if any.

    Args:
        start: First values of the vectors, (n, d_in).
        network: Maps (n, d_in) to (n, width); None leaves the vectors as they are.
    """

    def __init__(self, start: Tensor, network: nn.Module | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(start)
        self.network = network

    def forward(self) -> Tensor:
        """Return the virtual tokens, (n, width)."""
        return self.weight if self.network is None else self.network(self.weight)


class SoftPrompt(nn.Module):
    """Virtual tokens on a model, put in by hooks on its trunk.

    Args:
        encoder: Computes the tokens.
    """

    is_adapter = True

    def __init__(self, encoder: VirtualTokens) -> None:
        super().__init__()
        self.encoder = encoder
        self.is_on = True
        self.context_tokens: int | None = None
        self.first_position = 0
        self._handles: list = []

    @property
    def num_virtual_tokens(self) -> int:
        """Number of virtual tokens."""
        return len(self.encoder.weight)

    def attach_to(self, model: nn.Module) -> None:
        """Become ``model.soft_prompt`` and begin every forward pass of the model's trunk.

        Raises:
            ValueError: If the model does not take them; it stays as it was.
        """
        trunk = trunk_of(model)
        self.context_tokens, self.first_position = context_of(model), first_position(model)
        self._handles = [
            trunk.register_forward_pre_hook(self._before, with_kwargs=True),
            trunk.register_forward_hook(self._after, with_kwargs=True),
        ]
        model.soft_prompt = self.to(next(trunk.parameters()).device).train(model.training)
        try:
            _, gradient = gradient_through(model, self.encoder, input_ids=one_token(model))
        except Exception as error:
            self.detach_from(model)
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            name = type(model).__name__
            raise ValueError(f"{name} does not take virtual tokens: {reason:.160}") from error
        if gradient is None:
            self.detach_from(model)
            raise ValueError(f"virtual tokens have no effect on what {type(model).__name__} says")

    def detach_from(self, model: nn.Module) -> None:
        """Leave no trace on ``model``."""
        for handle in self._handles:
            handle.remove()
        del model.soft_prompt

    @torch.no_grad()
    def final_tokens(self) -> Tensor:
        """Return the tokens that the encoder computes in evaluation, without its dropout."""
        with evaluating(self.encoder):
            return self.encoder().clone()

    def drop_encoder(self) -> None:
        """Keep the tokens that the network computes, and not the network, if there is one."""
        if self.encoder.network is not None:
            self.encoder = VirtualTokens(self.final_tokens()).train(self.training)

    def put_in(self, trunk: nn.Module, inputs: dict[str, Any], positions: Tensor | None) -> None:
        """Change the arguments of the trunk's first forward pass over a batch."""
        raise NotImplementedError

    def _before(self, trunk: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        if not self.is_on:
            return None
        inputs = dict(zip(inspect.signature(trunk.forward).parameters, args, strict=False)) | kwargs
        cache, n = inputs.get("past_key_values"), self.num_virtual_tokens
        positions, mask = inputs.get("position_ids"), inputs.get("attention_mask")
        n_cached = cache.get_seq_length() if cache is not None else 0
        self._check(inputs, n_before=n_cached or n)
        if mask is not None:
            inputs["attention_mask"] = torch.cat([mask.new_ones(len(mask), n), mask], dim=1)
        if positions is not None:
            positions = inputs["position_ids"] = positions + n
        # With something in the cache the virtual tokens are in it already.
        if not n_cached:
            self.put_in(trunk, inputs, positions)
        return (), inputs

    def _after(self, _: nn.Module, __: tuple, inputs: dict, output: Any) -> Any:  # noqa: ANN401
        return output

    def _check(self, inputs: dict[str, Any], n_before: int) -> None:
        """Check that the virtual tokens can stand before what the trunk is given."""
        text, mask = inputs.get("input_ids"), inputs.get("attention_mask")
        text, context = inputs["inputs_embeds"] if text is None else text, self.context_tokens
        if context is not None and n_before + text.shape[1] > context:
            raise ValueError(
                f"{n_before} places before a text of {text.shape[1]} tokens must fit the model's "
                f"context of {context}"
            )
        if mask is not None and mask.ndim != 2:
            raise ValueError(f"attention_mask has {mask.ndim} dimensions and must be (batch, seq)")
        positions = inputs.get("position_ids")
        if mask is None and positions is not None and (positions.diff(dim=-1) < 0).any():
            raise ValueError(
                "a packed row holds several texts, and a soft prompt would stand before the first "
                "only: train with packing_length_tokens=None"
            )


class InputPrompt(SoftPrompt):
    """Virtual tokens among the embeddings of the input; each counts as a token of the text.

    Its encoder's tokens have the width of the model, (n, d_model).
    """

    _n_to_cut = 0

    def _before(self, *call: Any) -> tuple[tuple, dict] | None:  # noqa: ANN401
        self._n_to_cut = 0
        return super()._before(*call)

    def put_in(self, trunk: nn.Module, inputs: dict[str, Any], positions: Tensor | None) -> None:
        """Put the virtual tokens before the embedded text."""
        ids, embedded = inputs.pop("input_ids", None), inputs.get("inputs_embeds")
        n = self._n_to_cut = self.num_virtual_tokens
        if positions is None and ids is not None and self.first_position:
            # Such a model counts past padding, which it cannot tell once a text is embedded.
            padding = self.first_position - 1
            is_text = ids != padding
            positions = padding + is_text * (is_text.cumsum(dim=1) + n)
        embedded = trunk.get_input_embeddings()(ids) if embedded is None else embedded
        tokens = self.encoder().to(embedded.dtype).expand(len(embedded), -1, -1)
        inputs["inputs_embeds"] = torch.cat([tokens, embedded], dim=1)
        if positions is not None:
            first = torch.arange(n, device=positions.device) + self.first_position
            inputs["position_ids"] = torch.cat([first.expand(len(positions), -1), positions], dim=1)
        types = inputs.get("token_type_ids")
        if types is not None:  # virtual tokens are of the first type, as all are where none is said
            inputs["token_type_ids"] = torch.cat([types.new_zeros(len(types), n), types], dim=1)

    def _after(self, trunk: nn.Module, _: tuple, inputs: dict, output: Any) -> Any:  # noqa: ANN401
        if not self._n_to_cut:
            return output
        hidden, pooler = output[0][:, self._n_to_cut :], getattr(trunk, "pooler", None)
        if isinstance(pooler, nn.Linear):  # ALBERT's takes what it is given for the first token
            raise ValueError("its pooler would read a virtual token in the place of the first")
        # BERT's pooler reads the first token, and that is to be the text's.
        pooled = () if pooler is None else (pooler(hidden),)
        if isinstance(output, tuple):
            return hidden, *pooled, *output[1 + len(pooled) :]
        output.last_hidden_state = hidden
        if pooled:
            output.pooler_output = pooled[0]
        return output


class CachePrompt(SoftPrompt):
    """Virtual tokens that are only keys and values, of every layer: the cache begins with them.

    Its encoder's tokens are (n, n_layers * 2 * n_kv_heads * head_dim): for each layer the keys of
    all heads, then the values.

    Args:
        encoder: Computes the tokens.
        n_kv_heads: Key and value heads a layer.
        head_dim: Elements of a head.
    """

    def __init__(self, encoder: VirtualTokens, *, n_kv_heads: int, head_dim: int) -> None:
        super().__init__(encoder)
        self.n_kv_heads, self.head_dim = n_kv_heads, head_dim

    def keys_and_values(self) -> Tensor:
        """Return the virtual keys and values, (n_layers, 2, n_kv_heads, n, head_dim)."""
        tokens = self.encoder()
        parts = tokens.view(len(tokens), -1, 2, self.n_kv_heads, self.head_dim)
        return parts.permute(1, 2, 3, 0, 4)

    def put_in(self, trunk: nn.Module, inputs: dict[str, Any], positions: Tensor | None) -> None:
        """Fill the empty cache with the virtual keys and values."""
        from transformers import DynamicCache

        is_recomputed = any(getattr(m, "gradient_checkpointing", False) for m in trunk.modules())
        if trunk.training and is_recomputed:
            raise ValueError(
                "activation checkpointing does without the cache, through which a prefix enters: "
                "switch one of the two off, or use PromptTuningConfig"
            )
        text = inputs.get("input_ids")
        text = inputs["inputs_embeds"] if text is None else text
        cache = inputs.get("past_key_values")
        cache = DynamicCache() if cache is None else cache
        if not isinstance(cache, DynamicCache):
            raise ValueError(f"a cache of type {type(cache).__name__} must be a DynamicCache")
        dtype = trunk.get_input_embeddings().weight.dtype
        for layer, pair in enumerate(self.keys_and_values().to(dtype)):
            keys, values = (part.expand(len(text), -1, -1, -1) for part in pair)
            cache.update(keys, values, layer)
        inputs["past_key_values"] = cache

    def _after(self, _: nn.Module, __: tuple, inputs: dict, output: Any) -> Any:  # noqa: ANN401
        # This cache only carried the prefix in; a caller who wants none must not go on with it.
        if self.is_on and inputs.get("use_cache") is False and not isinstance(output, tuple):
            output.past_key_values = None
        return output


@dataclass(frozen=True, kw_only=True)
class SoftPromptConfig:
    """What all soft prompts share.

    Args:
        num_virtual_tokens: Virtual tokens n before every text.

    Raises:
        ValueError: If there is not at least one.
    """

    num_virtual_tokens: int = 8

    def __post_init__(self) -> None:
        keep_plain(self)
        check_count("num_virtual_tokens", self.num_virtual_tokens, at_most=2**16)

    def make(self, model: nn.Module) -> SoftPrompt:
        """Return fresh virtual tokens for ``model``."""
        raise NotImplementedError

    def token_width(self, model: nn.Module) -> int:
        """Return the elements of one virtual token on ``model``."""
        return model.get_input_embeddings().weight.shape[1]

    def apply_to(self, model: nn.Module) -> None:
        """Freeze ``model`` and put virtual tokens before its input; a classifier's head trains.

        Raises:
            ValueError: If they do not fit the model.
        """
        context = context_of(model)
        if context is not None and self.num_virtual_tokens >= context:
            raise ValueError(
                f"num_virtual_tokens={self.num_virtual_tokens} must be below the model's context "
                f"of {context}, to leave room for a text"
            )
        self.make(model).attach_to(model)
        freeze_below_head(model)
        model.soft_prompt.requires_grad_(True)


def among_embeddings(
    architecture: "Architecture",
    num_virtual_tokens: int,
    *,
    encoder: tuple[int, ...] = (),
    encoder_keeps: int = 0,
) -> Trained:
    """Return what virtual tokens among the embeddings train, for ``memory.estimate``.

    Args:
        architecture: The model.
        num_virtual_tokens: Virtual tokens before each text.
        encoder: Elements of each tensor of a network that computes them.
        encoder_keeps: Elements that this network keeps for its backward pass.
    """
    return replace(
        in_every_block(architecture, ()),
        inputs_need_gradients=True,
        n_virtual_tokens=num_virtual_tokens,
        prompt=(num_virtual_tokens * architecture.d_model, *encoder),
        prompt_keeps=encoder_keeps,
    )


def cache_shape(model: nn.Module) -> tuple[int, int, int]:
    """Return layers, key-value heads and elements a head of a model's cache.

    The cache itself tells, after one token: configurations count heads in many ways. Models that
    keep none of their own, as BERT, have a key and a value for every head.

    Raises:
        ValueError: If the model's attention takes no past keys, or its layers differ.
    """
    trunk, config, name = trunk_of(model), model.config, type(model).__name__
    remedy = "through which a prefix enters: use PromptTuningConfig or PTuningConfig"
    if "past_key_values" not in inspect.signature(trunk.forward).parameters:
        raise ValueError(f"{name} takes no past keys and values, {remedy}")
    with evaluating(model), torch.no_grad():
        output = trunk(input_ids=one_token(model), use_cache=True)
    cache = getattr(output, "past_key_values", None)
    if cache is None:
        n_heads = config.num_attention_heads
        return config.num_hidden_layers, n_heads, config.hidden_size // n_heads
    layers = getattr(cache, "layers", ())
    parts = [getattr(layer, kind, None) for layer in layers for kind in ("keys", "values")]
    shapes = {() if part is None else tuple(part.shape) for part in parts}
    if len(shapes) != 1 or shapes == {()}:
        raise ValueError(f"{name} keeps other than keys and values of one shape, {remedy}")
    ((_, n_heads, _, head_dim),) = shapes
    return len(layers), n_heads, head_dim


def drop_encoder(model: nn.Module) -> nn.Module:
    """Replace the network of a soft prompt by the tokens that it computes, and return the model.

    Raises:
        ValueError: If the model carries no soft prompt.
    """
    prompt = soft_prompt_of(model)
    if prompt is None:
        raise ValueError(f"{type(model).__name__} carries no soft prompt: `apply` one first")
    prompt.drop_encoder()
    return model


def mlp(*widths: int, activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """Return linear layers of these widths with an activation between any two."""
    layers: list[nn.Module] = []
    for d_in, d_out in pairwise(widths):
        layers += [nn.Linear(d_in, d_out), activation()]
    return nn.Sequential(*layers[:-1])
