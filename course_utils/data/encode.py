"""Texts, answers, labels, labelled words and instructions made into tokens and targets."""

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED = -100
ALPACA_HEADS = {
    False: "Below is an instruction that describes a task. Write a response that appropriately "
    "completes the request.",
    True: "Below is an instruction that describes a task, paired with an input that provides "
    "further context. Write a response that appropriately completes the request.",
}


def encode_text(
    tokenizer: "PreTrainedTokenizerBase", text: str, *, max_length_tokens: int = 256
) -> dict[str, list[int]]:
    """Encode a document for language modelling: every token is a target.

    Returns:
        ``input_ids`` and ``labels``: begin token, text, end token, cut to ``max_length_tokens``.
    """
    limit = {"truncation": True, "max_length": max_length_tokens}
    ids = tokenizer(text, add_special_tokens=False, **limit)["input_ids"]
    begin = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    ids = [*begin, *ids, tokenizer.eos_token_id][:max_length_tokens]
    return {"input_ids": ids, "labels": list(ids)}


def encode_answer(
    tokenizer: "PreTrainedTokenizerBase", prompt: str, answer: str, *, max_length_tokens: int = 256
) -> dict[str, list[int]]:
    """Encode a prompt and its answer; only the answer and its end token are targets.

    A prompt that is too long loses its beginning, never the answer.
    """
    begin = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    before = begin + tokenizer(prompt, add_special_tokens=False)["input_ids"]
    after = [*tokenizer(answer, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    before = before[-max(1, max_length_tokens - len(after)) :]
    labels = [IGNORED] * len(before) + after
    return {"input_ids": (before + after)[:max_length_tokens], "labels": labels[:max_length_tokens]}


def encode_label(
    tokenizer: "PreTrainedTokenizerBase", text: str, label: int, *, max_length_tokens: int = 256
) -> dict[str, list[int] | int]:
    """Encode a text for classification.

    No end token is added: the head reads the last token, and a model that was trained to predict
    text keeps what it knows of a text in the last content token.
    """
    begin = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    ids = begin + tokenizer(text, add_special_tokens=False)["input_ids"]
    return {"input_ids": ids[:max_length_tokens], "labels": int(label)}


def encode_word_labels(
    tokenizer: "PreTrainedTokenizerBase",
    words: Sequence[str],
    labels: Sequence[int],
    *,
    max_length_tokens: int = 256,
) -> dict[str, list[int]]:
    """Encode words that carry a class each, for token classification.

    The text is the words with a space between them. A word's label stands on its last token, where
    a causal model has read the whole word.

    Args:
        tokenizer: The model's tokenizer, one that reports where its tokens stand in the text.
        words: Words, punctuation attached.
        labels: Class of each word, from 0.
        max_length_tokens: What is longer loses its end.

    Returns:
        ``input_ids`` and ``labels`` of equal length; labels are -100 on the begin token and on the
        earlier tokens of a word.

    Raises:
        ValueError: If there is not one label a word, or a word does not end in a token.
    """
    if len(words) != len(labels):
        raise ValueError(f"{len(labels)} labels for {len(words)} words: there must be one a word")
    text = tokenizer(" ".join(words), add_special_tokens=False, return_offsets_mapping=True)
    ends = [length - 1 for length in accumulate(len(word) + 1 for word in words)]
    last = {bisect_left(ends, end): k for k, (_, end) in enumerate(text["offset_mapping"])}
    if lost := [word for k, word in enumerate(words) if k not in last]:
        raise ValueError(f"word {lost[0]!r} must end where a token of the text ends")
    begin = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    targets = [IGNORED] * (len(begin) + len(text["input_ids"]))
    for k, label in enumerate(labels):
        targets[len(begin) + last[k]] = int(label)
    ids = begin + text["input_ids"]
    return {"input_ids": ids[:max_length_tokens], "labels": targets[:max_length_tokens]}


def chat_prompt(tokenizer: "PreTrainedTokenizerBase", instruction: str, input: str = "") -> str:
    """Render an instruction as a chat that waits for the answer, without the begin token.

    Args:
        tokenizer: Its chat template renders.
        instruction: What to do; also a bare question, or the prompt of a preference pair.
        input: What to do it with, on a line of its own; may be empty.

    Raises:
        ValueError: If the tokenizer has no chat template.
    """
    if not tokenizer.chat_template:
        raise ValueError(
            f"the tokenizer of {tokenizer.name_or_path or 'this model'} has no chat template: "
            "use the plain form, alpaca_prompt"
        )
    messages = [{"role": "user", "content": f"{instruction}\n{input}".strip()}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return text.removeprefix(tokenizer.bos_token or "")


def alpaca_prompt(instruction: str, input: str = "") -> str:
    """Render an instruction in plain text, for tokenizers without a chat template.

    The form of Stanford Alpaca (Taori et al., 2023, github.com/tatsu-lab/stanford_alpaca).
    """
    parts = [ALPACA_HEADS[bool(input)], f"### Instruction:\n{instruction}"]
    parts += [f"### Input:\n{input}"] if input else []
    return "\n\n".join([*parts, "### Response:"])


def encode_instruction(
    tokenizer: "PreTrainedTokenizerBase",
    instruction: str,
    input: str,
    output: str,
    *,
    template: Literal["chat", "alpaca"] = "chat",
    loss_on: Literal["answer", "all"] = "answer",
    max_length_tokens: int = 256,
) -> dict[str, list[int]]:
    """Encode an instruction and its answer, which ends in the end token.

    Args:
        tokenizer: The model's tokenizer.
        instruction: What to do.
        input: What to do it with; may be empty.
        output: The answer.
        template: ``chat`` renders with :func:`chat_prompt`, ``alpaca`` with :func:`alpaca_prompt`.
        loss_on: Which tokens are targets: ``answer`` (and its end token), or ``all``.
        max_length_tokens: A prompt that is too long loses its beginning.

    Raises:
        ValueError: If ``template`` or ``loss_on`` is none of these.
    """
    if template not in ("chat", "alpaca"):
        raise ValueError(f"template={template!r} must be 'chat' or 'alpaca'")
    if loss_on not in ("answer", "all"):
        raise ValueError(f"loss_on={loss_on!r} must be 'answer' or 'all'")
    is_chat = template == "chat"
    prompt = (
        chat_prompt(tokenizer, instruction, input) if is_chat else alpaca_prompt(instruction, input)
    )
    example = encode_answer(tokenizer, prompt, output, max_length_tokens=max_length_tokens)
    if loss_on == "all":
        example["labels"] = list(example["input_ids"])
    return example
