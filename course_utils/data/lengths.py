"""How long examples are, and what padding and packing make of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from statistics import fmean, median

from course_utils.data.batches import Example, batch_order, lengths_of, pack_examples
from course_utils.validation import check_count


@dataclass(frozen=True, kw_only=True)
class LengthStatistics:
    """Lengths of examples in tokens.

    Args:
        count: Examples.
        min: Shortest.
        median: Half are at most this long.
        mean: Mean length.
        p95: 95 of 100 are at most this long.
        max: Longest.
        total: Tokens in all.
        padding_share: Share of an epoch's batches that is padding, 0 to 1.
        packed_rows: Rows that packing needs in place of ``count``.
    """

    count: int
    min: int
    median: float
    mean: float
    p95: int
    max: int
    total: int
    padding_share: float
    packed_rows: int


def length_statistics(
    examples: Sequence[Example], *, batch_size: int = 16, row_tokens: int | None = None
) -> LengthStatistics:
    """Measure encoded examples before choosing a batch size and a length.

    Args:
        examples: Encoded examples.
        batch_size: Examples that are padded to the longest of them, in training's own order, which
            puts similar lengths together.
        row_tokens: Length of packed rows; the longest example by default.

    Raises:
        ValueError: If there are no tokens, ``batch_size`` or ``row_tokens`` is below 1, or an
            example is longer than a packed row.
    """
    check_count("batch_size", batch_size)
    check_count("row_tokens", row_tokens, is_none_ok=True)
    lengths = lengths_of(examples)
    if not sum(lengths):
        raise ValueError(f"no tokens in {len(lengths)} examples: there is nothing to measure")
    total, ordered = sum(lengths), sorted(lengths)
    epoch = islice(batch_order(lengths, batch_size, seed=0), -(-len(lengths) // batch_size))
    padded = sum(len(batch) * max(lengths[i] for i in batch) for batch in epoch)
    return LengthStatistics(
        count=len(lengths),
        min=ordered[0],
        median=median(ordered),
        mean=fmean(ordered),
        p95=ordered[-(-95 * len(ordered) // 100) - 1],
        max=ordered[-1],
        total=total,
        padding_share=1 - total / padded,
        packed_rows=len(pack_examples(examples, row_tokens or ordered[-1])),
    )
