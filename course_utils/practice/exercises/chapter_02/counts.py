"""What an adapter of a rank trains, in numbers."""

from collections.abc import Callable

from course_utils.practice.exercises.check import Check
from course_utils.practice.exercises.compare import expect_close
from course_utils.practice.exercises.material import linear_shapes


def _verify_count(count: Callable[[int], int]) -> None:
    full = 4 * 256 * 256 + 3 * 256 * 512
    for rank in (8, 1, 16):
        expected = rank * sum(d_in + d_out for d_out, d_in in linear_shapes())
        slips = (
            # Attention alone is 4 (256 + 256), and all rows of A 6 x 256 + 512: the same number.
            (
                6 * rank * 2048,
                "that is the attention alone, or, equal by chance, every A: you left "
                "out gate, up and down, or forgot B, d_out x r",
            ),
            (
                6 * rank * 2304,
                "that is the feed-forward part alone, or, equal by chance, every B: "
                "you left out the attention, or forgot A, r x d_in",
            ),
            (6 * full, "that is the full matrices; A and B hold r (d_in + d_out), not d_in d_out"),
            (6 * rank * full, "a layer's A and B hold r (d_in + d_out) numbers, not r d_in d_out"),
            (expected // 6, "that is one block; there are six"),
            (expected // rank, "the rank is missing: every unit of it costs d_in + d_out"),
        )
        what = f"the count for rank {rank}"
        expect_close(count(rank), expected, what=what, rel=1e-9, slips=slips)


def _count(rank: int) -> int:
    attention = 4 * (256 + 256)
    feed_forward = 3 * (256 + 512)
    return 6 * rank * (attention + feed_forward)


COUNT = Check(
    name="02-count",
    verify=_verify_count,
    solution=_count,
    rejects=(
        (lambda rank: 6 * rank * 4 * (256 + 256), "attention alone"),
        (lambda rank: 6 * (4 * 256 * 256 + 3 * 256 * 512), "full matrices"),
        (lambda rank: 6 * rank * (4 * 256 * 256 + 3 * 256 * 512), "not r d_in d_out"),
        (lambda rank: 6 * rank * (4 * 256 + 2 * 256 + 512), "forgot B"),
        (lambda rank: 6 * rank * (4 * 256 + 2 * 512 + 256), "forgot A"),
        (lambda rank: _count(rank) // 6, "one block"),
        (lambda rank: _count(1), "rank is missing"),
        (lambda rank: _count(rank) + 3072, "too large"),
    ),
    insight="26,112 numbers for each unit of rank, in the place of four million: a sum of sides "
    "instead of a product.",
)
