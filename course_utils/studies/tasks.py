"""The tasks that methods are compared on: how each is encoded, trained and scored."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch

from course_utils.data import (
    chat_prompt,
    encode_instruction,
    encode_label,
    encode_text,
    encode_word_labels,
    join_pair,
    load_task,
    pad_examples,
    pair_scores,
)
from course_utils.evaluation import accuracy, greedy_matches, perplexity, token_scores
from course_utils.rlhf.assistant import pair_loss
from course_utils.training import RunResult, train
from course_utils.training.loop import LossFunction

if TYPE_CHECKING:
    from datasets import Dataset
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
        label_level: What the head classifies: a whole text, or every token.
        packing_length_tokens: Length of packed rows; None pads.
        loss_function: Loss where it is not the model's own.
        task_set: Task set that the rows come from; ``name`` by default.
        train_split: Its split that is trained on.
        trainer: What trains, in place of ``course_utils.training.train``.
        details: What else is recorded of a trained model.
    """

    name: str
    metric: str
    encode: Callable[["PreTrainedTokenizerBase", Row], dict]
    score: Callable[["PreTrainedModel", "PreTrainedTokenizerBase", list[Row]], float]
    test_splits: tuple[str, ...]
    steps: int
    batch_size: int = 16
    num_labels: int | None = None
    label_level: Literal["sequence", "token"] = "sequence"
    packing_length_tokens: int | None = None
    loss_function: LossFunction | None = None
    task_set: str = ""
    train_split: str = "train"
    trainer: Callable[..., RunResult] = train
    details: Callable[["PreTrainedModel", "PreTrainedTokenizerBase"], Row] | None = None

    def load(self, split: str) -> "Dataset":
        """Load a split of the task's rows."""
        return load_task(self.task_set or self.name, split)


def _encode_labelled(tokenizer: "PreTrainedTokenizerBase", row: Row) -> dict:
    return encode_label(tokenizer, row["text"], row["label"])


def _score_accuracy(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", rows: list[Row]
) -> float:
    return accuracy(model, [_encode_labelled(tokenizer, row) for row in rows])


def _encode_roles(tokenizer: "PreTrainedTokenizerBase", row: Row) -> dict:
    return encode_word_labels(tokenizer, row["words"], row["roles"])


def _score_roles(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", rows: list[Row]
) -> float:
    return token_scores(model, [_encode_roles(tokenizer, row) for row in rows]).macro_f1


def _encode_document(tokenizer: "PreTrainedTokenizerBase", row: Row) -> dict:
    return encode_text(tokenizer, row["text"])


def _score_negative_loss(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", rows: list[Row]
) -> float:
    return -math.log(perplexity(model, tokenizer, [row["text"] for row in rows]))


def _score_recall(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", rows: list[Row]
) -> float:
    return _share(
        greedy_matches(model, tokenizer, [r["prompt"] for r in rows], [r["answer"] for r in rows])
    )


def encode_row(
    tokenizer: "PreTrainedTokenizerBase", row: Row, *, loss_on: Literal["answer", "all"] = "answer"
) -> dict:
    """Encode a row of the instructions as a chat."""
    return encode_instruction(
        tokenizer, row["instruction"], row["input"], row["output"], loss_on=loss_on
    )


def score_exact(
    model: "PreTrainedModel", tokenizer: "PreTrainedTokenizerBase", rows: list[Row]
) -> float:
    """Return the share of instructions answered exactly, end token and all."""
    prompts = [chat_prompt(tokenizer, row["instruction"], row["input"]) for row in rows]
    return _share(
        greedy_matches(model, tokenizer, prompts, [r["output"] for r in rows], with_end=True)
    )


def _encode_pair(tokenizer: "PreTrainedTokenizerBase", row: Row) -> dict:
    # Plain text and not a chat as in `data.encode_pair`: the recorded studies were run with it.
    return join_pair(
        *(
            encode_label(tokenizer, f"Question: {row['prompt']}\nAnswer: {row[name]}", 0)
            for name in ("chosen", "rejected")
        )
    )


def pair_accuracy(
    model: "PreTrainedModel",
    tokenizer: "PreTrainedTokenizerBase",
    rows: list[Row],
    *,
    encode: Callable[["PreTrainedTokenizerBase", Row], dict] = _encode_pair,
) -> float:
    """Return the share of pairs whose chosen answer scores higher."""
    model.eval()
    right: list[bool] = []
    for start in range(0, len(rows), 32):
        examples = [encode(tokenizer, row) for row in rows[start : start + 32]]
        with torch.no_grad():
            batch = pad_examples(examples, model.config.pad_token_id)
            batch = {name: tensor.to(model.device) for name, tensor in batch.items()}
            chosen, rejected = pair_scores(model, batch)
        right += (chosen > rejected).tolist()
    return _share(right)


def _share(values: Sequence[bool]) -> float:
    return sum(values) / len(values)


TASKS = {
    task.name: task
    for task in (
        Task(
            name="topics",
            metric="accuracy",
            encode=_encode_labelled,
            score=_score_accuracy,
            test_splits=("test", "test_unseen"),
            steps=170,
            num_labels=6,
        ),
        Task(
            name="sentiment",
            metric="accuracy",
            encode=_encode_labelled,
            score=_score_accuracy,
            test_splits=("test", "test_unseen"),
            steps=80,
            num_labels=3,
        ),
        Task(
            name="new_facts",
            metric="exact answers",
            encode=_encode_document,
            score=_score_recall,
            test_splits=("test", "test_unseen"),
            steps=170,
            batch_size=2,
            packing_length_tokens=256,
        ),
        Task(
            name="dialect",
            metric="log-likelihood a token",
            encode=_encode_document,
            score=_score_negative_loss,
            test_splits=("test", "test_unseen"),
            steps=60,
            batch_size=4,
            packing_length_tokens=256,
        ),
        Task(
            name="instructions",
            metric="exact match",
            encode=encode_row,
            score=score_exact,
            test_splits=("test", "test_unseen"),
            steps=80,
        ),
        Task(
            name="preferences",
            metric="pair accuracy",
            encode=_encode_pair,
            score=pair_accuracy,
            test_splits=("test", "test_unseen"),
            steps=64,
            num_labels=1,
            loss_function=pair_loss,
        ),
    )
}

# Chapter 06's hard task; the six above are those of the study that all methods share.
WORD_TASKS = {
    "roles": Task(
        name="roles",
        metric="macro F1",
        encode=_encode_roles,
        score=_score_roles,
        test_splits=("test", "test_unseen"),
        steps=100,
        num_labels=5,
        label_level="token",
    ),
}
