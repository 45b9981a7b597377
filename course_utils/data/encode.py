"""Texts, answers, labels, labelled words and instructions made into tokens and targets."""

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Literal

from course_utils.data.chat import alpaca_prompt, chat_prompt
from course_utils.validation import check_choice, check_count, check_text, shown

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORED = -100


def encode_text(
    tokenizer: "PreTrainedTokenizerBase", text: str, *, max_length_tokens: int = 256
) -> dict[str, list[int]]:
    """Encode a document for language modelling: every token is a target.

    Returns:
        ``input_ids`` and ``labels``: begin token, text, end token, cut to ``max_length_tokens``.

    Raises:
        ValueError: If ``text`` is no text, the tokenizer has no end token, or no target is left:
            the first token is none, since nothing stands before it.
    """
    ids = [*_begin(tokenizer), *_tokens(tokenizer, "text", text), _end(tokenizer)]
    return _cut(ids, list(ids), max_length_tokens)


def encode_answer(
    tokenizer: "PreTrainedTokenizerBase", prompt: str, answer: str, *, max_length_tokens: int = 256
) -> dict[str, list[int]]:
    """Encode a prompt and its answer; only the answer and its end token are targets.

    A prompt that is too long loses its beginning. An answer loses its end only where it is too
    long by itself.

    Raises:
        ValueError: If one of them is no text, the tokenizer has no end token, or no target is left.
    """
    check_count("max_length_tokens", max_length_tokens)
    before = _begin(tokenizer) + _tokens(tokenizer, "prompt", prompt)
    after = [*_tokens(tokenizer, "answer", answer), _end(tokenizer)]
    before = before[-max(1, max_length_tokens - len(after)) :]
    return _cut(before + after, [IGNORED] * len(before) + after, max_length_tokens)


def encode_label(
    tokenizer: "PreTrainedTokenizerBase", text: str, label: int, *, max_length_tokens: int = 256
) -> dict[str, list[int] | int]:
    """Encode a text for classification.

    No end token is added: the head reads the last token, and a model that was trained to predict
    text keeps what it knows of a text in the last content token. A tokenizer with a classification
    token, as BERT's, gives the tokens that its own call gives, [CLS] and [SEP] among them: the head
    of such a model reads [CLS].

    Args:
        tokenizer: The model's tokenizer.
        text: What is classified.
        label: Its class, from 0.
        max_length_tokens: What is longer loses its end.

    Raises:
        ValueError: If ``text`` is no text, ``label`` no class, or no token of the text is left.
    """
    check_count("label", label, at_least=0)
    before, after = _frame(tokenizer, max_length_tokens)
    ids = _tokens(tokenizer, "text", text)[: max_length_tokens - len(before) - len(after)]
    if not before + ids:
        raise ValueError(f"text={shown(text)} gives no token")
    return {"input_ids": [*before, *ids, *after], "labels": int(label)}


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
        ``input_ids`` and ``labels`` of equal length; labels are -100 on the begin token, on other
        special tokens (see :func:`encode_label`) and on the earlier tokens of a word.

    Raises:
        ValueError: If there is not one label a word, a word does not end in a token, or no label is
            left.
    """
    _check_words(words, labels)
    before, after = _frame(tokenizer, max_length_tokens)
    room = max_length_tokens - len(before) - len(after)
    text = tokenizer(
        " ".join(words), add_special_tokens=False, return_offsets_mapping=True, verbose=False
    )
    ends = [length - 1 for length in accumulate(len(word) + 1 for word in words)]
    last = {bisect_left(ends, end): k for k, (_, end) in enumerate(text["offset_mapping"])}
    if lost := [word for k, word in enumerate(words) if k not in last]:
        raise ValueError(f"word {shown(lost[0])} must end where a token of the text ends")
    targets = [IGNORED] * len(text["input_ids"])
    for k, label in enumerate(labels):
        targets[last[k]] = int(label)
    ids = [*before, *text["input_ids"][:room], *after]
    targets = [*[IGNORED] * len(before), *targets[:room], *[IGNORED] * len(after)]
    if set(targets) == {IGNORED}:
        raise ValueError(f"max_length_tokens={max_length_tokens} leaves no word's end")
    return {"input_ids": ids, "labels": targets}


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
        ValueError: If ``template`` or ``loss_on`` is none of these; see also :func:`chat_prompt`
            and :func:`encode_answer`.
    """
    check_choice("template", template, ("chat", "alpaca"))
    check_choice("loss_on", loss_on, ("answer", "all"))
    is_chat = template == "chat"
    prompt = (
        chat_prompt(tokenizer, instruction, input) if is_chat else alpaca_prompt(instruction, input)
    )
    example = encode_answer(tokenizer, prompt, output, max_length_tokens=max_length_tokens)
    if loss_on == "all":
        example["labels"] = list(example["input_ids"])
    return example


def _tokens(tokenizer: "PreTrainedTokenizerBase", name: str, text: str) -> list[int]:
    check_text(name, text)
    return tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]


def _begin(tokenizer: "PreTrainedTokenizerBase") -> list[int]:
    return [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]


def _end(tokenizer: "PreTrainedTokenizerBase") -> int:
    if tokenizer.eos_token_id is None:
        raise ValueError("the tokenizer has no end token: give it one, as in tokenizer.eos_token")
    return tokenizer.eos_token_id


def _cut(ids: list[int], labels: list[int], max_length_tokens: int) -> dict[str, list[int]]:
    """Return an example that keeps at least one target; the first token is never one."""
    check_count("max_length_tokens", max_length_tokens)
    ids, labels = ids[:max_length_tokens], labels[:max_length_tokens]
    if all(label == IGNORED for label in labels[1:]):
        raise ValueError(
            f"max_length_tokens={max_length_tokens} leaves {len(ids)} tokens, none a target"
        )
    return {"input_ids": ids, "labels": labels}


def _frame(
    tokenizer: "PreTrainedTokenizerBase", max_length_tokens: int
) -> tuple[list[int], list[int]]:
    """Return the special tokens before and after a text that is classified."""
    before, after = _begin(tokenizer), []
    if tokenizer.cls_token_id is not None:
        own = tokenizer("a", return_special_tokens_mask=True)
        ids, is_special = own["input_ids"], own["special_tokens_mask"]
        if tokenizer.cls_token_id not in ids or all(is_special):
            raise ValueError(
                f"the tokenizer has a classification token, {tokenizer.cls_token}, but does not "
                "put it into its texts"
            )
        before = ids[: is_special.index(0)]
        after = ids[len(ids) - is_special[::-1].index(0) :]
    check_count("max_length_tokens", max_length_tokens, at_least=len(before) + len(after) + 1)
    return before, after


def _check_words(words: Sequence[str], labels: Sequence[int]) -> None:
    for name, values in (("words", words), ("labels", labels)):
        if isinstance(values, str) or not isinstance(values, Sequence) or not values:
            raise ValueError(f"{name}={shown(values)} must be a list, one entry a word")
    if len(words) != len(labels):
        raise ValueError(f"{len(labels)} labels for {len(words)} words: there must be one a word")
    for word, label in zip(words, labels, strict=True):
        check_text("word", word)
        check_count("label", label, at_least=0)
