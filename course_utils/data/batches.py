"""Examples put together: padded, packed, ordered, counted."""

import random
from collections.abc import Iterator, Mapping, Sequence
from numbers import Integral

import torch
from torch import Tensor

from course_utils.data.encode import IGNORED
from course_utils.validation import check_as_many, check_count, check_flag, check_list, shown

BUCKET_BATCHES = 16
Example = Mapping[str, Sequence[int] | int]
Batch = dict[str, Tensor]


def pad_examples(examples: Sequence[Example], pad_token_id: int) -> Batch:
    """Pad examples on the right to the longest of them.

    Returns:
        ``input_ids`` and ``attention_mask`` of shape (batch, seq), and ``labels`` of shape
        (batch, seq) with -100 on the padding, or of shape (batch,) for one class a text.

    Raises:
        ValueError: If there is no example, one is empty, its labels are not as many as its tokens,
            or a token or a label is no whole number.
    """
    check_as_many(examples=examples)
    check_count("pad_token_id", pad_token_id, at_least=0)
    sizes = [_tokens_of(example, i) for i, example in enumerate(examples)]
    mask = [[1] * size + [0] * (max(sizes) - size) for size in sizes]
    labels = [example["labels"] for example in examples]
    n_classes = sum(isinstance(label, Integral) for label in labels)
    if 0 < n_classes < len(labels):
        raise ValueError("some examples have one class and others a label a token")
    return {
        "input_ids": _padded([e["input_ids"] for e in examples], pad_token_id, sizes),
        "attention_mask": torch.tensor(mask),
        "labels": _whole(labels) if n_classes else _padded(labels, IGNORED, sizes),
    }


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
        for i in self.groups[index]:
            example = self.examples[i]
            if _tokens_of(example, i) != _length(example["labels"]):
                raise ValueError(f"example {i} must have one label a token, to be packed")
            row["input_ids"] += example["input_ids"]
            row["labels"] += [IGNORED, *example["labels"][1:]]
            row["position_ids"] += range(len(example["input_ids"]))
        return row


def lengths_of(examples: Sequence[Example]) -> list[int]:
    """Return the length of each example in tokens.

    Raises:
        ValueError: If an example has no ``input_ids``.
    """
    lengths = getattr(examples, "lengths", None)
    if lengths is not None:
        return lengths
    check_list("examples", examples)
    return [_length(_field(example, "input_ids", i)) for i, example in enumerate(examples)]


def pack_examples(examples: Sequence[Example], length_tokens: int) -> PackedRows:
    """Put several examples into each row of ``length_tokens``, first fit, longest first.

    Positions start again at every example, which is how the attention mask keeps examples from
    seeing one another; the first token of each is no target, so none predicts its neighbour.
    Rows come back in the order of their first example, so that packing does not sort by length.

    Raises:
        ValueError: If there is no example, one is empty, or one is longer than a row.
    """
    check_as_many(examples=examples)
    check_count("length_tokens", length_tokens)
    lengths = lengths_of(examples)
    if max(lengths) > length_tokens:
        raise ValueError(
            f"an example of {max(lengths)} tokens does not fit length_tokens={length_tokens}"
        )
    if 0 in lengths:
        raise ValueError(f"example {lengths.index(0)} is empty: it must have at least 1 token")
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

    Raises:
        ValueError: If there is no row, or a token or a label is no whole number.
    """
    check_as_many(rows=rows)
    check_count("pad_token_id", pad_token_id, at_least=0)
    sizes = [_tokens_of(row, i) for i, row in enumerate(rows)]
    positions = [_field(row, "position_ids", i) for i, row in enumerate(rows)]
    return {
        "input_ids": _padded([row["input_ids"] for row in rows], pad_token_id, sizes),
        "labels": _padded([row["labels"] for row in rows], IGNORED, sizes),
        "position_ids": _whole(
            [[*row, *range(max(sizes) - n)] for row, n in zip(positions, sizes, strict=True)]
        ),
    }


def batch_order(lengths: Sequence[int], batch_size: int, seed: int) -> Iterator[list[int]]:
    """Yield batches of indices without end, each epoch in a new order.

    Examples of similar length are put together (shuffled, sorted within a window of sixteen
    batches, the batches shuffled again), so that little of a batch is padding. The order is a
    function of the seed alone, which is what lets a killed run resume exactly.

    Raises:
        ValueError: If there is no example, or a number is out of range.
    """
    check_as_many(lengths=lengths)
    check_count("batch_size", batch_size)
    check_count("seed", seed, at_least=0)
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


def count_targets(batch: Mapping[str, Tensor], *, is_shifted: bool = True) -> int:
    """Return how many tokens, or class labels, of a batch the loss is a mean over.

    Args:
        batch: A padded batch.
        is_shifted: Whether each token's label is predicted at the token before, as by a language
            model, so that the first has none; a token classifier predicts it where it stands.
    """
    check_flag("is_shifted", is_shifted)
    labels = batch["labels"]
    if labels.ndim == 2 and is_shifted:
        labels = labels[:, 1:]
    return int((labels != IGNORED).sum())


def _tokens_of(example: Example, i: int) -> int:
    """Return how many tokens an example has, after a look at its labels."""
    size = _length(_field(example, "input_ids", i))
    labels = _field(example, "labels", i)
    if not size:
        ids = shown(example["input_ids"])
        raise ValueError(f"example {i} has input_ids={ids}: it must have at least 1 token")
    if not isinstance(labels, Integral) and _length(labels) != size:
        raise ValueError(
            f"example {i} has labels={shown(labels)} for {size} tokens: it must have one a token, "
            "or one class"
        )
    return size


def _field(example: Example, name: str, i: int) -> Sequence[int] | int:
    if not isinstance(example, Mapping) or name not in example:
        raise ValueError(f"example {i} is {shown(example)}: it must have {name}")
    return example[name]


def _length(values: object) -> int:
    """Return how many values there are; what is no list of them has none."""
    is_list = hasattr(values, "__len__") and not isinstance(values, str | bytes | Mapping)
    return len(values) if is_list else 0


def _padded(rows: Sequence[Sequence[int]], value: int, sizes: Sequence[int]) -> Tensor:
    longest = max(sizes)
    return _whole([[*row, *[value] * (longest - n)] for row, n in zip(rows, sizes, strict=True)])


def _whole(values: list) -> Tensor:
    """Return whole numbers as a tensor; PyTorch would cut fractions off."""
    try:
        tensor = torch.tensor(values)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise ValueError(f"tokens and labels must be whole numbers: {shown(values)}") from error
    if tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool:
        raise ValueError(f"tokens and labels must be whole numbers: {shown(values)}")
    return tensor.long()
