"""What bottleneck adapters train, and the size at which they train what LoRA does."""

import math
from collections.abc import Callable, Sequence

from torch import Tensor

from course_utils.practice.exercises.check import Check, Wrong
from course_utils.practice.exercises.compare import Slips, expect_close

_PLACEMENTS = ("Houlsby", "Pfeiffer")


def _verify_count(count: Callable[[int, int, int], Sequence[int]]) -> None:
    for n_layers, d_model, m in ((6, 256, 16), (12, 768, 64), (4, 100, 3)):
        found = count(n_layers, d_model, m)
        if not isinstance(found, tuple | list | Tensor) or len(found) != 2:
            raise Wrong("return two numbers: Houlsby's placement first, Pfeiffer's second")
        adapter = 2 * d_model * m + d_model + m
        if list(found) == [n_layers * adapter, 2 * n_layers * adapter]:
            raise Wrong("the two are swapped: Houlsby's placement has more adapters, and is first")
        for value, name, n_adapters in zip(found, _PLACEMENTS, (2, 1), strict=True):
            what = f"{name}'s number for {n_layers} layers, d_model={d_model} and m={m}"
            slips = _count_slips(n_layers, n_adapters, d_model, m)
            expect_close(value, n_layers * n_adapters * adapter, what=what, rel=1e-9, slips=slips)


def _count_slips(n_layers: int, n_adapters: int, d: int, m: int) -> Slips:
    n, adapter = n_layers * n_adapters, 2 * d * m + d + m
    placement = (
        (
            n_layers * adapter,
            "Houlsby puts two adapters into a layer, behind the attention and "
            "behind the feed-forward part; you counted one",
        )
        if n_adapters == 2
        else (
            2 * n_layers * adapter,
            "Pfeiffer puts one adapter into a layer, behind the feed-forward part; you counted two",
        )
    )
    return (
        placement,
        (n * 2 * d * m, "the biases are missing: m numbers in the bottleneck and d behind it"),
        (n * (2 * d * m + m), "the bias of the up-projection, d numbers, is missing"),
        (n * (2 * d * m + d), "the bias of the down-projection, m numbers, is missing"),
        (
            n * (2 * d * m + 2 * d),
            "the bias of the down-projection has m numbers, as many as it has outputs",
        ),
        (n * (d * m + d + m), "there are two matrices, one down and one up, of d m numbers each"),
        (n * (d * m + m), "that is the down-projection alone"),
        (n * (d * m + d), "that is the up-projection alone"),
        (
            n * (d * d + d),
            "that is a square layer; the adapter goes through m numbers: d to m and back to d",
        ),
        (n_adapters * adapter, f"that is one layer; there are {n_layers}"),
    )


def _count(n_layers: int, d_model: int, m: int) -> tuple[int, int]:
    adapter = 2 * d_model * m + d_model + m
    return 2 * n_layers * adapter, n_layers * adapter


COUNT = Check(
    name="05-count",
    verify=_verify_count,
    solution=_count,
    rejects=(
        (lambda n, d, m: (4 * n * d * m, 2 * n * d * m), "biases are missing"),
        (lambda n, d, m: (_count(n, d, m)[1],) * 2, "you counted one"),
        (lambda n, d, m: (_count(n, d, m)[0],) * 2, "you counted two"),
        (lambda n, d, m: (2 * n * (d * d + d), n * (d * d + d)), "a square layer"),
        (lambda n, d, m: (2 * n * (2 * d * m + m), 0), "bias of the up-projection"),
        (lambda n, d, m: (2 * n * (2 * d * m + d), 0), "bias of the down-projection, m"),
        (lambda n, d, m: (2 * n * (2 * d * m + 2 * d), 0), "as many as it has outputs"),
        (lambda n, d, m: (2 * n * (d * m + d + m), 0), "two matrices"),
        (lambda n, d, m: (2 * n * (d * m + m), 0), "down-projection alone"),
        (lambda n, d, m: (2 * n * (d * m + d), 0), "up-projection alone"),
        (lambda n, d, m: _count(1, d, m), "that is one layer"),
        (lambda n, d, m: _count(n, d, m)[::-1], "swapped"),
        (lambda n, d, m: sum(_count(n, d, m)), "two numbers"),
        (lambda n, d, m: (*_count(n, d, m), 0), "two numbers"),
    ),
    insight="2 d m + d + m an adapter: at d = 256 and m = 16 that is 8,464, in six layers 101,568 "
    "for Houlsby and 50,784 for Pfeiffer.",
)

