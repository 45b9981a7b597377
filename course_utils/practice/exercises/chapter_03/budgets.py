"""What quantisation costs and buys: bits a weight, and the largest base that fits a card."""

import math
from collections.abc import Callable

from course_utils.practice.exercises.check import Check, Wrong
from course_utils.practice.exercises.compare import expect_close


def _verify_bits(bits_per_weight: Callable[[int, int], float]) -> None:
    for b, s in ((32, 16), (64, 256), (128, 64)):
        expect_close(
            bits_per_weight(b, s),
            4 + 8 / b + 32 / (b * s),
            rel=1e-6,
            what=f"for blocks of {b} and {s} the number of bits",
            slips=[
                (
                    4 + 32 / b,
                    "that is one float32 for each block, single quantisation; here the "
                    "scales take 8 bits each, and only groups of them a float32",
                ),
                (
                    4 + 8 / b,
                    "the 8-bit scales have a scale of their own, a float32 for each group "
                    "of them: it is small, but it is stored",
                ),
                (
                    4 + 32 / b + 8 / (b * s),
                    "the two are swapped: the many scales take 8 bits, the "
                    "few second-level scales 32",
                ),
                (
                    4 + 8 / b + 32 / s,
                    "a second-level scale is shared by all weights of all its "
                    "blocks, not by one block",
                ),
                (8 / b + 32 / (b * s), "these are the scales alone; each weight has its code, too"),
                (4 + 1 / b + 4 / (b * s), "the scales are counted in bytes, the codes in bits"),
                (4, "the codes alone take 4 bits; their scales are stored as well"),
            ],
        )


def _bits_per_weight(block_size: int, scales_block_size: int) -> float:
    return 4 + 8 / block_size + 32 / (block_size * scales_block_size)


BITS = Check(
    name="03-bits",
    verify=_verify_bits,
    solution=_bits_per_weight,
    rejects=(
        (lambda b, s: 4 + 8 / b, "a scale of their own"),
        (lambda b, s: 4 + 32 / b, "single quantisation"),
        (lambda b, s: 4 + 32 / b + 8 / (b * s), "swapped"),
        (lambda b, s: 4 + 8 / b + 32 / s, "all its blocks"),
        (lambda b, s: 8 / b + 32 / (b * s), "scales alone"),
        (lambda b, s: 4 + 1 / b + 4 / (b * s), "in bytes"),
        (lambda b, s: 4, "codes alone"),
    ),
    insight="With blocks of 64 and 256, 4.127: all scales take 0.127, float32 ones would take 0.5.",
)


def _verify_fits(largest_base: Callable[[float, float], int]) -> None:
    for card_gb, bits in ((48, 4.127), (16, 16), (80, 4.5)):
        n, exact = largest_base(card_gb, bits), 0.8 * card_gb * 8 / bits
        what = f"for {card_gb} GB at {bits} bits your answer"
        whole = math.floor(exact)
        if isinstance(n, float | int) and not isinstance(n, bool) and n != whole:
            if math.isclose(n, exact, rel_tol=1e-6):
                raise Wrong(f"{what} is {n:g}: give whole billions, rounded down")
            if n == whole + 1:
                raise Wrong(f"{what} is {n}, and that does not fit: round down")
        expect_close(
            n,
            whole,
            rel=1e-9,
            what=what,
            slips=[
                (
                    math.floor(exact / 8),
                    "bits were taken for bytes: a byte has 8 bits, so eight "
                    "times as many weights fit",
                ),
                (math.floor(exact / 64), "divided by 8 where a byte's 8 bits should multiply"),
                (
                    math.floor(exact / 0.8),
                    "that fills the card to the brim: a fifth of it is to stay free",
                ),
                (
                    math.floor(exact / 0.8 / 1.2),
                    "20 % kept free leaves 0.8 of the card; dividing by 1.2 leaves 0.83 of it",
                ),
                (math.floor(exact / 4), "that is the fifth which is to stay free"),
                (math.floor(exact * 2**30 / 1e9), "that is with GiB (2^30 bytes); a GB is 10^9"),
            ],
        )


def _largest_base(card_gb: float, bits: float) -> int:
    free_for_weights_bytes = 0.8 * card_gb * 1e9
    return int(free_for_weights_bytes * 8 / bits / 1e9)


FITS = Check(
    name="03-fits",
    verify=_verify_fits,
    solution=_largest_base,
    rejects=(
        (lambda card_gb, bits: int(0.8 * card_gb / bits), "bits were taken for bytes"),
        (lambda card_gb, bits: int(card_gb * 8 / bits), "stay free"),
        (lambda card_gb, bits: int(card_gb * 8 / bits / 1.2), "dividing by 1.2"),
        (lambda card_gb, bits: int(0.8 * card_gb * 2**30 * 8 / bits / 1e9), "a GB is 10^9"),
        (lambda card_gb, bits: 0.8 * card_gb * 8 / bits, "whole billions"),
        (lambda card_gb, bits: math.ceil(0.8 * card_gb * 8 / bits), "round down"),
        (lambda card_gb, bits: int(0.8 * card_gb * 8 / bits) * 10**9, "10^9 times too large"),
        (lambda card_gb, bits: 65, "too small"),
    ),
    insight="On 48 GB a base of 74 billion leaves a fifth free: 65B fits, and 137B is far from it.",
)
