"""Prefix tuning and P-tuning v2: virtual keys and values for every layer.

Li and Liang (2021, arXiv:2101.00190) compute them by a network while they train; Liu et al. (2021,
arXiv:2110.07602) learn them as they are, and put a task's head on top.
"""

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import nn

from course_utils.memory.trained import Trained, in_every_block
from course_utils.methods.virtual_tokens import (
    CachePrompt,
    SoftPromptConfig,
    VirtualTokens,
    cache_shape,
    mlp,
)
from course_utils.validation import check_count, check_flag

if TYPE_CHECKING:
    from course_utils.memory.architecture import Architecture


@dataclass(frozen=True, kw_only=True)
class PrefixTuningConfig(SoftPromptConfig):
    """Train n keys and values for every layer and every key-value head (arXiv:2101.00190).

    Args:
        num_virtual_tokens: Virtual keys and values n a layer.
        projection: Whether an MLP computes them from n vectors while they train (section 4.3);
            ``drop_encoder`` leaves the keys and values.
        hidden_size: Inner width of that MLP; the width of a layer's keys by default.

    Raises:
        ValueError: If a value is out of range.
    """

    projection: bool = False
    hidden_size: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check_count("hidden_size", self.hidden_size, at_most=2**16, is_none_ok=True)
        check_flag("projection", self.projection)

    def token_width(self, model: nn.Module) -> int:
        """Return the elements of one virtual token on ``model``: keys and values of all layers."""
        return 2 * math.prod(cache_shape(model))

    def make(self, model: nn.Module) -> CachePrompt:
        """Return fresh keys and values for ``model``, and the MLP that computes them, if any.

        Raises:
            ValueError: If the model's attention takes no past keys.
        """
        n_layers, n_kv_heads, head_dim = cache_shape(model)
        kv_width, width = n_kv_heads * head_dim, n_layers * 2 * n_kv_heads * head_dim
        n = self.num_virtual_tokens
        tokens = VirtualTokens(torch.randn(n, width))
        if self.projection:
            hidden = self.hidden_size or kv_width
            network = mlp(kv_width, hidden, width, activation=nn.Tanh)
            tokens = VirtualTokens(torch.randn(n, kv_width), network)
        return CachePrompt(tokens, n_kv_heads=n_kv_heads, head_dim=head_dim)

    def footprint(self, architecture: "Architecture") -> Trained:
        """Return what trains, for ``memory.estimate``.

        The virtual keys and values are attended to and go through nothing.
        """
        kv_width, n = architecture.kv_width, self.num_virtual_tokens
        hidden, width = self.hidden_size or kv_width, architecture.cache_width
        encoder = (n * kv_width, kv_width * hidden, hidden, hidden * width, width)
        return replace(
            in_every_block(architecture, ()),
            n_cached_tokens=n,
            prompt=encoder if self.projection else (n * width,),
            prompt_keeps=n * hidden if self.projection else 0,
        )


@dataclass(frozen=True, kw_only=True)
class PTuningV2Config(PrefixTuningConfig):
    """Train keys and values of every layer as they are, and a task's head (arXiv:2110.07602).

    In this form it is prefix tuning without the MLP: for a classifier of texts or of tokens, whose
    head trains along (section 3.3), or for a language model.
    """

    projection: bool = field(default=False, init=False)
    hidden_size: int | None = field(default=None, init=False)
