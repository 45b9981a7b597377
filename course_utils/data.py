"""Task sets, and examples made ready for a model: encoded, padded, or packed."""

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from course_utils.paths import data_dir

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

IGNORED = -100
BUCKET_BATCHES = 16
Example = Mapping[str, Sequence[int] | int]
Batch = dict[str, Tensor]


def task_names() -> tuple[str, ...]:
    """Return the task sets the course ships."""
    return tuple(sorted(path.parent.name for path in data_dir().glob("tasks/*/schema.json")))


def split_names(task: str) -> tuple[str, ...]:
    """Return the splits of a task set.

    Raises:
        ValueError: If there is no such task set.
    """
    if task not in task_names():
        raise ValueError(f"task {task!r} must be one of {', '.join(task_names())}")
    return tuple(sorted(path.stem for path in (data_dir() / "tasks" / task).glob("*.jsonl")))


def load_task(task: str, split: str = "train") -> "Dataset":
    """Load one split of a task set; data/tasks/README.md says what its columns mean.

    Raises:
        ValueError: If the task set or the split does not exist, or a line is not JSON.
    """
    from datasets import Dataset

    if split not in split_names(task):
        raise ValueError(f"split {split!r} of {task} must be one of {', '.join(split_names(task))}")
    return Dataset.from_list(read_jsonl(data_dir() / "tasks" / task / f"{split}.jsonl"))


def read_jsonl(path: Path) -> list[dict]:
    """Read a file of one JSON object a line.

    Raises:
        ValueError: If a line is not JSON; the message names the line.
    """
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path.name}, line {number} is not JSON: {error.msg}") from error
    return rows


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


def pad_examples(examples: Sequence[Example], pad_token_id: int) -> Batch:
    """Pad examples on the right to the longest of them.

    Returns:
        ``input_ids`` and ``attention_mask`` of shape (batch, seq), and ``labels`` of shape
        (batch, seq) with -100 on the padding, or of shape (batch,) for class labels.
    """
    length = max(len(example["input_ids"]) for example in examples)

    def rows(name: str, value: int) -> Tensor:
        return torch.tensor(
            [[*e[name], *[value] * (length - len(e[name]))] for e in examples], dtype=torch.long
        )

    mask = [[1] * len(e["input_ids"]) + [0] * (length - len(e["input_ids"])) for e in examples]
    batch = {"input_ids": rows("input_ids", pad_token_id), "attention_mask": torch.tensor(mask)}
    if isinstance(examples[0]["labels"], int):
        batch["labels"] = torch.tensor([e["labels"] for e in examples])
    else:
        batch["labels"] = rows("labels", IGNORED)
    return batch


class PackedRows(Sequence):
    """Rows of several examples each, put together when they are asked for.

    Args:
        examples: Encoded examples.
        groups: The examples of each row, by index.
    """

    def __init__(self, examples: Sequence[Example], groups: Sequence[Sequence[int]]) -> None:
        self.examples = examples
        self.groups = groups

    def __len__(self) -> int:
        return len(self.groups)

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        row: dict[str, list[int]] = {"input_ids": [], "labels": [], "position_ids": []}
        for example in (self.examples[i] for i in self.groups[index]):
            row["input_ids"] += example["input_ids"]
            row["labels"] += [IGNORED, *example["labels"][1:]]
            row["position_ids"] += range(len(example["input_ids"]))
        return row


def lengths_of(examples: Sequence[Example]) -> list[int]:
    """Return the length of each example in tokens."""
    lengths = getattr(examples, "lengths", None)
    return [len(example["input_ids"]) for example in examples] if lengths is None else lengths


def pack_examples(examples: Sequence[Example], length_tokens: int) -> PackedRows:
    """Put several examples into each row of ``length_tokens``, first fit, longest first.

    Positions start again at every example, which is how the attention mask keeps examples from
    seeing one another; the first token of each is no target, so none predicts its neighbour.
    Rows come back in the order of their first example, so that packing does not sort by length.

    Raises:
        ValueError: If an example is longer than a row.
    """
    lengths = lengths_of(examples)
    if max(lengths) > length_tokens:
        raise ValueError(
            f"an example of {max(lengths)} tokens does not fit length_tokens={length_tokens}"
        )
    bins: list[list[int]] = []
    by_space: dict[int, list[int]] = {}
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        size = lengths[index]
        space = next((s for s in range(size, length_tokens + 1) if by_space.get(s)), None)
        if space is None:
            space = length_tokens
            bins.append([])
            by_space.setdefault(space, []).append(len(bins) - 1)
        chosen = by_space[space].pop()
        bins[chosen].append(index)
        by_space.setdefault(space - size, []).append(chosen)
    return PackedRows(examples, [sorted(row) for row in sorted(bins, key=min)])


def pad_packed(rows: Sequence[Mapping[str, Sequence[int]]], pad_token_id: int) -> Batch:
    """Pad packed rows to the longest; the padding is one more example that nothing looks at.

    Returns:
        ``input_ids``, ``labels`` and ``position_ids``, each of shape (batch, seq); no attention
        mask, since transformers reads the borders off the positions.
    """
    length = max(len(row["input_ids"]) for row in rows)
    batch: dict[str, list[list[int]]] = {"input_ids": [], "labels": [], "position_ids": []}
    for row in rows:
        missing = length - len(row["input_ids"])
        batch["input_ids"].append([*row["input_ids"], *[pad_token_id] * missing])
        batch["labels"].append([*row["labels"], *[IGNORED] * missing])
        batch["position_ids"].append([*row["position_ids"], *range(missing)])
    return {name: torch.tensor(values, dtype=torch.long) for name, values in batch.items()}


def batch_order(lengths: Sequence[int], batch_size: int, seed: int) -> Iterator[list[int]]:
    """Yield batches of indices without end, each epoch in a new order.

    Examples of similar length are put together (shuffled, sorted within a window of sixteen
    batches, the batches shuffled again), so that little of a batch is padding. The order is a
    function of the seed alone, which is what lets a killed run resume exactly.
    """
    epoch = 0
    while True:
        rng = random.Random(f"{seed}-{epoch}")
        order = list(range(len(lengths)))
        rng.shuffle(order)
        window = batch_size * BUCKET_BATCHES
        batches = []
        for start in range(0, len(order), window):
            chunk = sorted(order[start : start + window], key=lambda i: lengths[i])
            batches += [chunk[i : i + batch_size] for i in range(0, len(chunk), batch_size)]
        rng.shuffle(batches)
        yield from batches
        epoch += 1


def count_targets(batch: Mapping[str, Tensor]) -> int:
    """Return how many tokens, or class labels, of a batch the loss is a mean over."""
    labels = batch["labels"]
    return int((labels[:, 1:] != IGNORED).sum()) if labels.ndim == 2 else len(labels)
