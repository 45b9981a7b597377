"""Preference pairs: two answers to one prompt, and which of them is better."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor, nn

from course_utils.data.batches import Batch, Example, pad_examples
from course_utils.data.chat import chat_prompt
from course_utils.data.encode import encode_answer
from course_utils.validation import check_count

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def encode_preference(
    tokenizer: "PreTrainedTokenizerBase", prompt: str, answer: str, *, max_length_tokens: int = 256
) -> dict[str, list[int] | int]:
    """Encode one answer for a reward model: begin token, chat of the prompt, answer.

    No end token is added: the reward head reads the last token of the answer, for the reason that
    :func:`course_utils.data.encode_label` gives. A prompt that is too long loses its beginning.

    Returns:
        ``input_ids``, and ``labels`` 0: a score is compared with another one, not with a label.

    Raises:
        ValueError: If one of them is no text, or ``max_length_tokens`` is below 2, which leaves no
            token of the answer.
    """
    check_count("max_length_tokens", max_length_tokens, at_least=2)
    rendered = chat_prompt(tokenizer, prompt)
    ids = encode_answer(tokenizer, rendered, answer, max_length_tokens=max_length_tokens + 1)
    return {"input_ids": ids["input_ids"][:-1], "labels": 0}


def encode_pair(
    tokenizer: "PreTrainedTokenizerBase",
    prompt: str,
    chosen: str,
    rejected: str,
    *,
    max_length_tokens: int = 256,
) -> dict[str, list[int] | int]:
    """Encode a preference pair as one example; see :func:`encode_preference`, :func:`join_pair`.

    Args:
        tokenizer: The reward model's tokenizer.
        prompt: What was asked, without a template.
        chosen: The better answer.
        rejected: The worse answer.
        max_length_tokens: Longest prompt and answer.
    """
    return join_pair(
        *(
            encode_preference(tokenizer, prompt, answer, max_length_tokens=max_length_tokens)
            for answer in (chosen, rejected)
        )
    )


def join_pair(chosen: Example, rejected: Example) -> dict[str, list[int] | int]:
    """Join two encoded texts, so that a pair travels through batching as one example.

    Returns:
        ``input_ids`` of both, chosen first, and as ``labels`` the length of the first.
    """
    ids = [*chosen["input_ids"], *rejected["input_ids"]]
    return {"input_ids": ids, "labels": len(chosen["input_ids"])}


def pair_batch(batch: Mapping[str, Tensor], pad_token_id: int) -> Batch:
    """Undo the joining of a batch of pairs: (batch, ...) to (2 batch, ...), chosen first.

    Returns:
        ``input_ids`` and ``attention_mask``, padded on the right.
    """
    parts: tuple[list, list] = ([], [])
    for ids, mask, border in zip(
        batch["input_ids"], batch["attention_mask"], batch["labels"].tolist(), strict=True
    ):
        real = ids[mask.bool()].tolist()
        parts[0].append({"input_ids": real[:border], "labels": 0})
        parts[1].append({"input_ids": real[border:], "labels": 0})
    joined = pad_examples(parts[0] + parts[1], pad_token_id)
    return {
        name: joined[name].to(batch["input_ids"].device) for name in ("input_ids", "attention_mask")
    }


def pair_scores(model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return a reward model's scores of the chosen and of the rejected answers, (batch,) each."""
    scores = model(**pair_batch(batch, model.config.pad_token_id)).logits[:, 0]
    return scores.chunk(2)
