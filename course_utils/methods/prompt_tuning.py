"""Prompt tuning: virtual tokens among the embeddings (Lester et al., 2021, arXiv:2104.08691)."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Self

import torch
from torch import nn

from course_utils.memory.trained import Trained
from course_utils.methods.virtual_tokens import (
    InputPrompt,
    SoftPromptConfig,
    VirtualTokens,
    among_embeddings,
)
from course_utils.validation import check_choice, check_count, check_list, check_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from course_utils.memory.architecture import Architecture


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
        check_choice("init", self.init, ("random", "vocabulary", "text"))
        check_list("init_token_ids", self.init_token_ids)
        for token in self.init_token_ids:
            check_count("init_token_ids", token, at_least=0)
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
        cls,
        tokenizer: "PreTrainedTokenizerBase",
        text: str,
        *,
        num_virtual_tokens: int | None = None,
    ) -> Self:
        """Return the configuration of a prompt that starts as the tokens of ``text``.

        Args:
            tokenizer: The model's tokenizer.
            text: Initial text.
            num_virtual_tokens: Virtual tokens; as many as the text has by default.

        Raises:
            ValueError: If the text has no token, or more than there are virtual tokens.
        """
        check_text("text", text)
        ids = tuple(tokenizer(text, add_special_tokens=False)["input_ids"])
        n = len(ids) if num_virtual_tokens is None else num_virtual_tokens
        return cls(num_virtual_tokens=n, init="text", init_token_ids=ids)

    def make(self, model: nn.Module) -> InputPrompt:
        """Return fresh virtual tokens for ``model``.

        Raises:
            ValueError: If the initial text has a token that is not in the model's vocabulary.
        """
        embedding, n = model.get_input_embeddings(), self.num_virtual_tokens
        size, d_model = embedding.weight.shape
        if self.init == "random":
            return InputPrompt(VirtualTokens(torch.rand(n, d_model) - 0.5))
        ids = torch.randint(size, (n,))
        if self.init == "text":
            repeated = self.init_token_ids * math.ceil(n / len(self.init_token_ids))
            ids = torch.tensor(repeated[:n])
        if ids.max() >= size:
            raise ValueError(f"init_token_ids must be below the vocabulary's {size}")
        with torch.no_grad():  # the layer and not its weight: Gemma's multiplies it
            tokens = embedding(ids.to(embedding.weight.device)).float().clone()
        return InputPrompt(VirtualTokens(tokens))

    def footprint(self, architecture: "Architecture") -> Trained:
        """Return what trains, for ``memory.estimate``.

        The virtual tokens go through every layer as the text does: each text is so much longer.
        """
        return among_embeddings(architecture, self.num_virtual_tokens)
