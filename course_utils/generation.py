"""Writing token after token with a key-value cache: greedy, or sampled from a seed."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from course_utils.models.structure import soft_prompt_of

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@torch.no_grad()
def generate_tokens(
    model: nn.Module,
    input_ids: Tensor,
    attention_mask: Tensor,
    *,
    max_new_tokens: int,
    eos_token_id: int,
    pad_token_id: int,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Continue a batch of prompts until each has ended or is ``max_new_tokens`` longer.

    Args:
        model: Causal language model in evaluation mode, with an adapter or without.
        input_ids: Prompts, padded on the left, (batch, seq).
        attention_mask: 1 on the tokens of the prompts, 0 on padding, (batch, seq).
        max_new_tokens: Tokens to add at the most.
        eos_token_id: Token that ends an answer; it is part of it.
        pad_token_id: Token that fills a row after its end.
        temperature: 0 takes the likeliest token; above it, one is drawn from softmax(logits / T).
        top_k: Draw from the so many likeliest tokens only.
        top_p: Draw from the fewest tokens that together have this probability (Holtzman et al.,
            2019, arXiv:1904.09751).
        generator: Source of the draws, on the model's device; torch's own if None.

    Returns:
        New tokens, (batch, new), as many as the longest answer needs.

    Raises:
        ValueError: If a prompt is empty or padded on the right, a prompt and its answer do not fit
            the model's context, or an option is out of range.
    """
    _check_options(max_new_tokens, temperature, top_k, top_p)
    check_prompts(model, attention_mask, max_new_tokens)
    new_tokens = input_ids.new_full((len(input_ids), max_new_tokens), pad_token_id)
    rows = torch.arange(len(input_ids), device=input_ids.device)
    tokens, mask, positions = input_ids, attention_mask, position_ids(attention_mask)
    cache = None
    for step in range(max_new_tokens):
        output = model(
            input_ids=tokens,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        cache = output.past_key_values
        logits = filter_logits(output.logits[:, -1].float(), temperature, top_k, top_p)
        chosen = _choose(logits, temperature, generator)
        new_tokens[rows, step] = chosen
        goes_on = (chosen != eos_token_id).nonzero().flatten()
        if not len(goes_on):
            break
        if len(goes_on) < len(rows):
            # Answers that have ended leave the batch, and take their part of the cache along.
            cache.batch_select_indices(goes_on)
            rows, chosen, mask, positions = (
                tensor[goes_on] for tensor in (rows, chosen, mask, positions)
            )
        # What lies before is in the cache: only the new token goes through the model.
        tokens, positions = chosen[:, None], positions[:, -1:] + 1
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
    return new_tokens[:, : step + 1]


def filter_logits(
    logits: Tensor, temperature: float, top_k: int | None = None, top_p: float | None = None
) -> Tensor:
    """Divide logits by the temperature and set those of tokens that must not be drawn to -inf.

    Args:
        logits: Logits of the next token, (batch, vocab).
        temperature: 0 leaves them as they are.
        top_k: How many tokens to keep; all by default.
        top_p: Probability that the kept tokens have together, counted after ``top_k``.

    Returns:
        Logits to draw from, (batch, vocab).
    """
    if temperature == 0:
        return logits
    logits = logits / temperature
    if top_k is not None and top_k < logits.shape[-1]:
        least = logits.topk(top_k, dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    if top_p is not None and top_p < 1:
        ascending, order = logits.sort(dim=-1)
        is_out = ascending.softmax(dim=-1).cumsum(dim=-1) <= 1 - top_p
        is_out[:, -1] = False
        logits = logits.masked_fill(is_out.scatter(1, order, is_out), -torch.inf)
    return logits


def position_ids(attention_mask: Tensor) -> Tensor:
    """Return the position of every token in its own text, (batch, seq); padding gets 0.

    Under left padding the first real token would otherwise not be the first to the model.
    """
    return (attention_mask.long().cumsum(dim=1) - 1).clamp(min=0)


def encode_prompts(
    tokenizer: "PreTrainedTokenizerBase", prompts: Sequence[str]
) -> tuple[Tensor, Tensor]:
    """Encode prompts, each after the begin token, and pad them on the left.

    Args:
        tokenizer: The model's tokenizer.
        prompts: Texts, or chats already rendered, without the begin token.

    Returns:
        ``input_ids`` and ``attention_mask``, both (batch, seq).
    """
    begin = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    rows = [begin + tokenizer(p, add_special_tokens=False)["input_ids"] for p in prompts]
    length, pad = max(map(len, rows)), tokenizer.pad_token_id
    ids = [[pad] * (length - len(row)) + row for row in rows]
    mask = [[0] * (length - len(row)) + [1] * len(row) for row in rows]
    return torch.tensor(ids, dtype=torch.long), torch.tensor(mask, dtype=torch.long)


def check_prompts(model: nn.Module, attention_mask: Tensor, max_new_tokens: int) -> None:
    """Check that a model can continue prompts by so many tokens.

    Args:
        model: Its configuration gives the context; a model that gives none takes any length.
        attention_mask: 1 on the tokens of the prompts, 0 on padding, (batch, seq).
        max_new_tokens: Tokens to be added at the most.

    Raises:
        ValueError: If a prompt is empty or padded on the right, or does not fit.
    """
    lengths = attention_mask.sum(dim=1)
    for row in (lengths == 0).nonzero().flatten().tolist()[:1]:
        raise ValueError(f"prompt {row} is empty: a prompt must have at least 1 token")
    for row in (attention_mask[:, -1] == 0).nonzero().flatten().tolist()[:1]:
        raise ValueError(f"prompt {row} is padded on the right: prompts must be padded on the left")
    context = getattr(model.config, "max_position_embeddings", None)
    row, longest = int(lengths.argmax()), int(lengths.max())
    soft_prompt = soft_prompt_of(model)
    n_virtual = soft_prompt.num_virtual_tokens if soft_prompt is not None else 0
    if context is not None and n_virtual + longest + max_new_tokens > context:
        before = f"{n_virtual} virtual tokens, " if n_virtual else ""
        raise ValueError(
            f"{before}prompt {row} of {longest} tokens and max_new_tokens={max_new_tokens} must "
            f"fit the model's context of {context} tokens"
        )


def _choose(logits: Tensor, temperature: float, generator: torch.Generator | None) -> Tensor:
    """Return one token a row, (batch,)."""
    if temperature == 0:
        return logits.argmax(dim=-1)
    return torch.multinomial(logits.softmax(dim=-1), 1, generator=generator).squeeze(1)


def _check_options(
    max_new_tokens: int, temperature: float, top_k: int | None, top_p: float | None
) -> None:
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens={max_new_tokens} must be at least 1")
    if not temperature >= 0:
        raise ValueError(f"temperature={temperature} must be at least 0")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k={top_k} must be at least 1")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p={top_p} must be above 0 and at most 1")
