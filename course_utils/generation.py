"""Writing token after token with a key-value cache: greedy, or sampled from a seed."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from course_utils.models.cache import roomy_cache
from course_utils.models.decoder import can_decode, decode, read_prompts
from course_utils.models.lean import lean, trunk_of_llama, unwrapped
from course_utils.models.structure import context_of, soft_prompt_of
from course_utils.validation import (
    check_count,
    check_dimensions,
    check_mask,
    check_number,
    check_shapes,
    check_texts,
    shown,
)

if TYPE_CHECKING:
    from transformers import Cache, PreTrainedTokenizerBase

# Share of a batch's answers that go on, from which on the others are taken out of it.
MOST_GOING = 0.75


@torch.no_grad()
def generate_tokens(
    model: nn.Module,
    input_ids: Tensor,
    attention_mask: Tensor,
    *,
    max_new_tokens: int,
    eos_token_id: int | Sequence[int] | None,
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
        eos_token_id: Token that ends an answer, or several of which each does; it is part of it.
            None or -1 for none.
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
            the model's context, an option or a token is out of range, or the model's logits are not
            finite.
    """
    _check_options(temperature, top_k, top_p, generator)
    check_prompts(model, input_ids, attention_mask, max_new_tokens)
    check_count("pad_token_id", pad_token_id, at_least=0, at_most=vocabulary_of(model) - 1)
    ends, n_rows = _as_tensor(eos_token_id, input_ids), len(input_ids)
    new_tokens = input_ids.new_full((n_rows, max_new_tokens), pad_token_id)
    rows = torch.arange(n_rows, device=input_ids.device)
    goes_on = torch.ones_like(rows, dtype=torch.bool)
    tokens, mask, positions = input_ids, attention_mask, position_ids(attention_mask)
    trunk = trunk_of_llama(model)
    cache = None if trunk is None else roomy_cache(max_new_tokens)
    is_plain = trunk is not None and can_decode(unwrapped(model), trunk)
    with lean(model):
        for step in range(max_new_tokens):
            if is_plain:
                read = decode if step else read_prompts
                logits = read(unwrapped(model), trunk, tokens, mask, positions, cache)
            else:
                logits, cache = _next_logits(model, tokens, mask, positions, cache)
            logits = filter_logits(logits, temperature, top_k, top_p)
            if temperature == 0:
                chosen = likeliest(logits)
            else:
                # One number a prompt and step, so that no answer depends on when another ends.
                uniform = torch.rand(n_rows, generator=generator, device=logits.device)
                chosen = _draw(logits, temperature, uniform[rows])
            new_tokens[rows[goes_on], step] = chosen[goes_on]
            goes_on = goes_on & torch.isin(chosen, ends, invert=True)
            n_going = int(goes_on.sum())
            if not n_going:
                break
            if n_going <= MOST_GOING * len(rows):
                # Answers that have ended leave the batch, and take their part of the cache along.
                cache.batch_select_indices(goes_on.nonzero().flatten())
                rows, chosen, mask, positions = (
                    tensor[goes_on] for tensor in (rows, chosen, mask, positions)
                )
                goes_on = goes_on[goes_on]
            # What lies before is in the cache: only the new token goes through the model.
            tokens, positions = chosen[:, None], positions[:, -1:] + 1
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
    return new_tokens[:, : step + 1]


def _next_logits(
    model: nn.Module, tokens: Tensor, mask: Tensor, positions: Tensor, cache: "Cache | None"
) -> tuple[Tensor, "Cache"]:
    """Return the logits of the token after the last, (batch, vocab), and the cache."""
    output = model(
        input_ids=tokens,
        attention_mask=mask,
        position_ids=positions,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1,
    )
    cache = getattr(output, "past_key_values", None)
    if cache is None:
        raise ValueError(f"{type(model).__name__} keeps no keys and values of earlier tokens")
    return output.logits[:, -1].float(), cache


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

    Raises:
        ValueError: If an option is out of range.
    """
    _check_options(temperature, top_k, top_p)
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


def likeliest(logits: Tensor) -> Tensor:
    """Return which of the last dimension's logits is the largest, (...).

    Raises:
        ValueError: If a largest one is not finite: of NaN, the first would count as the largest.
    """
    best = logits.argmax(dim=-1)
    _check_finite(logits.gather(-1, best[..., None]), "the model's largest logit")
    return best


def end_tokens(model: nn.Module, tokenizer: "PreTrainedTokenizerBase") -> tuple[int, ...]:
    """Return the tokens at which an answer ends: the tokenizer's, and what else the model names.

    A chat model may end a turn and a text by different tokens; its ``generation_config`` has all.
    """
    named = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    several = named if isinstance(named, list | tuple) else [named]
    return tuple(dict.fromkeys(t for t in [tokenizer.eos_token_id, *several] if t is not None))


def is_end(tokens: Tensor, eos_token_id: int | Sequence[int] | None) -> Tensor:
    """Return True where a token is an end token, of the tokens' shape.

    Raises:
        ValueError: If an end token is no whole number.
    """
    return torch.isin(tokens, _as_tensor(eos_token_id, tokens))


def padding_of(tokenizer: "PreTrainedTokenizerBase") -> int:
    """Return the token to pad with; without one of its own, an end token, which the mask hides."""
    candidates = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
    return next(token for token in candidates if token is not None)


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

    Raises:
        ValueError: If there is no prompt, or one is no text.
    """
    check_texts(prompts=prompts)
    begin = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    rows = [begin + tokenizer(p, add_special_tokens=False)["input_ids"] for p in prompts]
    length, pad = max(map(len, rows)), padding_of(tokenizer)
    ids = [[pad] * (length - len(row)) + row for row in rows]
    mask = [[0] * (length - len(row)) + [1] * len(row) for row in rows]
    return torch.tensor(ids, dtype=torch.long), torch.tensor(mask, dtype=torch.long)


