"""What one forward pass tells of a model: perplexity, exact answers, accuracy, F1."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from course_utils.data import (
    IGNORED,
    Batch,
    Example,
    encode_answer,
    encode_text,
    lengths_of,
    pad_examples,
)
from course_utils.generation import check_words, likeliest
from course_utils.models.structure import context_of
from course_utils.validation import (
    check_as_many,
    check_count,
    check_flag,
    check_shapes,
    check_texts,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Beyond it, exp overflows.
LARGEST_LOSS = 700.0


@dataclass(frozen=True, kw_only=True)
class TokenScores:
    """How well a token classifier labels.

    Args:
        accuracy: Share of the labelled places that are right.
        macro_f1: Mean of ``f1`` over its classes.
        f1: F1 of each class but 0, which stands for "none of them"; a class that neither occurs
            nor is predicted has none.
    """

    accuracy: float
    macro_f1: float
    f1: dict[int, float]


def perplexity(
    model: nn.Module,
    tokenizer: "PreTrainedTokenizerBase",
    texts: Sequence[str],
    *,
    batch_size: int = 32,
    max_length_tokens: int = 256,
) -> float:
    """Return exp(mean negative log-likelihood of a token) over ``texts``.

    Raises:
        ValueError: If there is no text, or one has no token to predict, or does not fit the model.
    """
    check_texts(texts=texts)
    check_count("max_length_tokens", max_length_tokens)
    examples = [encode_text(tokenizer, t, max_length_tokens=max_length_tokens) for t in texts]
    total = count = 0.0
    for batch, _ in _batches(model, examples, batch_size):
        logits, targets = _shifted(model, batch)
        total += nn.functional.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum"
        ).item()
        count += int((targets != IGNORED).sum())
    return math.inf if total / count > LARGEST_LOSS else math.exp(total / count)


def greedy_matches(
    model: nn.Module,
    tokenizer: "PreTrainedTokenizerBase",
    prompts: Sequence[str],
    answers: Sequence[str],
    *,
    batch_size: int = 64,
    with_end: bool = False,
    max_length_tokens: int = 256,
) -> list[bool]:
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

    Raises:
        ValueError: If there is not one answer a prompt, one does not fit the model, or the model's
            logits are not finite.
    """
    check_texts(prompts=prompts, answers=answers)
    check_count("max_length_tokens", max_length_tokens)
    check_flag("with_end", with_end)
    examples = []
    for prompt, answer in zip(prompts, answers, strict=True):
        example = encode_answer(tokenizer, prompt, answer, max_length_tokens=max_length_tokens)
        if not with_end:
            example["labels"] = [*example["labels"][:-1], IGNORED]
        examples.append(example)
    matches = [False] * len(examples)
    for batch, indices in _batches(model, examples, batch_size):
        logits, targets = _shifted(model, batch)
        is_answer, right = targets != IGNORED, torch.ones_like(targets, dtype=torch.bool)
        right[is_answer] = likeliest(logits[is_answer]) == targets[is_answer]
        for index, is_right in zip(indices, right.all(dim=1).tolist(), strict=True):
            matches[index] = is_right
    return matches


def accuracy(model: nn.Module, examples: Sequence[Example], *, batch_size: int = 64) -> float:
    """Return the share of class labels a sequence classifier predicts.

    Raises:
        ValueError: If there is no example, one does not fit the model, or the model's logits are
            not finite.
    """
    right = 0
    if getattr(model.config, "pad_token_id", None) is None:
        batch_size = 1  # Which token is a text's last cannot be told from padding.
    for batch, _ in _batches(model, examples, batch_size):
        labels = batch.pop("labels")
        with torch.no_grad():
            predicted = likeliest(model(**batch).logits)
        check_shapes(labels=labels, predictions=predicted)
        right += int((predicted == labels).sum())
    return right / len(examples)


def token_scores(
    model: nn.Module, examples: Sequence[Example], *, batch_size: int = 64
) -> TokenScores:
    """Return accuracy and F1 over the places that carry a label.

    F1 of a class is 2 TP / (2 TP + FP + FN), counted place by place. Accuracy flatters where most
    places are of class 0; the macro mean weighs every other class alike.

    Args:
        model: Token classifier.
        examples: Examples from ``encode_word_labels``.
        batch_size: Sequences a forward pass.

    Raises:
        ValueError: If no place carries a label, one is no class of the model, an example does not
            fit the model, or the model's logits are not finite.
    """
    pairs = []
    for batch, _ in _batches(model, examples, batch_size):
        labels = batch.pop("labels")
        with torch.no_grad():
            # Virtual tokens, where a method has some in its output, stand at the front.
            logits = model(**batch).logits[:, -labels.shape[1] :]
        is_labelled = labels != IGNORED
        pairs.append(torch.stack([labels[is_labelled], likeliest(logits[is_labelled])]).cpu())
    found, n_classes = torch.cat(pairs, dim=1), logits.shape[-1]
    if not found.numel():
        raise ValueError("no place carries a label: there is nothing to score")
    for label in (found[0].min().item(), found[0].max().item()):
        check_count("label", label, at_least=0, at_most=n_classes - 1)
    table = torch.bincount(found[0] * n_classes + found[1], minlength=n_classes**2)
    table = table.view(n_classes, n_classes).double()  # of each label (row), what was predicted
    hits, total = table.diag(), table.sum(0) + table.sum(1)
    f1 = {k: (2 * hits[k] / total[k]).item() for k in range(1, n_classes) if total[k]}
    return TokenScores(
        accuracy=(hits.sum() / table.sum()).item(),
        f1=f1,
        macro_f1=sum(f1.values()) / len(f1) if f1 else math.nan,
    )


def _batches(model: nn.Module, examples: Sequence[Example], batch_size: int):  # noqa: ANN202
    """Yield padded batches, shortest examples first, and their indices; the model evaluates."""
    check_as_many(examples=examples)
    check_count("batch_size", batch_size)
    device, context = next(model.parameters()).device, context_of(model)
    pad = getattr(model.config, "pad_token_id", None) or 0
    model.eval()
    lengths = lengths_of(examples)
    if context is not None and max(lengths) > context:
        raise ValueError(
            f"a text of {max(lengths)} tokens must fit the model's context of {context} tokens"
        )
    order = sorted(range(len(examples)), key=lengths.__getitem__)
    for start in range(0, len(order), batch_size):
        indices = order[start : start + batch_size]
        batch = pad_examples([examples[i] for i in indices], pad)
        check_words(model, batch["input_ids"], batch["attention_mask"])
        yield {name: tensor.to(device) for name, tensor in batch.items()}, indices


def _shifted(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return logits (batch, seq - 1, vocab) and the tokens they should predict."""
    with torch.no_grad():
        output = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    logits = output.logits[:, -batch["labels"].shape[1] :][:, :-1].float()
    return logits, batch["labels"][:, 1:]
