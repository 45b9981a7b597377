"""Soft prompts: train what stands before the input, and leave the model alone.

Four papers, two places. Prompt tuning learns virtual tokens among the embeddings (Lester et al.,
2021, arXiv:2104.08691); P-tuning computes them with a small network (Liu et al., 2021,
arXiv:2103.10385). Prefix tuning learns keys and values for every layer, computed by a network while
it trains (Li and Liang, 2021, arXiv:2101.00190); P-tuning v2 learns them as they are, and puts a
task's head on top (Liu et al., 2021, arXiv:2110.07602).

Unlike every other method of this course they change the model's output from the start.
"""

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Self

import torch
from torch import nn

from course_utils.memory import (
    Architecture,
    CachePromptFootprint,
    InputPromptFootprint,
    Trained,
)
from course_utils.methods.linear import freeze_below_head
from course_utils.methods.prompt_encoders import LSTMEncoder, mlp
from course_utils.methods.virtual_tokens import (
    CachePrompt,
    InputPrompt,
    SoftPrompt,
    VirtualTokens,
    cache_shape,
    soft_prompt_of,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


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
        if self.num_virtual_tokens < 1:
            raise ValueError(f"num_virtual_tokens={self.num_virtual_tokens} must be at least 1")

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
        context = getattr(model.config, "max_position_embeddings", None)
        if context is not None and self.num_virtual_tokens >= context:
            raise ValueError(
                f"num_virtual_tokens={self.num_virtual_tokens} must be below the model's context "
                f"of {context}, to leave room for a text"
            )
        prompt = self.make(model)
        freeze_below_head(model)
        prompt.attach_to(model)


@dataclass(frozen=True, kw_only=True)
class PromptTuningConfig(SoftPromptConfig):
    """Train virtual tokens among the embeddings, n d_model numbers (arXiv:2104.08691, section 2).

    Args:
        num_virtual_tokens: Virtual tokens n before every text.
        init: Where they start: ``"random"`` in -0.5..0.5, at tokens of the ``"vocabulary"`` drawn
            at random, or at those of a ``"text"`` (section 3.2).
        init_token_ids: Tokens of that text, n of them at the most; fewer are repeated. See
            ``from_text``.

    Raises:
        ValueError: If a value is out of range.
    """

    init: Literal["random", "vocabulary", "text"] = "vocabulary"
    init_token_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.init not in ("random", "vocabulary", "text"):
            raise ValueError(f"init={self.init!r} must be 'random', 'vocabulary' or 'text'")
        if (self.init == "text") != bool(self.init_token_ids):
            raise ValueError(
                f"init={self.init!r} with {len(self.init_token_ids)} init_token_ids: a text must "
                "have at least one, and only a text has any"
            )
        if len(self.init_token_ids) > self.num_virtual_tokens:
            raise ValueError(
                f"the initial text has {len(self.init_token_ids)} tokens and must have at most "
                f"num_virtual_tokens={self.num_virtual_tokens}"
            )

    @classmethod
    def from_text(
        cls, tokenizer: "PreTrainedTokenizerBase", text: str, *,
        num_virtual_tokens: int | None = None,
    ) -> Self:  # fmt: skip
        """Return the configuration of a prompt that starts as the tokens of ``text``.

        Args:
            tokenizer: The model's tokenizer.
            text: Initial text.
            num_virtual_tokens: Virtual tokens; as many as the text has by default.

        Raises:
            ValueError: If the text has no token, or more than there are virtual tokens.
        """
        ids = tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
        n = len(ids) if num_virtual_tokens is None else num_virtual_tokens
        return cls(num_virtual_tokens=n, init="text", init_token_ids=ids)

    def make(self, model: nn.Module) -> InputPrompt:
        """Return fresh virtual tokens for ``model``."""
        embeddings, n = model.get_input_embeddings().weight.detach(), self.num_virtual_tokens
        if self.init == "random":
            return InputPrompt(VirtualTokens(torch.rand(n, embeddings.shape[1]) - 0.5))
        ids = torch.randint(len(embeddings), (n,))
        if self.init == "text":
            repeated = self.init_token_ids * math.ceil(n / len(self.init_token_ids))
            ids = torch.tensor(repeated[:n])
        if ids.min() < 0 or ids.max() >= len(embeddings):
            raise ValueError(
                f"init_token_ids must be at least 0 and below the vocabulary's {len(embeddings)}"
            )
        return InputPrompt(VirtualTokens(embeddings[ids.to(embeddings.device)].float().clone()))

    def footprint(self, architecture: Architecture) -> Trained:
        """Return what trains, for ``memory.estimate``."""
        footprint = InputPromptFootprint(
            num_virtual_tokens=self.num_virtual_tokens,
            train_head=architecture.n_labels is not None,
        )
        return footprint.footprint(architecture)


@dataclass(frozen=True, kw_only=True)
class PTuningConfig(SoftPromptConfig):
    """Train a network that computes the virtual tokens (arXiv:2103.10385, section 3.2).

    Once trained, the tokens are all that is needed: ``drop_encoder``.

    Args:
        num_virtual_tokens: Virtual tokens n before every text.
        encoder: ``"mlp"``, or ``"lstm"``: a bidirectional LSTM and an MLP behind it.
        hidden_size: Inner width; the model's by default.
        num_layers: Layers of the LSTM.
        dropout: Between the layers of the LSTM.

    Raises:
        ValueError: If a value is out of range.
    """

    encoder: Literal["mlp", "lstm"] = "mlp"
    hidden_size: int | None = None
    num_layers: int = 2
    dropout: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.encoder not in ("mlp", "lstm"):
            raise ValueError(f"encoder={self.encoder!r} must be 'mlp' or 'lstm'")
        _check_sizes(hidden_size=self.hidden_size, num_layers=self.num_layers)
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout={self.dropout} must be in 0..1, and below 1")

    def make(self, model: nn.Module) -> InputPrompt:
        """Return fresh virtual tokens for ``model``, and their encoder."""
        d_model = model.get_input_embeddings().weight.shape[1]
        start = torch.randn(self.num_virtual_tokens, d_model)
        return InputPrompt(VirtualTokens(start, self.network(d_model)))

    def network(self, d_model: int) -> nn.Module:
        """Return the encoder, (n, d_model) to (n, d_model)."""
        hidden = self.hidden_size or d_model
        if self.encoder == "lstm":
            return LSTMEncoder(d_model, hidden, num_layers=self.num_layers, dropout=self.dropout)
        return mlp(d_model, hidden, hidden, d_model)

    def footprint(self, architecture: Architecture) -> Trained:
        """Return what trains, for ``memory.estimate``."""
        with torch.device("meta"):
            encoder = tuple(p.numel() for p in self.network(architecture.d_model).parameters())
        hidden = self.hidden_size or architecture.d_model
        kept = 2 * self.num_virtual_tokens * hidden if self.encoder == "mlp" else 0
        footprint = InputPromptFootprint(
            num_virtual_tokens=self.num_virtual_tokens, encoder=encoder, encoder_keeps=kept,
            train_head=architecture.n_labels is not None,
        )  # fmt: skip
        return footprint.footprint(architecture)


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
        _check_sizes(hidden_size=self.hidden_size)

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

    def footprint(self, architecture: Architecture) -> Trained:
        """Return what trains, for ``memory.estimate``."""
        kv_width, n = architecture.kv_width, self.num_virtual_tokens
        hidden, width = self.hidden_size or kv_width, architecture.n_layers * 2 * kv_width
        encoder = (n * kv_width, kv_width * hidden, hidden, hidden * width, width)
        footprint = CachePromptFootprint(
            num_virtual_tokens=n, encoder=encoder if self.projection else (),
            encoder_keeps=n * hidden if self.projection else 0,
            train_head=architecture.n_labels is not None,
        )  # fmt: skip
        return footprint.footprint(architecture)


@dataclass(frozen=True, kw_only=True)
class PTuningV2Config(PrefixTuningConfig):
    """Train keys and values of every layer as they are, and a task's head (arXiv:2110.07602).

    In this form it is prefix tuning without the MLP: for a classifier of texts or of tokens, whose
    head trains along (section 3.3), or for a language model.
    """

    projection: bool = field(default=False, init=False)
    hidden_size: int | None = field(default=None, init=False)


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


def _check_sizes(**sizes: int | None) -> None:
    for name, value in sizes.items():
        if value is not None and value < 1:
            raise ValueError(f"{name}={value} must be at least 1")