# Rank, d_model, d_ff, d_kv. The first ranks are high so that all named mistakes can be told apart;
# in the second block a remainder of 0.99 tempts to round; the last is the embedded model.
_BLOCKS = ((96, 256, 768, 64), (4, 2048, 8192, 512), (8, 256, 512, 256))
_WRONG_SUMS = (
    (
        lambda d, f, k: 4 * 2 * d + 3 * (d + f),
        "keys and values come from narrower layers: d_model to d_kv, not to d_model",
    ),
    (
        lambda d, f, k: 4 * d + 2 * (d + k) + 2 * (d + f),
        "the feed-forward part of a Llama block has three linear layers: gate, up and down",
    ),
    (
        lambda d, f, k: 4 * d + 2 * (d + k),
        "LoRA sits on all seven linear layers; you counted the attention's four",
    ),
    (
        lambda d, f, k: 3 * (d + f),
        "LoRA sits on all seven linear layers; you counted the three of the feed-forward part",
    ),
    (
        lambda d, f, k: 2 * d + 2 * (d + k) + 3 * (d + f),
        "the attention has four linear layers; the output projection is one of them",
    ),
    (lambda d, f, k: 6 * d + f, "that counts LoRA's A alone, r x d_in; B is d_out x r"),
    (
        lambda d, f, k: 2 * d + 2 * k + 2 * f + d,
        "that counts LoRA's B alone, d_out x r; A is r x d_in",
    ),
    (
        lambda d, f, k: 2 * d * d + 2 * d * k + 3 * d * f,
        "LoRA trains r (d_in + d_out) numbers for a layer, not r d_in d_out",
    ),
)


def _verify_match(size: Callable[[int, int, int, int], int]) -> None:
    for rank, d_model, d_ff, d_kv in _BLOCKS:
        lora = rank * (4 * d_model + 2 * (d_model + d_kv) + 3 * (d_model + d_ff))
        exact = (lora - 2 * d_model) / (2 * (2 * d_model + 1))
        found = size(rank, d_model, d_ff, d_kv)
        what = f"for rank {rank}, d_model={d_model}, d_ff={d_ff} and d_kv={d_kv} the size"
        if isinstance(found, float) and math.isclose(found, exact, rel_tol=1e-9):
            raise Wrong(f"{what} is {found:.3f}; it must be a whole number")
        whole = math.floor(exact)
        trained = 2 * (2 * d_model * (whole + 1) + d_model + whole + 1)
        slips = (
            (
                whole + 1,
                f"{what} is {whole + 1}: {trained:,} numbers a block, and LoRA trains only "
                f"{lora:,}; round down, and take off the d biases of each up-projection first",
            ),
            (lora // (4 * d_model), "the biases train, too: an adapter has 2 d m + d + m numbers"),
            (
                (lora - d_model) // (2 * d_model + 1),
                "a block has two adapters, behind the "
                "attention and behind the feed-forward part; you counted one",
            ),
            (
                lora // (2 * d_model),
                "a block has two adapters, and they have biases; you counted one without",
            ),
            *(
                (_largest(rank * total(d_model, d_ff, d_kv), d_model), sentence)
                for total, sentence in _WRONG_SUMS
            ),
        )
        expect_close(found, whole, what=what, rel=1e-9, slips=slips)


def _largest(budget: int, d_model: int) -> int:
    """Return the largest m at which two adapters train no more than ``budget`` numbers."""
    return (budget - 2 * d_model) // (2 * (2 * d_model + 1))


def _size(rank: int, d_model: int, d_ff: int, d_kv: int) -> int:
    attention = 2 * (d_model + d_model) + 2 * (d_model + d_kv)
    feed_forward = 3 * (d_model + d_ff)
    return _largest(rank * (attention + feed_forward), d_model)


def _wrong_size(total: Callable[[int, int, int], int]) -> Callable[..., int]:
    return lambda rank, d, f, k: _largest(rank * total(d, f, k), d)


def _lora(rank: int, d_model: int, d_ff: int, d_kv: int) -> int:
    return rank * (9 * d_model + 2 * d_kv + 3 * d_ff)


MATCH = Check(
    name="05-match",
    verify=_verify_match,
    solution=_size,
    rejects=(
        *((_wrong_size(total), sentence) for total, sentence in _WRONG_SUMS[1:]),
        (lambda r, d, f, k: _size(r, d, f, d), "narrower layers"),
        (lambda r, d, f, k: _size(r, d, f, k) + 1, "round down"),
        (lambda r, d, f, k: round((_lora(r, d, f, k) - 2 * d) / (4 * d + 2)), "round down"),
        (lambda r, d, f, k: (_lora(r, d, f, k) - 2 * d) / (4 * d + 2), "whole number"),
        (lambda r, d, f, k: _lora(r, d, f, k) // (4 * d), "the biases train, too"),
        (lambda r, d, f, k: (_lora(r, d, f, k) - d) // (2 * d + 1), "you counted one"),
        (lambda r, d, f, k: _lora(r, d, f, k) // (2 * d), "one without"),
        (lambda r, d, f, k: _lora(r, d, f, k) // (4 * d + 2), "take off the d biases"),
        (lambda r, d, f, k: _size(r, d, f, k) - 1, "too small"),
    ),
    insight="On the embedded model rank 8 trains 34,816 numbers a block and m = 33 trains 34,370: "
    "m = 34 would be past it.",
)
