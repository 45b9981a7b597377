"""What one forward pass tells of a model: perplexity, exact answers, accuracy."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from course_utils.data import IGNORED, Batch, Example, encode_answer, encode_text, pad_examples

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def perplexity(
    model: nn.Module, tokenizer: "PreTrainedTokenizerBase", texts: Sequence[str], *,
    batch_size: int = 32, max_length_tokens: int = 256,
) -> float:  # fmt: skip
    """Return exp(mean negative log-likelihood of a token) over ``texts``."""
    examples = [encode_text(tokenizer, t, max_length_tokens=max_length_tokens) for t in texts]
    total = count = 0.0
    for batch, _ in _batches(model, examples, batch_size):
        logits, targets = _shifted(model, batch)
        total += nn.functional.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum"
        ).item()
        count += int((targets != IGNORED).sum())
    return math.exp(total / count)


def greedy_matches(
    model: nn.Module, tokenizer: "PreTrainedTokenizerBase", prompts: Sequence[str],
    answers: Sequence[str], *, batch_size: int = 64, with_end: bool = False,
    max_length_tokens: int = 256,
) -> list[bool]:  # fmt: skip
    """Say for each prompt whether greedy decoding would write exactly the answer.

    Greedy decoding reproduces an answer if and only if each of its tokens is the likeliest one
    after the prompt and the answer so far, so one forward pass decides, without generating.

    Args:
        model: Causal language model.
        tokenizer: Its tokenizer.
        prompts: Texts, or chats already rendered, before the answer.
        answers: Expected continuations.
        batch_size: Sequences a forward pass.
        with_end: Whether the end token must follow the answer.
        max_length_tokens: Longest sequence.
    """
    examples = []
    for prompt, answer in zip(prompts, answers, strict=True):
        example = encode_answer(tokenizer, prompt, answer, max_length_tokens=max_length_tokens)
        if not with_end:
            example["labels"] = [*example["labels"][:-1], IGNORED]
        examples.append(example)
    matches = [False] * len(examples)
    for batch, indices in _batches(model, examples, batch_size):
        logits, targets = _shifted(model, batch)
        right = ((logits.argmax(-1) == targets) | (targets == IGNORED)).all(dim=1)
        for index, is_right in zip(indices, right.tolist(), strict=True):
            matches[index] = is_right
    return matches


def accuracy(model: nn.Module, examples: Sequence[Example], *, batch_size: int = 64) -> float:
    """Return the share of class labels a sequence classifier predicts."""
    right = 0
    for batch, _ in _batches(model, examples, batch_size):
        labels = batch.pop("labels")
        with torch.no_grad():
            right += int((model(**batch).logits.argmax(-1) == labels).sum())
    return right / len(examples)


def _batches(model: nn.Module, examples: Sequence[Example], batch_size: int):  # noqa: ANN202
    """Yield padded batches, shortest examples first, and their indices; the model evaluates."""
    device = next(model.parameters()).device
    pad = getattr(model.config, "pad_token_id", None) or 0
    model.eval()
    order = sorted(range(len(examples)), key=lambda i: len(examples[i]["input_ids"]))
    for start in range(0, len(order), batch_size):
        indices = order[start : start + batch_size]
        batch = pad_examples([examples[i] for i in indices], pad)
        yield {name: tensor.to(device) for name, tensor in batch.items()}, indices


def _shifted(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return logits (batch, seq - 1, vocab) and the tokens they should predict."""
    with torch.no_grad():
        output = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    logits = output.logits[:, -batch["labels"].shape[1] :][:, :-1].float()
    return logits, batch["labels"][:, 1:]
