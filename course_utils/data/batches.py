"""Examples put together: padded, packed, ordered, counted."""

import random
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from course_utils.data.encode import IGNORED

BUCKET_BATCHES = 16
Example = Mapping[str, Sequence[int] | int]
Batch = dict[str, Tensor]


def pad_examples(examples: Sequence[Example], pad_token_id: int) -> Batch:
    """Pad examples on the right to the longest of them.

    Returns:
        ``input_ids`` and ``attention_mask`` of shape (batch, seq), and ``labels`` of shape
        (batch, seq) with -100 on the padding, or of shape (batch,) for one class a text.
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
