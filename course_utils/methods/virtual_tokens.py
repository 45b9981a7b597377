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
from course_utils.models.structure import context_of, soft_prompt_of
from course_utils.validation import check_count

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
        self._handles: list = []

    @property
    def num_virtual_tokens(self) -> int:
        """Number of virtual tokens."""
        return len(self.encoder.weight)

    def attach_to(self, model: nn.Module) -> None:
        """Become ``model.soft_prompt`` and begin every forward pass of the model's trunk."""
        trunk = model.base_model
        self._handles = [
            trunk.register_forward_pre_hook(self._before, with_kwargs=True),
            trunk.register_forward_hook(self._after, with_kwargs=True),
        ]
        model.soft_prompt = self.to(next(trunk.parameters()).device).train(model.training)

    def detach_from(self, model: nn.Module) -> None:
        """Leave no trace on ``model``."""
        for handle in self._handles:
            handle.remove()
        del model.soft_prompt

    @torch.no_grad()
    def final_tokens(self) -> Tensor:
        """Return the tokens that the encoder computes in evaluation, without its dropout."""
        modes = {module: module.training for module in self.encoder.modules()}
        self.encoder.eval()
        try:
            return self.encoder().clone()
        finally:
            for module, mode in modes.items():
                module.training = mode

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
        _check(trunk, inputs, n_before=n_cached or n)
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
        embedded = trunk.get_input_embeddings()(ids) if embedded is None else embedded
        tokens = self.encoder().to(embedded.dtype).expand(len(embedded), -1, -1)
        inputs["inputs_embeds"] = torch.cat([tokens, embedded], dim=1)
        if positions is not None:
            first = torch.arange(self.num_virtual_tokens, device=positions.device)
            first = first.expand(len(positions), -1)
            inputs["position_ids"] = torch.cat([first, positions], dim=1)
        self._n_to_cut = self.num_virtual_tokens

    def _after(self, _: nn.Module, __: tuple, inputs: dict, output: Any) -> Any:  # noqa: ANN401
        if isinstance(output, tuple):
            return output[0][:, self._n_to_cut :], *output[1:]
        output.last_hidden_state = output.last_hidden_state[:, self._n_to_cut :]
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
        check_count("num_virtual_tokens", self.num_virtual_tokens)

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
        prompt = self.make(model)
        freeze_below_head(model)
        prompt.attach_to(model)


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

    Raises:
        ValueError: If the model's attention takes no past keys.
    """
    config = model.config
    takes_cache = "past_key_values" in inspect.signature(model.base_model.forward).parameters
    if not takes_cache or getattr(config, "is_encoder_decoder", False):
        raise ValueError(
            f"{type(model).__name__} takes no past keys and values, through which a prefix enters: "
            "use PromptTuningConfig or PTuningConfig"
        )
    n_heads = config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // n_heads
    return (
        config.num_hidden_layers,
        getattr(config, "num_key_value_heads", None) or n_heads,
        head_dim,
    )


def _check(trunk: nn.Module, inputs: dict[str, Any], n_before: int) -> None:
    """Check that a soft prompt can stand before what the trunk is given."""
    text, mask = inputs.get("input_ids"), inputs.get("attention_mask")
    text = inputs["inputs_embeds"] if text is None else text
    context = context_of(trunk)
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