def check_prompts(
    model: nn.Module, input_ids: Tensor, attention_mask: Tensor, max_new_tokens: int
) -> None:
    """Check that a model can continue prompts by so many tokens.

    Args:
        model: Its configuration gives the context; a model that gives none takes any length.
        input_ids: Prompts, padded on the left, (batch, seq).
        attention_mask: 1 on the tokens of the prompts, 0 on padding, (batch, seq).
        max_new_tokens: Tokens to be added at the most.

    Raises:
        ValueError: If a prompt is empty or padded on the right, does not fit, or has a token that
            the model does not know.
    """
    check_count("max_new_tokens", max_new_tokens)
    check_shapes(input_ids=input_ids, attention_mask=attention_mask)
    check_dimensions("input_ids", input_ids, "(batch, seq)")
    check_mask("attention_mask", attention_mask)
    check_words(model, input_ids, attention_mask)
    lengths = attention_mask.sum(dim=1)
    for row in (lengths == 0).nonzero().flatten().tolist()[:1]:
        raise ValueError(f"prompt {row} is empty: a prompt must have at least 1 token")
    for row in (attention_mask[:, -1] == 0).nonzero().flatten().tolist()[:1]:
        raise ValueError(f"prompt {row} is padded on the right: prompts must be padded on the left")
    context = context_of(model)
    row, longest = int(lengths.argmax()), int(lengths.max())
    soft_prompt = soft_prompt_of(model)
    n_virtual = soft_prompt.num_virtual_tokens if soft_prompt is not None else 0
    if context is not None and n_virtual + longest + max_new_tokens > context:
        before = f"{n_virtual} virtual tokens, " if n_virtual else ""
        raise ValueError(
            f"{before}prompt {row} of {longest} tokens and max_new_tokens={max_new_tokens} must "
            f"fit the model's context of {context} tokens"
        )


def check_words(model: nn.Module, input_ids: Tensor, attention_mask: Tensor) -> None:
    """Check that a model knows all tokens of a batch, padding included.

    Raises:
        ValueError: If it does not; the message names the token and its text.
    """
    if input_ids.dtype not in (torch.long, torch.int):
        raise ValueError(f"input_ids of type {input_ids.dtype} must be whole numbers, torch.long")
    n_words = vocabulary_of(model)
    for row, place in ((input_ids < 0) | (input_ids >= n_words)).nonzero().tolist()[:1]:
        kind = "token" if attention_mask[row, place] else "padding token"
        raise ValueError(
            f"{kind} {input_ids[row, place].item()} of text {row} must be in 0..{n_words - 1}, "
            "the model's vocabulary: with a token added to the tokenizer, resize the embeddings"
        )


def vocabulary_of(model: nn.Module) -> int:
    """Return how many tokens a model knows."""
    return len(model.get_input_embeddings().weight)


def _draw(logits: Tensor, temperature: float, uniform: Tensor) -> Tensor:
    """Return one token a row, (batch,), each by a number that is uniform in 0..1."""
    sums = logits.softmax(dim=-1).cumsum(dim=-1, dtype=torch.float64)
    # One logit that is not finite makes all of a row's probabilities NaN.
    _check_finite(sums[:, -1], f"after temperature={temperature:g} a probability")
    return torch.searchsorted(sums, uniform[:, None] * sums[:, -1:], right=True).squeeze(1)


def _check_finite(values: Tensor, what: str) -> None:
    if math.isfinite(values.sum().item()):  # one look at all of them, in the loop over tokens
        return
    for place in map(tuple, (~values.isfinite()).nonzero().tolist()[:1]):
        raise ValueError(
            f"{what} at {place} is {values[place].item()}: nothing can be chosen from logits that "
            "are not finite"
        )


def _as_tensor(eos_token_id: int | Sequence[int] | None, like: Tensor) -> Tensor:
    """Return end tokens, (n,), none for None."""
    if eos_token_id is None:
        eos_token_id = ()
    tokens = eos_token_id if isinstance(eos_token_id, list | tuple) else (eos_token_id,)
    for token in tokens:
        check_count("eos_token_id", token, at_least=-1)
    return torch.tensor(tokens, dtype=torch.long, device=like.device)


def _check_options(
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    generator: torch.Generator | None = None,
) -> None:
    check_number("temperature", temperature, at_least=0)
    check_count("top_k", top_k, is_none_ok=True)
    check_number("top_p", top_p, above=0, at_most=1, is_none_ok=True)
    if generator is not None and not isinstance(generator, torch.Generator):
        raise ValueError(f"generator={shown(generator)} must be a torch.Generator, or None")
