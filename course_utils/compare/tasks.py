"""The tasks that methods are compared on: how each is encoded, trained and scored."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from course_utils.data import encode_answer, encode_label, encode_text, pad_examples
from course_utils.evaluation import accuracy, greedy_matches, perplexity
from course_utils.training.loop import LossFunction

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Task:
    """A task set, how it is trained on and how its splits are scored.

    Args:
        name: Name of the task set.
        metric: What the score is.
        encode: Turns a row into an example.
        score: Scores a model on rows; higher is better.
        test_splits: Splits that are reported.
        steps: Optimizer steps of a run.
        batch_size: Examples a step.
        num_labels: Outputs of the classification head; None for a language model.
        packing_length_tokens: Length of packed rows; None pads.
        loss_function: Loss where it is not the model's own.
    """

    name: str
    metric: str
    encode: Callable[["PreTrainedTokenizerBase", Row], dict]
    score: Callable[["PreTrainedModel", "PreTrainedTokenizerBase", list[Row]], float]
    test_splits: tuple[str, ...]
    steps: int
    batch_size: int = 16
    num_labels: int | None = None
    packing_length_tokens: int | None = None
    loss_function: LossFunction | None = None


def _encode_labelled(tokenizer: "PreTrainedTokenizerBase", row: Row) -> dict:
    return encode_label(tokenizer, row["text"], row["label"])


def _score_accuracy(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", rows: list[Row]
) -> float:
    return accuracy(model, [_encode_labelled(tokenizer, row) for row in rows])


def _encode_document(tokenizer: "PreTrainedTokenizerBase", row: Row) -> dict:
    return encode_text(tokenizer, row["text"])


def _score_negative_loss(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", rows: list[Row]
) -> float:
    return -math.log(perplexity(model, tokenizer, [row["text"] for row in rows]))


def _score_recall(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", rows: list[Row]
) -> float:
    return _share(greedy_matches(
        model, tokenizer, [r["prompt"] for r in rows], [r["answer"] for r in rows]
    ))  # fmt: skip


def chat_prompt(tokenizer: "PreTrainedTokenizerBase", row: Row) -> str:
    """Return the user's turn of an instruction in the chat format, without the begin token."""
    content = f"{row['instruction']}\n{row['input']}".strip()
    text = tokenizer.apply_chat_template([{"role": "user", "content": content}], tokenize=False,
                                         add_generation_prompt=True)  # fmt: skip
    return text.removeprefix(tokenizer.bos_token or "")


def _encode_instruction(tokenizer: "PreTrainedTokenizerBase", row: Row) -> dict:
    return encode_answer(tokenizer, chat_prompt(tokenizer, row), row["output"])


def _score_exact(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", rows: list[Row]
) -> float:
    prompts = [chat_prompt(tokenizer, row) for row in rows]
    return _share(
        greedy_matches(model, tokenizer, prompts, [r["output"] for r in rows], with_end=True)
    )


def _encode_pair(tokenizer: "PreTrainedTokenizerBase", row: Row) -> dict:
    chosen, rejected = (
        encode_label(tokenizer, f"Question: {row['prompt']}\nAnswer: {row[name]}", 0)["input_ids"]
        for name in ("chosen", "rejected")
    )
    # The pair travels as one example: chosen, then rejected, split again by the loss.
    return {"input_ids": chosen + rejected, "labels": len(chosen)}


def _pair_batch(batch: dict[str, Tensor], pad_token_id: int) -> dict[str, Tensor]:
    """Undo the joining of chosen and rejected: (batch, ...) to (2 batch, ...), chosen first."""
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


def _pair_scores(model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    scores = model(**_pair_batch(batch, model.config.pad_token_id)).logits[:, 0]
    return scores.chunk(2)


def pair_loss(model: nn.Module, batch: dict[str, Tensor]) -> Tensor:
    """Return the Bradley-Terry loss, -log sigmoid(chosen - rejected), of a batch of pairs."""
    chosen, rejected = _pair_scores(model, batch)
    return -nn.functional.logsigmoid(chosen - rejected).mean()


def _score_pairs(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", rows: list[Row]
) -> float:
    model.eval()
    right: list[bool] = []
    for start in range(0, len(rows), 32):
        examples = [_encode_pair(tokenizer, row) for row in rows[start : start + 32]]
        with torch.no_grad():
            chosen, rejected = _pair_scores(
                model, pad_examples(examples, model.config.pad_token_id)
            )
        right += (chosen > rejected).tolist()
    return _share(right)


def _share(values: Sequence[bool]) -> float:
    return sum(values) / len(values)


TASKS = {
    task.name: task
    for task in (
        Task(name="topics", metric="accuracy", encode=_encode_labelled, score=_score_accuracy,
             test_splits=("test", "test_unseen"), steps=170, num_labels=6),
        Task(name="sentiment", metric="accuracy", encode=_encode_labelled, score=_score_accuracy,
             test_splits=("test", "test_unseen"), steps=80, num_labels=3),
        Task(name="new_facts", metric="exact answers", encode=_encode_document,
             score=_score_recall, test_splits=("test", "test_unseen"), steps=170,
             batch_size=2, packing_length_tokens=256),
        Task(name="dialect", metric="log-likelihood a token", encode=_encode_document,
             score=_score_negative_loss, test_splits=("test", "test_unseen"), steps=60,
             batch_size=4, packing_length_tokens=256),
        Task(name="instructions", metric="exact match", encode=_encode_instruction,
             score=_score_exact, test_splits=("test", "test_unseen"), steps=80),
        Task(name="preferences", metric="pair accuracy", encode=_encode_pair, score=_score_pairs,
             test_splits=("test", "test_unseen"), steps=64, num_labels=1,
             loss_function=pair_loss),
    )
}  # fmt: skip
